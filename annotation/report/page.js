"use strict";
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const get = id => document.getElementById(id);
  const NONE = 65535, GREY = "#e3e5e8";
  function bytes(text) { return Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer; }
  const floats = text => text === null ? null : new Float32Array(bytes(text));
  const codes = text => text === null ? null : new Uint16Array(bytes(text));
  const x = floats(data.x), y = floats(data.y), confidence = floats(data.confidence);
  const type = codes(data.type), second = codes(data.second), known = codes(data.known);
  const n = data.cells.length, picked = new Set();
  const font = {family: "system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif", size: 12,
    color: "#1c2430"};
  // the buttons are named one by one: plotly's own choice may hold one that sends the data to its makers
  const config = {responsive: true, displaylogo: false, displayModeBar: "hover", topojsonURL: "",
    plotlyServerURL: "", showSendToCloud: false,
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]]};
  window.scpretrain = {ready: false, points: {}};

  // plotly reads tags and entities in texts; a name is neither
  const plain = text => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const brief = text => text.length > 22 ? text.slice(0, 21) + "…" : text;

  function webgl() {
    try {
      const canvas = document.createElement("canvas");
      return Boolean(canvas.getContext("webgl") || canvas.getContext("experimental-webgl"));
    } catch (error) { return false; }
  }

  function maps() {
    const gl = webgl(), limit = 5000;
    const step = gl || n <= limit ? 1 : Math.ceil(n / limit);
    if (step > 1) {
      get("no-webgl").hidden = false;
      get("no-webgl").textContent = "This browser draws without WebGL: the maps show 1 cell in " + step +
        " (" + Math.ceil(n / step).toLocaleString("en") + " of " + n.toLocaleString("en") + ").";
    }
    const size = Math.min(8, Math.max(2, 30 / Math.pow(n, 0.25)));
    const kind = gl ? "scattergl" : "scatter";
    const low = [x, y].map(values => values.reduce((a, b) => Math.min(a, b), Infinity));
    const high = [x, y].map(values => values.reduce((a, b) => Math.max(a, b), -Infinity));
    // one scale on both axes: distances on a map are read in all directions
    const half = 0.54 * Math.max(high[0] - low[0], high[1] - low[1]) || 1;
    const home = [0, 1].map(k => [(low[k] + high[k]) / 2 - half, (low[k] + high[k]) / 2 + half]);
    const view = home.map(range => range.slice());

    // A name of a colour per point: plotly draws these in half the time of numbers on a scale
    const levels = Array.from({length: 101}, (_, k) => {
      const at = k / 100 * (data.scale.length - 1), low = Math.min(Math.floor(at), data.scale.length - 2);
      const part = (text, c) => parseInt(text.slice(1 + 2 * c, 3 + 2 * c), 16);
      const mixed = c => Math.round(part(data.scale[low], c) * (low + 1 - at) + part(data.scale[low + 1], c) *
        (at - low));
      return "rgb(" + [0, 1, 2].map(mixed).join() + ")";
    });
    const level = value => levels[Math.round(100 * Math.min(1, Math.max(0, value)))];
    const scale = {type: "scatter", mode: "markers", x: [null], y: [null], hoverinfo: "skip",
      showlegend: false,
      marker: {color: [0], cmin: 0, cmax: 1, showscale: true,
        colorscale: data.scale.map((colour, k) => [k / (data.scale.length - 1), colour]),
        colorbar: {orientation: "h", x: 0.5, y: -0.01, yanchor: "top", len: 0.7, thickness: 9,
          tickvals: [0, 0.25, 0.5, 0.75, 1], outlinewidth: 0}}};
    const panels = [
      {div: get("map-type"), value: type, colour: i => data.colours[type[i]], more: []},
      {div: get("map-confidence"), value: confidence, colour: i => level(confidence[i]), more: [scale]},
    ];
    const take = (values, rows) => { const out = new Float32Array(rows.length);
      for (let k = 0; k < rows.length; k++) out[k] = values[rows[k]]; return out; };

    const at = (k, share) => view[k][0] + share * (view[k][1] - view[k][0]);
    function labels(panel) {
      if (panel.value !== type || !get("names").checked) return [];
      const short = data.labels.length <= 15;
      return data.labels.filter(l => picked.size === 0 || picked.has(l[0])).map(l => ({x: l[1], y: l[2],
        text: short ? plain(brief(data.names[l[0]])) : String(l[0] + 1), showarrow: false, borderpad: 1,
        xanchor: !short ? "center" : l[1] > at(0, 0.86) ? "right" : l[1] < at(0, 0.14) ? "left" : "center",
        font: {size: 11, color: "#111"}, bgcolor: "rgba(255,255,255,0.78)"}));
    }
    function axis(k) {
      return {range: view[k].slice(), visible: true, showgrid: false, zeroline: false, showticklabels: false,
        ticks: "", showline: true, mirror: true, linecolor: "#dde2e8",
        title: {text: "UMAP " + (k + 1), font: {size: 11, color: "#55606e"}, standoff: 2}};
    }
    function draw(panel) {
      const front = [], back = [];
      for (let i = 0; i < n; i += step) {
        const here = (picked.size === 0 || picked.has(type[i])) && !Number.isNaN(panel.value[i]);
        (here ? front : back).push(i);
      }
      panel.rows = front;
      window.scpretrain.points[panel.div.id] = front.length;
      const trace = (rows, marker, hoverinfo) => ({type: kind, mode: "markers", x: take(x, rows),
        y: take(y, rows), marker: Object.assign({size: size}, marker), hoverinfo, showlegend: false});
      const marker = {color: front.map(panel.colour), opacity: n > 5000 ? 0.75 : 0.85};
      const traces = [trace(back, {color: GREY, opacity: 0.6}, "skip"), trace(front, marker, "none"),
        ...panel.more];
      const layout = {margin: {l: 22, r: 4, t: 30, b: 56}, xaxis: axis(0), yaxis: axis(1), font: font,
        hovermode: "closest", hoverdistance: 12, dragmode: "zoom", annotations: labels(panel), autosize: true,
        plot_bgcolor: "#fff", paper_bgcolor: "#fff"};
      layout.xaxis.title.standoff = 0;
      if (panel.value === confidence) layout.xaxis.title.text = "";
      return Plotly.react(panel.div, traces, layout, config);
    }

    function tell(event, row) {
      const tip = get("tip"), lines = [];
      const name = code => code === NONE ? "–" : data.names[code];
      lines.push(["type", name(type[row])]);
      lines.push(["confidence", Number.isNaN(confidence[row]) ? "–" : confidence[row].toFixed(3)]);
      if (second) lines.push(["second choice", name(second[row])]);
      if (known) lines.push(["existing label", name(known[row])]);
      const head = document.createElement("b");
      head.textContent = data.cells[row];
      tip.replaceChildren(head, ...lines.map(line => { const span = document.createElement("span");
        span.textContent = line[0] + ": " + line[1]; return span; }));
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
      const others = panels.filter(other => home_again || other !== panel);
      Promise.all(others.map(other => Plotly.relayout(other.div,
        {"xaxis.range": view[0].slice(), "yaxis.range": view[1].slice()})))
        .finally(() => { following = false; });
    }

    function update() {
      document.querySelectorAll(".legend button").forEach(button =>
        button.setAttribute("aria-pressed", String(picked.has(Number(button.dataset.type)))));
      get("all").disabled = picked.size === 0;
      let count = 0;
      picked.forEach(k => { count += data.counts[k]; });
      get("shown").textContent = picked.size === 0 ? "" : picked.size + " of " + data.colours.length +
        " types, " + count.toLocaleString("en") + " cells";
      return Promise.all(panels.map(draw));
    }
    document.querySelectorAll(".legend button").forEach(button => button.addEventListener("click", () => {
      const k = Number(button.dataset.type);
      if (!picked.delete(k)) picked.add(k);
      update();
    }));
    get("all").addEventListener("click", () => { picked.clear(); update(); });
    get("names").addEventListener("change", () => draw(panels[0]));

    return Promise.all(panels.map(panel => draw(panel).then(() => {
      const show = event => tell(event.event, panel.rows[event.points[0].pointNumber]);
      panel.div.on("plotly_hover", show);
      panel.div.on("plotly_click", show);
      panel.div.on("plotly_unhover", () => { get("tip").hidden = true; });
      panel.div.on("plotly_relayout", change => follow(panel, change));
      const fit = () => panel.div.style.setProperty("--fit", Math.min(1, 345 / panel.div._fullLayout.width));
      fit();
      panel.div.on("plotly_afterplot", fit);
    })));
  }

  const work = x ? [maps()] : [];
  Object.keys(data.figures).forEach(id => {
    const figure = data.figures[id];
    const layout = Object.assign({font: font, plot_bgcolor: "#fff", paper_bgcolor: "#fff"}, figure.layout);
    get(id).style.setProperty("--fit", Math.min(0.72, 700 / layout.width));  // what fits a printed page
    work.push(Plotly.newPlot(id, figure.data, layout, Object.assign({}, config,
      {responsive: false, modeBarButtons: [["toImage"]]})));
  });
  Promise.all(work).then(() => { window.scpretrain.ready = true; });
})();
