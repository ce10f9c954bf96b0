  // The gene box: maps and bars by the expression of one gene
  async function levels_of(k) {
    const packed = new Blob([bytes(data.genes.data[k])]).stream().pipeThrough(new DecompressionStream("deflate"));
    const content = await new Response(packed).arrayBuffer(), all = new Uint8Array(content);
    const on = new DataView(content).getUint32(0, true), from = all.length - on;
    const out = new Uint8Array(n);
    let at = -1, found = 0;
    for (let k = 4; k < from; k++) {
      at += all[k];
      if (all[k] < 255) out[alike[++at]] = all[from + found++];
    }
    return out;
  }

  // cells in the order the genes are packed in: by group, else type, equal ones as they are drawn
  const alike = (() => {
    if (!data.genes) return null;
    const code = group || type, by = new Map();
    for (let i = 0; i < n; i++) { if (!by.has(code[i])) by.set(code[i], []); by.get(code[i]).push(i); }
    return Uint32Array.from([].concat(...[...by.keys()].sort((a, b) => a - b).map(k => by.get(k))));
  })();

  function bars() {
    const by_group = !data.called && group, code = by_group ? group : type;
    const names = by_group ? groups.numbers.map((number, k) => "group " + number + called(k)) : data.names;
    const sums = new Map();
    for (let i = 0; i < n; i++) {
      if (code[i] === NONE) continue;
      if (!sums.has(code[i])) sums.set(code[i], [0, 0, 0]);
      const sum = sums.get(code[i]), value = gene.levels[i] / data.genes.levels * gene.highest;
      sum[0] += value; sum[1] += value > 0; sum[2]++;
    }
    const rows = [...sums].map(([k, s]) => ({k, mean: s[0] / s[2], on: s[1] / s[2]}));
    rows.sort((a, b) => b.mean - a.mean);
    const most = Math.max(...rows.map(row => row.mean), 1e-9), colours = by_group ? groups.colours : data.colours;
    const lines = rows.map(row => {
      const head = element("th", brief(names[row.k], 60)), bar = element("span"), fill = element("i");
      head.scope = "row";
      bar.className = "bar";
      fill.style.width = (100 * row.mean / most).toFixed(1) + "%";
      fill.style.background = colours[row.k];
      bar.append(fill);
      const cells = [element("td", undefined, [bar]), element("td", row.mean.toFixed(2)),
        element("td", (100 * row.on).toFixed(0) + " %")];
      cells[1].className = cells[2].className = "num";
      return element("tr", undefined, [head, ...cells]);
    });
    const heads = [by_group ? "Group" : "Type", "", "Mean", "Expressed by"].map((word, k) => {
      const head = element("th", word);
      head.scope = "col";
      if (k > 1) head.className = "num";
      return head;
    });
    get("gene-bars").replaceChildren(element("table", undefined, [
      element("caption", gene.name + (by_group ? " by group" : " by type")),
      element("thead", undefined, [element("tr", undefined, heads)]), element("tbody", undefined, lines)]));
  }

  let wanted = 0;
  async function show_gene(text) {
    const name = text.trim(), mine = ++wanted, names = data.genes.names;
    let k = names.indexOf(name);
    if (k < 0) k = names.findIndex(other => other.toLowerCase() === name.toLowerCase());
    if (name !== "" && k < 0) {
      get("gene-said").textContent = brief(name, 40) + " is none of the " + count(names.length, "gene") +
        " on this page";
      return;
    }
    let found = null;
    if (k >= 0) try {
      found = {name: names[k], levels: await levels_of(k), highest: data.genes.highest[k]};
    } catch (error) {
      get("gene-said").textContent = "This browser cannot unpack genes (no DecompressionStream): a newer one can.";
      return;
    }
    if (mine !== wanted) return;
    gene = found;
    get("gene").value = gene ? gene.name : "";
    get("gene-said").textContent = "";
    get("no-gene").disabled = !gene;
    get("gene-bars").hidden = !gene;
    if (gene) bars(); else get("gene-bars").replaceChildren();
    await redraw();
    window.scpretrain.gene = gene ? gene.name : "";
  }

  if (data.genes && get("gene")) {
    get("gene-names").append(...data.genes.names.slice().sort().map(name => {
      const option = element("option");
      option.value = name;
      return option;
    }));
    const typed = () => { if (get("gene").value.trim() !== (gene ? gene.name : "")) show_gene(get("gene").value); };
    get("gene").addEventListener("change", typed);
    get("gene").addEventListener("keydown", event => { if (event.key === "Enter") typed(); });
    get("gene").addEventListener("input", () => { if (data.genes.names.includes(get("gene").value)) typed(); });
    get("no-gene").addEventListener("click", () => show_gene(""));
    const here = new Set(data.genes.names);
    document.querySelectorAll("button.gene").forEach(button => {
      button.disabled = !here.has(button.dataset.gene);
      button.addEventListener("click", () =>
        show_gene(gene && gene.name === button.dataset.gene ? "" : button.dataset.gene));
    });
    if (data.genes.names.length < data.genes.all) get("gene-said").textContent =
      data.genes.names.length.toLocaleString("en") + " of " + count(data.genes.all, "gene") + " fit on this page";
  } else document.querySelectorAll("button.gene").forEach(button => { button.disabled = true; });
