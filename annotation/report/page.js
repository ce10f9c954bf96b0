  // The start: everything is drawn, then the page says that it is ready
  if (groups) start_naming();
  const work = x ? [maps()] : [];
  Object.keys(data.figures).forEach(id => {
    const figure = data.figures[id];
    const layout = Object.assign({font: font, plot_bgcolor: "#fff", paper_bgcolor: "#fff"}, figure.layout);
    get(id).style.setProperty("--fit", Math.min(0.72, 700 / layout.width));  // what fits a printed page
    work.push(Plotly.newPlot(id, figure.data, layout, Object.assign({}, config,
      {responsive: false, modeBarButtons: [["toImage"]]})));
  });
  Promise.all(work).then(() => { window.scpretrain.ready = true; });

  // a table that is wider than the window says so
  const wide = box => box.classList.toggle("wide", box.scrollWidth > box.clientWidth + 2);
  const watch = new ResizeObserver(entries => entries.forEach(entry => wide(entry.target)));
  document.querySelectorAll(".scroll").forEach(box => {
    watch.observe(box);
    if (box.firstElementChild) watch.observe(box.firstElementChild);
    box.addEventListener("scroll", () => box.classList.add("moved"), {once: true});
  });
