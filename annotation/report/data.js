  // What the page holds, unpacked, and what all its parts share
  const data = JSON.parse(document.getElementById("data").textContent);
  const get = id => document.getElementById(id);
  const NONE = 65535, GREY = "#e3e5e8";
  function bytes(text) { return Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer; }
  const floats = text => text === null ? null : new Float32Array(bytes(text));
  const codes = text => text === null ? null : new Uint16Array(bytes(text));
  const x = floats(data.x), y = floats(data.y), confidence = floats(data.confidence);
  const type = codes(data.type), second = codes(data.second), known = codes(data.known);
  const groups = data.groups, group = groups ? codes(groups.group) : null;
  const n = data.cells.length, picked = new Set();
  const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif";
  window.scpretrain = {ready: false, points: {}, labels: {}};  // what is drawn, for those who test the page

  const brief = (text, most = 22) => text.length > most ? text.slice(0, most - 1) + "…" : text;
  const count = (k, word) => k.toLocaleString("en") + " " + word + (k === 1 ? "" : "s");

  function element(tag, text, parts) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    made.append(...(parts || []));
    return made;
  }

  // `levels` colours along the stops of a scale
  function ramp(stops, levels) {
    const part = (text, c) => parseInt(text.slice(1 + 2 * c, 3 + 2 * c), 16);
    return Array.from({length: levels}, (_, k) => {
      const at = k / (levels - 1) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
      return "#" + [0, 1, 2].map(c => Math.round(part(stops[low], c) * (low + 1 - at) +
        part(stops[low + 1], c) * (at - low)).toString(16).padStart(2, "0")).join("");
    });
  }

  // -- files: made here, handed to the browser's own downloads, sent nowhere
  const quoted = text => /[",\r\n]|^[#\s]|\s$/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
  function download(name, content, kind) {
    const link = element("a");
    link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], {type: kind}));
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
  document.querySelectorAll("[data-save]").forEach(button => button.addEventListener("click", () =>
    download(file + "_table.csv", table(), "text/csv")));
  const file = brief(data.title.replace(/[^\w.-]+/g, "_"), 60) || "scpretrain";

  function table() {
    const name = code => code === NONE ? "" : data.names[code];
    const columns = [["cell", i => data.cells[i]]];
    if (data.called) columns.push(["cell_type", i => name(type[i])],
      ["confidence", i => Number.isNaN(confidence[i]) ? "" : confidence[i].toFixed(4)]);
    if (second) columns.push(["second_choice", i => name(second[i])]);
    if (known) columns.push(["existing_label", i => name(known[i])]);
    if (group) columns.push(["group", i => group[i] === NONE ? "" : groups.numbers[group[i]]]);
    if (x) columns.push(["umap_1", i => x[i].toFixed(4)], ["umap_2", i => y[i].toFixed(4)]);
    const lines = [columns.map(column => column[0]).join()];
    for (let i = 0; i < n; i++) lines.push(columns.map(column => quoted(column[1](i))).join());
    return lines.join("\n") + "\n";
  }
