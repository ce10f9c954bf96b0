  // What mouse, fingers and keys do on a map: tell a cell, zoom, move
  function tell(event, row) {
    const lines = [], name = code => code === NONE ? "–" : brief(data.names[code], 300);
    if (data.called) lines.push(["type", name(type[row])],
      ["confidence", Number.isNaN(confidence[row]) ? "–" : confidence[row].toFixed(3)]);
    if (second) lines.push(["second choice", name(second[row])]);
    if (known) lines.push(["existing label", name(known[row])]);
    if (group) lines.push(["group", group[row] === NONE ? "–" : groups.numbers[group[row]] + called(group[row])]);
    if (gene) lines.push([gene.name, (gene.averaged ? "about " : "") +
      (gene.levels[row] / data.genes.levels * gene.highest).toFixed(2)]);
    tip(event, [element("b", brief(data.cells[row], 300)),
      ...lines.map(line => element("span", line[0] + ": " + line[1]))]);
  }

  function tip(event, parts) {
    const shown = get("tip"), gap = 14;
    shown.replaceChildren(...parts);
    shown.hidden = false;
    const box = shown.getBoundingClientRect();
    const beside = (at, length, room) => at + gap + length > room ? at - gap - length : at + gap;
    shown.style.left = Math.max(4, beside(event.clientX, box.width, innerWidth)) + "px";
    shown.style.top = Math.max(4, beside(event.clientY, box.height, innerHeight)) + "px";
  }
  const no_tip = () => { get("tip").hidden = true; };

  // the drawn cell nearest to a place, within some pixels; -1 for none
  function nearest(panel, px, py, reach) {
    const {at} = panel.projection();
    let best = -1, least = reach * reach;
    for (const i of panel.rows || []) {
      const [a, b] = at(i), far = (a - px) * (a - px) + (b - py) * (b - py);
      if (far <= least) { least = far; best = i; }
    }
    return best;
  }

  // zoom by a factor; the place (px, py) of the panel stays where it is
  function zoom(panel, factor, px = panel.div.clientWidth / 2, py = panel.div.clientHeight / 2) {
    const before = panel.projection().scale, after = Math.min(200, Math.max(1, shift.zoom * factor));
    const off = [px - panel.div.clientWidth / 2, panel.div.clientHeight / 2 - py];
    const ratio = after / shift.zoom;
    shift.a += off[0] / before * (1 - 1 / ratio);
    shift.b += off[1] / before * (1 - 1 / ratio);
    shift.zoom = after;
    if (after === 1) home(); else redraw();
  }
  function home() { Object.assign(shift, {a: 0, b: 0, zoom: 1}); redraw(); }
  function move(panel, dx, dy) {
    if (shift.zoom === 1) return;
    shift.a -= dx / panel.projection().scale;
    shift.b += dy / panel.projection().scale;
    redraw();
  }

  function handle(panel) {
    const div = panel.div, fingers = new Map(), frame = element("div");
    frame.className = "frame";
    frame.hidden = true;
    div.append(frame);
    div.tabIndex = 0;
    const inside = event => { const box = div.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top]; };
    let from = null, dragged = false;

    div.addEventListener("pointerdown", event => {
      if (event.button) return;
      fingers.set(event.pointerId, inside(event));
      if (event.pointerType !== "touch") div.setPointerCapture(event.pointerId);
      from = inside(event);
      dragged = fingers.size > 1;
    });
    div.addEventListener("pointermove", event => {
      const now = inside(event), old = fingers.get(event.pointerId);
      if (!old) {
        const cell = nearest(panel, now[0], now[1], 10);
        if (cell < 0) no_tip(); else tell(event, cell);
        return;
      }
      if (Math.hypot(now[0] - from[0], now[1] - from[1]) > 5) dragged = true;
      if (!dragged) return;
      no_tip();
      if (fingers.size === 2) {
        const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
        const far = (a, b) => Math.max(10, Math.hypot(a[0] - b[0], a[1] - b[1]));
        zoom(panel, far(now, other) / far(old, other), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
        move(panel, (now[0] - old[0]) / 2, (now[1] - old[1]) / 2);
      } else if (event.pointerType === "touch" || event.shiftKey) move(panel, now[0] - old[0], now[1] - old[1]);
      else {
        Object.assign(frame.style, {left: Math.min(now[0], from[0]) + "px", top: Math.min(now[1], from[1]) + "px",
          width: Math.abs(now[0] - from[0]) + "px", height: Math.abs(now[1] - from[1]) + "px"});
        frame.hidden = false;
      }
      fingers.set(event.pointerId, now);
    });
    div.addEventListener("pointerup", event => {
      if (!fingers.delete(event.pointerId)) return;
      const now = inside(event), size = [0, 1].map(k => Math.abs(now[k] - from[k]));
      if (!frame.hidden && Math.max(...size) > 8) {
        const factor = Math.min(div.clientWidth / Math.max(size[0], 8), div.clientHeight / Math.max(size[1], 8));
        move_to((now[0] + from[0]) / 2, (now[1] + from[1]) / 2);
        zoom(panel, factor);
      } else if (!dragged) {
        const cell = nearest(panel, now[0], now[1], event.pointerType === "touch" ? 22 : 10);
        if (cell < 0) no_tip();
        else {
          tell(event, cell);
          if (panel.code === group) jump(group[cell]);
        }
      }
      frame.hidden = true;
    });
    const move_to = (px, py) => {
      shift.a += (px - div.clientWidth / 2) / panel.projection().scale;
      shift.b -= (py - div.clientHeight / 2) / panel.projection().scale;
    };
    div.addEventListener("pointercancel", event => { fingers.delete(event.pointerId); frame.hidden = true; });
    div.addEventListener("pointerleave", event => { if (event.pointerType !== "touch") no_tip(); });
    div.addEventListener("dblclick", home);
    div.addEventListener("wheel", event => {  // a plain wheel scrolls the page; with Ctrl, or two fingers on a pad, it zooms
      if (!event.ctrlKey) return;
      event.preventDefault();
      zoom(panel, Math.exp(-Math.max(-60, Math.min(60, event.deltaY)) / 100), ...inside(event));
    }, {passive: false});
    div.addEventListener("keydown", event => {
      const step = 40, act = {"+": () => zoom(panel, 1.5), "=": () => zoom(panel, 1.5), "-": () => zoom(panel, 1 / 1.5),
        "0": home, Escape: home, ArrowLeft: () => move(panel, step, 0), ArrowRight: () => move(panel, -step, 0),
        ArrowUp: () => move(panel, 0, step), ArrowDown: () => move(panel, 0, -step)}[event.key];
      if (!act || event.ctrlKey || event.metaKey || (event.key.startsWith("Arrow") && shift.zoom === 1)) return;
      event.preventDefault();
      act();
    });

    const tools = element("span");
    tools.className = "zoom";
    [["+", "Zoom in", () => zoom(panel, 1.5)], ["−", "Zoom out", () => zoom(panel, 1 / 1.5)], ["Whole", "Show the whole map", home],
      ["PNG", "Download this map as PNG", () => picture(panel, "png")],
      ["SVG", "Download this map as SVG", () => picture(panel, "svg")]].forEach(([word, title, act]) => {
      const button = element("button", word);
      button.type = "button";
      button.title = title;
      button.setAttribute("aria-label", title + ": " + panel.what);
      button.addEventListener("click", act);
      tools.append(button);
    });
    document.querySelector('[data-map="' + panel.id + '"]').after(tools);
  }

  // heat map and dot plot: what a mark says
  document.querySelectorAll(".scroll svg").forEach(figure => {
    const said = event => { const words = event.target.getAttribute("data-tip");
      if (words) tip(event, [element("span", words)]); else no_tip(); };
    figure.addEventListener("pointermove", said);
    figure.addEventListener("pointerdown", said);
    figure.addEventListener("pointerleave", no_tip);
  });
  window.addEventListener("scroll", no_tip, {passive: true});
  window.addEventListener("pointerdown", no_tip, true);  // what a tap said goes with the next tap
