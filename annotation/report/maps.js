  // The maps: one view for all of them, coloured by type, confidence, group or a gene
  const panels = [];
  let gene = null;  // {name, levels: a level a cell, highest, averaged}
  let lit = -1;  // the group that is pointed at
  const shift = {a: 0, b: 0, zoom: 1};  // of the view: middle, in map units from the middle of all cells

  const box = x && [x, y].map(values => [values.reduce((a, b) => Math.min(a, b), Infinity),
    values.reduce((a, b) => Math.max(a, b), -Infinity)]);
  const middle = x && box.map(([low, high]) => (low + high) / 2), span = x && box.map(([low, high]) => high - low || 1e-6);
  const sure = ramp(data.scale, 101), strong = data.genes ? ramp(data.geneScale, data.genes.levels + 1) : [];
  const level = value => sure[Math.round(100 * Math.min(1, Math.max(0, value)))];
  const chosen_type = i => picked.size === 0 || picked.has(type[i]);
  const short = list => list.length <= 15;

  // cells as they are drawn: Unknown beneath, the rest in a chance order, so that no type covers another
  const drawn = (() => {
    let chance = 1;
    const order = Uint32Array.from({length: n}, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      chance = (Math.imul(chance, 1664525) + 1013904223) >>> 0;
      const j = Math.floor(chance / 4294967296 * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
    const beneath = i => type[i] === data.unknown;
    return [...order].filter(beneath).concat([...order].filter(i => !beneath(i)));
  })();

  // Beyond 20 kinds colours repeat in another shape, which a crowd hides: stripes tell them apart there
  const STRIPES = {diamond: [1, 1], "triangle-up": [1, -1], square: [0, 1], "triangle-down": [1, 0]}, pale = new Map();
  function striped(colour, shape, right, up) {
    const way = STRIPES[shape], at = way && (right * way[0] + up * way[1]) / (way[0] && way[1] ? 9 : 6.5);
    if (!way || at - Math.floor(at) < 0.5) return colour;
    if (!pale.has(colour)) pale.set(colour, ramp([colour, "#ffffff"], 101)[58]);
    return pale.get(colour);
  }

  function panels_here() {
    return [
      {id: "map-type", what: data.called ? "By cell type" : "All cells", code: type, colours: data.colours,
        shapes: data.shapes, labels: data.called ? data.labels : [],
        word: k => short(data.labels) ? brief(data.names[k]) : String(k + 1), shown: chosen_type},
      {id: "map-confidence", what: "By confidence", code: type, colours: data.colours, shapes: data.shapes,
        labels: [], value: i => level(confidence[i]),
        shown: i => (gene || !Number.isNaN(confidence[i])) && chosen_type(i)},
      {id: "map-group", what: "By group", code: group, labels: groups ? groups.labels : [],
        colours: groups ? groups.colours : [], shapes: groups ? groups.shapes : [],
        word: k => groups.numbers[k] + brief(called(k), 24),
        shown: i => group[i] !== NONE && (lit < 0 || group[i] === lit), rings: groups ? groups.ringed : []},
    ].filter(panel => get(panel.id));
  }

  // one scale on both axes: distances on a map are read in all directions
  function projection(wide, tall) {
    const scale = shift.zoom * Math.min((wide - 24) / span[0], (tall - 24) / span[1]);
    const to = (a, b) => [wide / 2 + (a - middle[0] - shift.a) * scale, tall / 2 - (b - middle[1] - shift.b) * scale];
    return {scale, to, at: i => to(x[i], y[i])};
  }

  function labels(panel, wide, tall, to) {
    if (!panel.labels.length || (get("names") && !get("names").checked)) return [];
    const mine = panel.labels.filter(l => panel.code !== type || picked.size === 0 || picked.has(l[0]))
      .map(l => [...to(l[1], l[2]), panel.word(l[0])]).filter(l => l[0] > 0 && l[1] > 0 && l[0] < wide && l[1] < tall);
    const key = JSON.stringify([wide, tall, shift, mine]);
    if (!panel.placed || panel.placed.key !== key)
      panel.placed = {key, mine, boxes: moved(mine, occupied(panel.code, i => to(x[i], y[i]), wide, tall), wide, tall)};
    return panel.placed.mine.map((label, k) => ({label, box: panel.placed.boxes[k]}));
  }

  function sketch(panel, pen, wide, tall) {
    const {at, to, scale} = projection(wide, tall), odd = panel.shapes.some(shape => shape !== "circle") && !gene;
    // a few cells large, many small; a shape needs some size to be seen; closer by they grow
    const radius = Math.min(7, Math.max(odd ? 2.4 : 1.1, 15 / Math.pow(n, 0.25) * Math.min(1, wide / 420)) *
      Math.min(2, Math.sqrt(shift.zoom)));
    let front = [];
    pen.text(8, tall - 11, "UMAP", {size: 11, colour: "#7a8490"});
    pen.alpha(0.7);
    for (const i of drawn) {
      if (panel.shown(i)) { front.push(i); continue; }
      const [px, py] = at(i);
      if (px > -9 && py > -9 && px < wide + 9 && py < tall + 9) pen.point(px, py, "circle", GREY, radius);
    }
    if (gene) {  // what expresses most is drawn last
      const by = Array.from({length: data.genes.levels + 1}, () => []);
      front.forEach(i => by[gene.levels[i]].push(i));
      front = [].concat(...by);
    }
    pen.alpha(n > 5000 && !gene ? 0.8 : 0.92);
    const colour = gene ? i => strong[gene.levels[i]] : panel.value || (i => panel.colours[panel.code[i]]);
    for (const i of front) {
      const [px, py] = at(i);
      if (px > -9 && py > -9 && px < wide + 9 && py < tall + 9)
        if (odd) {
          const shape = panel.shapes[panel.code[i]] || "circle";
          pen.point(px, py, shape, panel.value ? colour(i) : striped(colour(i), shape, x[i] * scale, y[i] * scale), radius);
        } else pen.point(px, py, "circle", colour(i), radius);
    }
    pen.alpha(1);
    (panel.rings || []).filter(panel.shown).forEach(i => pen.ring(...at(i), Math.max(4, radius + 1.5)));
    const named = labels(panel, wide, tall, to);
    named.forEach(({label, box}) => {  // a line to cells that are not under the box
      const px = Math.min(box[2], Math.max(box[0], label[0])), py = Math.min(box[3], Math.max(box[1], label[1]));
      if (px !== label[0] || py !== label[1]) pen.line(label[0], label[1], px, py, "#55606e");
    });
    named.forEach(({label, box}) => {
      pen.box(box[0], box[1], box[2] - box[0], box[3] - box[1], "rgba(255,255,255,0.8)");
      pen.text((box[0] + box[2]) / 2, (box[1] + box[3]) / 2, label[2], {align: "center"});
    });
    return {front, named};
  }

  const scale_of = panel => gene ? [data.geneScale, gene.highest] : panel.value ? [data.scale, 1] : null;
  const title_of = panel => gene ? gene.name + (panel.value ? ", without names" : "") : panel.what;
  const unit_of = () => gene ? " log1p of counts per 10,000" : "";

  function draw(panel) {
    const wide = panel.div.clientWidth, tall = panel.div.clientHeight, ratio = Math.min(2, devicePixelRatio || 1);
    if (wide < 20 || tall < 20) return;
    const canvas = panel.canvas, context = canvas.getContext("2d");
    if (canvas.width !== Math.round(wide * ratio) || canvas.height !== Math.round(tall * ratio) || panel.ratio !== ratio) {
      canvas.width = Math.round(wide * ratio);
      canvas.height = Math.round(tall * ratio);
      panel.pen = canvas_pen(context, ratio);
      panel.ratio = ratio;
    }
    panel.div.style.touchAction = shift.zoom > 1 ? "none" : "pan-y";  // a finger scrolls the page, or moves the map
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, wide, tall);
    const {front, named} = sketch(panel, panel.pen, wide, tall);
    panel.rows = front;
    window.scpretrain.points[panel.id] = front.length;
    window.scpretrain.labels[panel.id] = named.map(({label, box}) => ({text: label[2], box}));
    document.querySelector('[data-map="' + panel.id + '"]').textContent = title_of(panel);
    const scale = scale_of(panel), foot = panel.scale;
    foot.hidden = !scale;
    if (scale) {
      foot.children[1].style.background = "linear-gradient(to right, " + scale[0].join() + ")";
      foot.children[2].textContent = Number(scale[1].toFixed(1)) + unit_of();
    }
  }

  let waiting = false;
  function redraw() {  // all panels, before the browser paints next
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; panels.forEach(draw); });
  }

  function show_types() {
    document.querySelectorAll(".legend button").forEach(button =>
      button.setAttribute("aria-pressed", String(picked.has(Number(button.dataset.type)))));
    get("all").disabled = picked.size === 0;
    let cells = 0;
    picked.forEach(k => { cells += data.counts[k]; });
    get("shown").textContent = picked.size === 0 ? "" : picked.size + " of " + data.colours.length +
      " types, " + count(cells, "cell");
    redraw();
  }

  function start_maps() {
    panels.push(...panels_here());
    panels.forEach(panel => {
      panel.div = get(panel.id);
      panel.canvas = element("canvas");
      panel.div.append(panel.canvas);
      panel.scale = element("div", undefined, [element("span", "0"), element("i"), element("span")]);
      panel.scale.className = "scale";
      panel.div.after(panel.scale);
      panel.projection = () => projection(panel.div.clientWidth, panel.div.clientHeight);
      handle(panel);
      draw(panel);
    });
    window.scpretrain.place = (id, cell) => {
      const panel = panels.find(one => one.id === id), box = panel.div.getBoundingClientRect();
      const [px, py] = panel.projection().at(data.cells.indexOf(cell));
      return [box.left + px, box.top + py];
    };
    new ResizeObserver(redraw).observe(panels[0].div);
    window.addEventListener("resize", redraw);
    window.addEventListener("beforeprint", () => panels.forEach(draw));
    document.querySelectorAll(".legend button").forEach(button => button.addEventListener("click", () => {
      const k = Number(button.dataset.type);
      if (!picked.delete(k)) picked.add(k);
      show_types();
    }));
    if (get("all")) get("all").addEventListener("click", () => { picked.clear(); show_types(); });
    if (get("names")) get("names").addEventListener("change", redraw);
  }
