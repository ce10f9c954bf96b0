  // The gene box: maps by the expression of one gene, and beside them its values in each type
  async function unpacked(k) {
    const packed = new Blob([bytes(data.genes.data[k])]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    const all = new Uint8Array(await new Response(packed).arrayBuffer());
    return data.genes.averaged[k] ? averaged(all) : exact(all);
  }

  // levels: a level a cell; shares: of the cells of each kind at each level
  function exact(all) {
    const levels = new Uint8Array(n), width = data.genes.levels + 1;
    const shares = Array.from({length: data.genes.kinds}, () => new Float64Array(width));
    let at = -1;
    for (const byte of all) {
      at += byte >> 4;
      if (byte & 15) levels[++at] = byte & 15;
    }
    for (let i = 0; i < n; i++) if (kind[i] !== NONE) shares[kind[i]][levels[i]]++;
    return {levels, shares};
  }
  function averaged(all) {
    const levels = new Uint8Array(n), width = data.genes.levels + 1, sizes = new Uint8Array(bytes(data.genes.runs));
    const shares = Array.from({length: data.genes.kinds}, (_, k) => Array.from(all.slice(k * width, (k + 1) * width)));
    let at = 0;
    sizes.forEach((size, run) => { levels.fill(all[data.genes.kinds * width + run], at, at + size); at += size; });
    return {levels, shares};
  }

  const by_group = !data.called && groups, kind = by_group ? group : type;

  // how many of the cells that express it do so how strongly, as wide as high
  function violin(share, colour) {
    const wide = 90, tall = 17, most = Math.max(...share.slice(1), 1e-9), steps = share.length - 1;
    const points = [];
    for (let k = 1; k <= steps; k++) points.push([k / steps * wide, share[k] / most * tall / 2]);
    const line = [[wide / steps / 2, 0], ...points, [wide, 0]];
    const edge = (list, sign) => list.map(([a, b]) => a.toFixed(1) + " " + (tall / 2 + sign * b).toFixed(1)).join("L");
    const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    made.setAttribute("width", wide);
    made.setAttribute("height", tall);
    made.setAttribute("aria-hidden", "true");
    made.innerHTML = '<path d="M0 ' + tall / 2 + "H" + wide + '" stroke="#dde2e8"/>';
    const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
    shape.setAttribute("d", "M" + edge(line, -1) + "L" + edge(line.reverse(), 1) + "Z");
    shape.setAttribute("fill", colour);
    shape.setAttribute("stroke", "rgba(0,0,0,.35)");
    shape.setAttribute("stroke-width", ".6");
    if (Math.max(...share.slice(1)) > 0) made.append(shape);
    return made;
  }

  function bars() {
    const name = k => by_group ? "group " + groups.numbers[k] + called(k) : (k + 1) + " " + data.names[k];
    const rows = gene.shares.map((share, k) => {
      const all = share.reduce((a, b) => a + b, 0);
      const sum = share.reduce((a, b, level) => a + b * level, 0) / data.genes.levels * gene.top;
      return {k, share: Array.from(share), all, mean: sum / all, on: 1 - share[0] / all};
    }).filter(row => row.all > 0).sort((a, b) => b.mean - a.mean || a.k - b.k);
    const colours = by_group ? groups.colours : data.colours;
    const lines = rows.map(row => {
      const head = element("th", brief(name(row.k), 34));
      head.scope = "row";
      head.title = brief(name(row.k), 300);
      const cells = [element("td", undefined, [violin(row.share, colours[row.k])]), element("td", row.mean.toFixed(2)),
        element("td", row.on > 0 && row.on < 0.01 ? "< 1 %" : (100 * row.on).toFixed(0) + " %")];
      cells[1].className = cells[2].className = "num";
      return element("tr", undefined, [head, ...cells]);
    });
    const heads = [by_group ? "Group" : "Type", "Where expressed", "Mean", "Cells"].map((word, k) => {
      const head = element("th", word);
      head.scope = "col";
      if (k > 1) head.className = "num";
      return head;
    });
    heads[1].title = "How strongly, from 0 to " + gene.top.toFixed(1) + ", among the cells that express it";
    heads[3].title = "Share of cells that express it";
    get("gene-bars").replaceChildren(element("table", undefined, [
      element("caption", gene.name + (by_group ? " by group" : " by type")),
      element("thead", undefined, [element("tr", undefined, heads)]), element("tbody", undefined, lines)]));
  }

  let wanted = 0;
  async function show_gene(text) {
    const name = text.trim(), mine = ++wanted, names = data.genes.names, said = get("gene-said");
    let k = names.indexOf(name);
    if (k < 0) k = names.findIndex(other => other.toLowerCase() === name.toLowerCase());
    if (name !== "" && k < 0) {
      said.textContent = brief(name, 40) + " is none of the " + count(names.length, "gene") + " on this page";
      return;
    }
    let found = null;
    if (k >= 0) try {
      found = Object.assign({name: names[k], highest: data.genes.highest[k], top: data.genes.top[k],
        averaged: data.genes.averaged[k]}, await unpacked(k));
    } catch (error) {
      said.textContent = "This browser is too old to unpack genes; Chrome 103, Firefox 113, Safari 16.4 and later can. " +
        "All else on this page works.";
      return;
    }
    if (mine !== wanted) return;
    gene = found;
    get("gene").value = gene ? gene.name : "";
    said.textContent = gene && gene.averaged ? "Each cell shows the mean of up to 8 cells of its kind beside it: " +
      "exact values would not fit on this page." : "";
    get("no-gene").disabled = !gene;
    get("gene-bars").hidden = !gene;
    if (gene) bars(); else get("gene-bars").replaceChildren();
    document.querySelectorAll("button.gene").forEach(button =>
      button.setAttribute("aria-pressed", String(Boolean(gene) && button.dataset.gene === gene.name)));
    redraw();
    window.scpretrain.gene = gene ? gene.name : "";
  }

  function start_genes() {
    if (!data.genes || !get("gene")) {
      document.querySelectorAll("button.gene").forEach(button => { button.disabled = true; });
      return;
    }
    get("gene-names").append(...data.genes.names.slice().sort().map(name => {
      const option = element("option");
      option.value = name;
      return option;
    }));
    const here = new Set(data.genes.names);
    const typed = () => { if (get("gene").value.trim() !== (gene ? gene.name : "")) show_gene(get("gene").value); };
    get("gene").addEventListener("change", typed);
    get("gene").addEventListener("keydown", event => { if (event.key === "Enter") typed(); });
    get("gene").addEventListener("input", () => { if (here.has(get("gene").value)) typed(); });
    get("no-gene").addEventListener("click", () => show_gene(""));
    document.querySelectorAll("button.gene").forEach(button => {
      button.disabled = !here.has(button.dataset.gene);
      button.addEventListener("click", () => {
        show_gene(gene && gene.name === button.dataset.gene ? "" : button.dataset.gene);
        if (!button.closest("li.group")) get("by-gene").scrollIntoView();  // the map may be far from a table
      });
    });
    if (data.genes.names.length < data.genes.all) get("gene-said").textContent =
      data.genes.names.length.toLocaleString("en") + " of " + count(data.genes.all, "gene") + " fit on this page";
  }
