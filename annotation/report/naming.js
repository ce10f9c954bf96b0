  // Naming groups: what was chosen, kept in this browser, saved as a table of labels, loaded back from one
  const rows = [...document.querySelectorAll("li.group")];
  const part = (k, name) => rows[k].querySelector("." + name);
  const fresh = k => ({name: rows[k].dataset.proposed, sure: false, skip: false, same: -1});
  let chosen = rows.map((_, k) => fresh(k));

  // the name of group k once all is followed; "" for none. A circle of "same as" has no name.
  function name_of(k, depth = 0) {
    const mine = chosen[k];
    if (mine.skip || depth > rows.length) return "";
    if (mine.same >= 0) return name_of(mine.same, depth + 1);
    return mine.sure ? mine.name.trim() : "";
  }
  const called = k => { const name = groups ? name_of(k) : ""; return name ? " " + name : ""; };

  function state_of(k) {
    if (chosen[k].skip) return "left unlabelled";
    if (name_of(k)) return "named";
    if (chosen[k].same >= 0) return "waits for group " + groups.numbers[chosen[k].same];
    return chosen[k].name.trim() ? "to be confirmed" : "";
  }

  function keep() {
    try {
      localStorage.setItem(groups.key, JSON.stringify(Object.fromEntries(chosen.map((mine, k) => [groups.numbers[k],
        Object.assign({}, mine, {same: mine.same < 0 ? null : groups.numbers[mine.same]})]))));
    } catch (error) {
      get("progress").textContent += " This browser keeps nothing: save before you leave the page.";
    }
  }

  function recall() {
    let kept = null;
    try { kept = JSON.parse(localStorage.getItem(groups.key)); } catch (error) { return; }
    if (!kept || typeof kept !== "object") return;
    chosen = chosen.map((mine, k) => {
      const old = kept[groups.numbers[k]];
      if (!old || typeof old.name !== "string") return mine;
      const same = groups.numbers.indexOf(old.same);
      return {name: old.name, sure: Boolean(old.sure), skip: Boolean(old.skip), same};
    });
  }

  function show() {
    let named = 0, cells = 0, open = 0;
    chosen.forEach((mine, k) => {
      const name = name_of(k), state = state_of(k), box = part(k, "called");
      const seen = mine.same >= 0 ? name : mine.skip ? "" : mine.name;
      if (box.value !== seen) box.value = seen;
      box.disabled = mine.skip || mine.same >= 0;
      part(k, "skip").checked = mine.skip;
      part(k, "same").value = mine.same < 0 ? "" : groups.numbers[mine.same];
      part(k, "state").textContent = state;
      part(k, "confirm").hidden = state !== "to be confirmed";
      rows[k].classList.toggle("done", Boolean(name));
      rows[k].classList.toggle("open", state === "to be confirmed");
      const hint = rows[k].querySelector(".hint");
      hint.hidden = state !== "to be confirmed" || mine.name !== rows[k].dataset.proposed;
      named += Boolean(name);
      cells += name ? groups.sizes[k] : 0;
      open += state === "to be confirmed";
    });
    const all = groups.sizes.reduce((a, b) => a + b, 0);
    get("progress").textContent = named + " of " + count(rows.length, "group") + " named (" +
      cells.toLocaleString("en") + " of " + count(all, "cell") + ")." +
      (open ? " " + count(open, "proposal") + " to be confirmed." : "");
    get("confirm-all").hidden = open === 0;
    get("save").disabled = named === 0;
    redraw();  // the names stand on the map
  }

  // names to choose from: those given here, then those the page came with
  const before = groups ? [...get("used-names").options].map(option => option.value) : [];
  function offer(here) {
    const given = chosen.map((_, k) => k === here ? "" : name_of(k)).filter(Boolean);
    get("used-names").replaceChildren(...[...new Set([...given, ...before])].map(name => {
      const option = element("option");
      option.value = name;
      return option;
    }));
  }

  function change(k, values) {
    Object.assign(chosen[k], values);
    get("next").hidden = true;  // what was saved is no longer what is chosen
    show();
    keep();
  }

  // -- the file
  function labels_file() {
    const left = chosen.map((mine, k) => mine.skip ? groups.numbers[k] : null).filter(number => number !== null);
    const lines = ["# labels of groups, named on the page " + brief(data.title.replace(/[\r\n",]+/g, " "), 200)];
    if (left.length) lines.push("# left unlabelled: " + left.join(", "));
    const names = chosen.map((_, k) => name_of(k));
    if (groups.whole) {
      lines.push("cell,cell_type,group");  // the group: the second run looks whether its name fits each of its cells
      for (let i = 0; i < n; i++) {
        const name = group[i] === NONE ? "" : names[group[i]];
        if (name) lines.push([data.cells[i], name, groups.numbers[group[i]]].map(quoted).join(","));
      }
    } else {  // not all cells are on this page
      if (groups.file) lines.push("# groups: " + groups.file);
      lines.push("group,cell_type");
      names.forEach((name, k) => { if (name) lines.push(quoted(groups.numbers[k]) + "," + quoted(name)); });
    }
    return lines.join("\n") + "\n";
  }

  // records of a table as RFC 4180 has it, with a head of # lines
  function parsed(text) {
    const head = [];
    text = text.replace(/^\ufeff/, "");
    while (/^#/.test(text)) {
      const end = text.search(/\r?\n|$/);
      head.push(text.slice(0, end));
      text = text.slice(end).replace(/^\r?\n/, "");
      if (end === 0) break;
    }
    const first = text.slice(0, Math.max(0, text.search(/\r?\n|$/)));
    const mark = first.includes("\t") && !first.includes(",") ? "\t" : ",";
    const records = [];
    let record = [], field = "", inside = false;
    for (let k = 0; k < text.length; k++) {
      const c = text[k];
      if (c === "#" && !inside && !record.length && !field && /^$|[\r\n]/.test(text[k - 1] || "")) {
        while (k + 1 < text.length && !/[\r\n]/.test(text[k + 1])) k++;  // a comment among the rows
        continue;
      }
      if (inside) {
        if (c !== '"') field += c;
        else if (text[k + 1] === '"') { field += c; k++; } else inside = false;
      } else if (c === '"' && field === "") inside = true;
      else if (c === mark) { record.push(field); field = ""; }
      else if (c === "\n" || c === "\r") {
        if (c === "\r" && text[k + 1] === "\n") k++;
        record.push(field);
        if (record.length > 1 || field) records.push(record);
        record = []; field = "";
      } else field += c;
    }
    if (field || record.length) records.push([...record, field]);
    return {head, records};
  }

  function load(text) {
    const {head, records} = parsed(text), columns = (records.shift() || []).map(word => word.trim());
    const value = columns.includes("cell_type") ? columns.indexOf("cell_type") : columns.length - 1;
    const by = columns.indexOf("group");
    const key = by >= 0 && !columns.includes("cell") ? by : Math.max(0, columns.indexOf("cell"));
    if (columns.length < 2 || key === value)
      return "That file is no table of labels: it needs the columns cell,cell_type or group,cell_type.";
    const place = new Map(key === by ? groups.numbers.map((number, k) => [number, k])
      : data.cells.map((cell, i) => [cell, group[i]]));
    const votes = new Map();
    let strange = 0;
    records.forEach(record => {
      const k = place.get(record[key]), name = (record[value] || "").trim();
      if (k === undefined || k === NONE) { strange++; return; }
      if (/^(nan|na|unassigned)?$/i.test(name)) return;  // the second run takes these for no name too
      if (!votes.has(k)) votes.set(k, new Map());
      votes.get(k).set(name, (votes.get(k).get(name) || 0) + 1);
    });
    let several = 0;
    votes.forEach((names, k) => {
      const best = [...names].reduce((a, b) => b[1] > a[1] ? b : a)[0];
      several += names.size > 1;
      chosen[k] = {name: best, sure: true, skip: false, same: -1};
    });
    const left = head.map(line => /^# left unlabelled: (.*)$/.exec(line)).find(Boolean);
    if (left) left[1].split(", ").forEach(number => {
      const k = groups.numbers.indexOf(number);
      if (k >= 0 && !votes.has(k)) chosen[k] = Object.assign(fresh(k), {skip: true});
    });
    return "Loaded: " + count(votes.size, "group") + " named." +
      (several ? " " + count(several, "group") + " had several names and took the most frequent one." : "") +
      (strange ? " " + count(strange, "line") + " match nothing on this page." : "");
  }

  // -- from the map to the row and back
  function jump(k) {
    if (!rows[k]) return;
    rows[k].scrollIntoView({block: "center"});
    part(k, "called").focus({preventScroll: true});
    rows[k].classList.add("here");
    setTimeout(() => rows[k].classList.remove("here"), 1500);
  }
  function light(k) {
    if (k === lit) return;
    lit = k;
    window.scpretrain.lit = k < 0 ? null : groups.numbers[k];
    rows.forEach((row, at) => row.classList.toggle("lit", at === k));
    redraw();
  }
  const held = () => rows.indexOf(document.activeElement ? document.activeElement.closest("li.group") : null);

  function start_naming() {
    recall();
    rows.forEach((row, k) => {
      row.addEventListener("mouseenter", () => light(k));
      row.addEventListener("mouseleave", () => light(held()));
      row.addEventListener("focusin", () => { light(k); offer(k); });
      row.addEventListener("focusout", () => setTimeout(() => light(held()), 0));
      part(k, "called").addEventListener("input", event => change(k, {name: event.target.value, sure: true}));
      part(k, "called").addEventListener("keydown", event => {
        if (event.key !== "Enter") return;
        event.preventDefault();  // else the button that is reached is pressed too
        change(k, {sure: true});
        const after = [...rows.keys()].map(step => (k + 1 + step) % rows.length);
        const next = after.find(other => !chosen[other].skip && chosen[other].same < 0 && !name_of(other));
        if (next === undefined) get("save").focus(); else jump(next);
      });
      part(k, "confirm").addEventListener("click", () => { change(k, {sure: true}); part(k, "called").focus(); });
      part(k, "skip").addEventListener("change", event => change(k, {skip: event.target.checked, same: -1}));
      part(k, "same").addEventListener("change", event => change(k, {skip: false,
        same: groups.numbers.indexOf(event.target.value)}));
    });
    get("confirm-all").addEventListener("click", () => {
      chosen.forEach((mine, k) => { if (state_of(k) === "to be confirmed") mine.sure = true; });
      change(0, {});
    });
    get("save").addEventListener("click", () => {
      download(groups.saveAs, labels_file(), "text/csv");
      get("saved").textContent = groups.saveAs + " is in your browser's downloads; move it to where you run the next " +
        "command:";
      get("next").hidden = false;
      const none = get("command").textContent === "";
      get("command").hidden = get("copy").hidden = none;
      if (none) get("saved").textContent = groups.saveAs + " is in your browser's downloads.";
    });
    get("copy").addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(get("command").textContent); }
      catch (error) {
        getSelection().selectAllChildren(get("command"));
        document.execCommand("copy");
      }
      get("copy").textContent = "Copied";
      setTimeout(() => { get("copy").textContent = "Copy the command"; }, 2000);
    });
    get("load").addEventListener("change", async event => {
      const given = event.target.files[0];
      event.target.value = "";
      if (!given) return;
      const said = load(await given.text().catch(() => ""));
      change(0, {});
      get("progress").textContent = said + " " + get("progress").textContent;
    });
    get("forget").addEventListener("click", () => {
      if (!get("forget").classList.toggle("sure")) {
        chosen = rows.map((_, k) => fresh(k));
        change(0, {});
      }
      const asked = get("forget").classList.contains("sure");
      get("forget").textContent = asked ? "Click again to clear all names" : "Start again";
    });
    get("forget").addEventListener("blur", () => {
      get("forget").classList.remove("sure");
      get("forget").textContent = "Start again";
    });
    show();
  }
