  // The maps: one view for all of them, coloured by type, confidence, group or a gene
  const panels = [], margin = {l: 22, r: 4, t: 30, b: 56};
  let gene = null;  // {name, levels: a level a cell, highest}
  let lit = -1;  // the group that is pointed at
  let redraw = () => Promise.resolve();  // of some panels, or all

  function webgl() {
    try {
      const canvas = document.createElement("canvas");
      return Boolean(canvas.getContext("webgl") || canvas.getContext("experimental-webgl"));
    } catch (error) { return false; }
  }

  // Weights of places, so that a label can tell what it would cover: a cell weighs more the fewer there are of its kind
  // or in its island
  function occupied(code, pixel, wide, high) {
    const side = 4, w = Math.ceil(wide / side) + 1, h = Math.ceil(high / side) + 1;
    const square = new Int32Array(n).fill(-1), cells = new Int32Array(w * h), island = new Int32Array(w * h);
    const sizes = [0], of_kind = new Map();
    for (let i = 0; i < n; i++) {
      const [px, py] = pixel(i);
      of_kind.set(code[i], (of_kind.get(code[i]) || 0) + 1);
      if (px < 0 || py < 0 || px >= wide || py >= high) continue;
      square[i] = Math.floor(py / side) * w + Math.floor(px / side);
      cells[square[i]]++;
    }
    for (let start = 0; start < cells.length; start++) {
      if (!cells[start] || island[start]) continue;
      const mark = sizes.length, stack = [start];
      let size = 0;
      island[start] = mark;
      while (stack.length) {
        const at = stack.pop(), row = Math.floor(at / w), column = at % w;
        size += cells[at];
        for (let r = Math.max(0, row - 2); r <= Math.min(h - 1, row + 2); r++)
          for (let c = Math.max(0, column - 2); c <= Math.min(w - 1, column + 2); c++)
            if (cells[r * w + c] && !island[r * w + c]) { island[r * w + c] = mark; stack.push(r * w + c); }
      }
      sizes.push(size);
    }
    const sums = new Float64Array((w + 1) * (h + 1));
    for (let i = 0; i < n; i++) if (square[i] >= 0)
      sums[(Math.floor(square[i] / w) + 1) * (w + 1) + square[i] % w + 1] +=
        1 / Math.max(4, Math.min(of_kind.get(code[i]), sizes[island[square[i]]]));
    for (let r = 1; r <= h; r++) for (let c = 1; c <= w; c++)
      sums[r * (w + 1) + c] += sums[(r - 1) * (w + 1) + c] + sums[r * (w + 1) + c - 1] -
        sums[(r - 1) * (w + 1) + c - 1];
    return box => {
      const c0 = Math.max(0, Math.floor(box[0] / side)), c1 = Math.min(w, Math.ceil(box[2] / side));
      const r0 = Math.max(0, Math.floor(box[1] / side)), r1 = Math.min(h, Math.ceil(box[3] / side));
      if (c1 <= c0 || r1 <= r0) return 0;
      return sums[r1 * (w + 1) + c1] - sums[r0 * (w + 1) + c1] - sums[r1 * (w + 1) + c0] + sums[r0 * (w + 1) + c0];
    };
  }

  const letters = document.createElement("canvas").getContext("2d");
  // [x, y, text] a label, in pixels -> how far each moves off its cells so that it hides no island and no other label
  function moved(labels, covered, wide, high) {
    letters.font = "12px " + font.family;
    const placed = [];
    return labels.map(label => {
      const half = letters.measureText(label[2]).width / 2 + 3, tall = 9;
      let best = null;
      const attempt = (dx, dy) => {
        const box = [label[0] + dx - half, label[1] + dy - tall, label[0] + dx + half, label[1] + dy + tall];
        const meets = placed.filter(o => o[0] < box[2] && box[0] < o[2] && o[1] < box[3] && box[1] < o[3]).length;
        const outside = box[0] < 0 || box[1] < 0 || box[2] > wide || box[3] > high;
        const cost = covered(box) + 0.0012 * Math.hypot(dx, dy) + 5 * meets + (outside ? 3 : 0);
        if (best === null || cost < best.cost - 1e-9) best = {cost, dx, dy, box};
      };
      attempt(0, 0);
      for (let far = 16; far <= 160; far += 12)
        for (let k = 0; k < 16; k++) attempt(far * Math.cos(k * Math.PI / 8) + (half - tall) *
          Math.sign(Math.round(100 * Math.cos(k * Math.PI / 8))), far * Math.sin(k * Math.PI / 8));
      placed.push(best.box);
      return [best.dx, best.dy];
    });
  }

  function maps() {
    const gl = webgl(), limit = 5000;
    const step = gl || n <= limit ? 1 : Math.ceil(n / limit);
    if (step > 1) document.querySelectorAll(".no-webgl").forEach(said => {
      said.hidden = false;
      said.textContent = "This browser draws without WebGL: the maps show 1 cell in " + step +
        " (" + Math.ceil(n / step).toLocaleString("en") + " of " + n.toLocaleString("en") + ").";
    });
    const size = Math.min(8, Math.max(2, 30 / Math.pow(n, 0.25)));
    const kind = gl ? "scattergl" : "scatter";
    const low = [x, y].map(values => values.reduce((a, b) => Math.min(a, b), Infinity));
    const high = [x, y].map(values => values.reduce((a, b) => Math.max(a, b), -Infinity));
    // one scale on both axes: distances on a map are read in all directions
    const half = 0.54 * Math.max(high[0] - low[0], high[1] - low[1]) || 1;
    const home = [0, 1].map(k => [(low[k] + high[k]) / 2 - half, (low[k] + high[k]) / 2 + half]);
    const view = home.map(range => range.slice());

    // A name of a colour per point: plotly draws these in half the time of numbers on a scale
    const sure = ramp(data.scale, 101), strong = data.genes ? ramp(data.geneScale, data.genes.levels + 1) : [];
    const level = value => sure[Math.round(100 * Math.min(1, Math.max(0, value)))];
    const bar = (stops, highest, ticks) => ({type: "scatter", mode: "markers", x: [null], y: [null],
      hoverinfo: "skip", showlegend: false,
      marker: {color: [0], cmin: 0, cmax: highest, showscale: true,
        colorscale: stops.map((colour, k) => [k / (stops.length - 1), colour]),
        colorbar: {orientation: "h", x: 0.5, y: -0.01, yanchor: "top", len: 0.7, thickness: 9,
          tickvals: ticks, outlinewidth: 0}}});
    const chosen_type = i => picked.size === 0 || picked.has(type[i]);
    const short = list => list.length <= 15;
    panels.push(...[
      {id: "map-type", what: data.called ? "By cell type" : "All cells", code: type, colours: data.colours,
        shapes: data.shapes, labels: data.called ? data.labels : [], names: true,
        word: k => short(data.labels) ? brief(data.names[k]) : String(k + 1), shown: chosen_type},
      {id: "map-confidence", what: "By confidence", code: type, shapes: data.shapes, labels: [],
        value: i => level(confidence[i]), shown: i => (gene || !Number.isNaN(confidence[i])) && chosen_type(i),
        more: [bar(data.scale, 1, [0, 0.25, 0.5, 0.75, 1])]},
      {id: "map-group", what: "By group", code: group, labels: groups ? groups.labels : [],
        colours: groups ? groups.colours : [], shapes: groups ? groups.shapes : [], word: k => groups.numbers[k],
        shown: i => group[i] !== NONE && (lit < 0 || group[i] === lit), rings: groups ? groups.ringed : []},
    ].filter(panel => get(panel.id)));
    panels.forEach(panel => { panel.div = get(panel.id); });
    const take = (values, rows) => { const out = new Float32Array(rows.length);
      for (let k = 0; k < rows.length; k++) out[k] = values[rows[k]]; return out; };

    function labels(panel) {
      if (gene || !panel.labels.length || (panel.names && get("names") && !get("names").checked)) return [];
      const wide = Math.max(50, panel.div.clientWidth - margin.l - margin.r);
      const tall = Math.max(50, panel.div.clientHeight - margin.t - margin.b);
      const share = (k, value) => (value - view[k][0]) / (view[k][1] - view[k][0]);
      const pixel = (a, b) => [share(0, a) * wide, (1 - share(1, b)) * tall];
      const mine = panel.labels.filter(l => panel.code !== type || picked.size === 0 || picked.has(l[0]))
        .map(l => [...pixel(l[1], l[2]), panel.word(l[0]), l])
        .filter(l => l[0] > 0 && l[1] > 0 && l[0] < wide && l[1] < tall);
      const off = moved(mine, occupied(panel.code, i => pixel(x[i], y[i]), wide, tall), wide, tall);
      return mine.map((l, k) => Object.assign({x: l[3][1], y: l[3][2], text: plain(l[2]), borderpad: 1,
        font: {size: 12, color: "#111"}, bgcolor: "rgba(255,255,255,0.8)"},
        off[k][0] || off[k][1] ? {showarrow: true, arrowhead: 0, arrowwidth: 1, arrowcolor: "#55606e",
          ax: off[k][0], ay: off[k][1], standoff: 2} : {showarrow: false}));
    }
    function axis(k) {
      return {range: view[k].slice(), visible: true, showgrid: false, zeroline: false, showticklabels: false,
        ticks: "", showline: true, mirror: true, linecolor: "#dde2e8",
        title: {text: "UMAP " + (k + 1), font: {size: 11, color: "#55606e"}, standoff: 2}};
    }
    function draw(panel) {
      let front = [];
      const back = [];
      for (let i = 0; i < n; i += step) (panel.shown(i) ? front : back).push(i);
      if (gene) {  // what expresses most is drawn last
        const by = Array.from({length: data.genes.levels + 1}, () => []);
        front.forEach(i => by[gene.levels[i]].push(i));
        front = [].concat(...by);
      }
      panel.rows = front;
      window.scpretrain.points[panel.id] = front.length;
      const trace = (rows, marker, hoverinfo) => ({type: kind, mode: "markers", x: take(x, rows),
        y: take(y, rows), marker: Object.assign({size: size}, marker), hoverinfo, showlegend: false});
      const colour = gene ? i => strong[gene.levels[i]] : panel.value || (i => panel.colours[panel.code[i]]);
      const marker = {color: front.map(colour), opacity: n > 5000 && !gene ? 0.75 : 0.9};
      if (panel.shapes.some(shape => shape !== "circle") && !gene)
        marker.symbol = front.map(i => panel.shapes[panel.code[i]] || "circle");
      const rings = (panel.rings || []).filter(panel.shown);
      const steps = [0, 0.25, 0.5, 0.75, 1];
      const more = gene ? [bar(data.geneScale, gene.highest, steps.map(s => Number((s * gene.highest).toFixed(1))))]
        : panel.more || [];
      const traces = [trace(back, {color: GREY, opacity: 0.6}, "skip"), trace(front, marker, "none"),
        trace(rings, {size: Math.max(11, size + 6), symbol: "circle-open", color: "#111",
          line: {width: 2, color: "#111"}}, "skip"), ...more];
      const layout = {margin: Object.assign({}, margin), xaxis: axis(0), yaxis: axis(1), font: font,
        hovermode: "closest", hoverdistance: 12, dragmode: "zoom", annotations: labels(panel), autosize: true,
        plot_bgcolor: "#fff", paper_bgcolor: "#fff"};
      layout.xaxis.title.standoff = 0;
      if (more.length) layout.xaxis.title.text = "";
      const caption = document.querySelector('[data-map="' + panel.id + '"]');
      caption.textContent = gene ? gene.name + ", log1p of counts per 10,000" : panel.what;
      return Plotly.react(panel.div, traces, layout, config);
    }
    redraw = some => Promise.all((some || panels).map(draw));

    function tell(event, row) {
      const tip = get("tip"), lines = [];
      const name = code => code === NONE ? "–" : brief(data.names[code], 300);
      if (data.called) lines.push(["type", name(type[row])],
        ["confidence", Number.isNaN(confidence[row]) ? "–" : confidence[row].toFixed(3)]);
      if (second) lines.push(["second choice", name(second[row])]);
      if (known) lines.push(["existing label", name(known[row])]);
      if (group) lines.push(["group", group[row] === NONE ? "–" : groups.numbers[group[row]]]);
      if (gene) lines.push([gene.name, (gene.levels[row] / data.genes.levels * gene.highest).toFixed(2)]);
      tip.replaceChildren(element("b", brief(data.cells[row], 300)),
        ...lines.map(line => element("span", line[0] + ": " + line[1])));
      tip.hidden = false;
      const box = tip.getBoundingClientRect(), gap = 14;
      const beside = (at, length, room) => at + gap + length > room ? at - gap - length : at + gap;
      tip.style.left = Math.max(4, beside(event.clientX, box.width, innerWidth)) + "px";
      tip.style.top = Math.max(4, beside(event.clientY, box.height, innerHeight)) + "px";
    }

    let following = false;
    function follow(panel, change) {
      if (following) return;
      const keys = ["xaxis", "yaxis"], parts = [".range[0]", ".range", ".autorange"];
      if (!keys.some(key => parts.some(part => key + part in change))) return;
      const home_again = keys.some(key => change[key + ".autorange"]);
      keys.forEach((key, k) => {
        view[k] = home_again ? home[k].slice() : panel.div.layout[key].range.slice();
      });
      following = true;
      Promise.all(panels.map(other => Plotly.relayout(other.div,
        {"xaxis.range": view[0].slice(), "yaxis.range": view[1].slice(), annotations: labels(other)})))
        .finally(() => { following = false; });
    }

    function update() {
      document.querySelectorAll(".legend button").forEach(button =>
        button.setAttribute("aria-pressed", String(picked.has(Number(button.dataset.type)))));
      get("all").disabled = picked.size === 0;
      let cells = 0;
      picked.forEach(k => { cells += data.counts[k]; });
      get("shown").textContent = picked.size === 0 ? "" : picked.size + " of " + data.colours.length +
        " types, " + cells.toLocaleString("en") + " cells";
      return redraw();
    }
    document.querySelectorAll(".legend button").forEach(button => button.addEventListener("click", () => {
      const k = Number(button.dataset.type);
      if (!picked.delete(k)) picked.add(k);
      update();
    }));
    if (get("all")) get("all").addEventListener("click", () => { picked.clear(); update(); });
    if (get("names")) get("names").addEventListener("change", () => redraw(panels.slice(0, 1)));
    let later = 0;
    window.addEventListener("resize", () => { clearTimeout(later); later = setTimeout(redraw, 250); });

    return Promise.all(panels.map(panel => draw(panel).then(() => {
      const show = event => tell(event.event, panel.rows[event.points[0].pointNumber]);
      panel.div.on("plotly_hover", show);
      panel.div.on("plotly_click", event => {
        show(event);
        if (panel.code === group) jump(group[panel.rows[event.points[0].pointNumber]]);
      });
      panel.div.on("plotly_unhover", () => { get("tip").hidden = true; });
      panel.div.on("plotly_relayout", change => follow(panel, change));
      const fit = () => panel.div.style.setProperty("--fit", Math.min(1, 345 / panel.div._fullLayout.width));
      fit();
      panel.div.on("plotly_afterplot", fit);
    })));
  }

  // A map as a picture: with its caption, and a legend for the numbers on it
  function picture(format) {
    const panel = panels[0], used = new Set(panel.rows.map(i => panel.code[i]));
    const name = k => panel.code === group ? "group " + groups.numbers[k] + called(k) : (k + 1) + "  " + data.names[k];
    const legend = gene ? [] : panel.colours.map((colour, k) => ({type: "scatter", mode: "markers", x: [null],
      y: [null], name: plain(brief(name(k), 40)), showlegend: used.has(k),
      marker: {color: colour, symbol: panel.shapes[k], size: 9}}));
    const layout = Object.assign({}, panel.div.layout, {showlegend: legend.length > 1, width: 1100, height: 860,
      autosize: false, margin: {l: 30, r: 20, t: 50, b: 60},
      title: {text: plain(brief(document.querySelector('[data-map="' + panel.id + '"]').textContent, 80))}});
    return Plotly.downloadImage({data: [...panel.div.data, ...legend], layout, config}, {format, width: 1100,
      height: 860, scale: format === "png" ? 2 : 1,
      filename: file + (gene ? "_" + gene.name.replace(/\W+/g, "_") : "_map")});
  }
  document.querySelectorAll("[data-save]").forEach(button => button.addEventListener("click", () => {
    if (button.dataset.save === "csv") download(file + "_table.csv", table(), "text/csv");
    else picture(button.dataset.save);
  }));
