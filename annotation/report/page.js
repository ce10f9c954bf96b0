  // The start: everything is drawn, then the page says that it is ready
  if (x) start_maps();
  if (groups) start_naming();
  start_genes();
  window.scpretrain.ready = true;

  // a table that is wider than the window says so
  const wide = box => box.classList.toggle("wide", box.scrollWidth > box.clientWidth + 2);
  const watch = new ResizeObserver(entries => entries.forEach(entry => wide(entry.target)));
  document.querySelectorAll(".scroll").forEach(box => {
    watch.observe(box);
    if (box.firstElementChild) watch.observe(box.firstElementChild);
    box.addEventListener("scroll", () => box.classList.add("moved"), {once: true});
  });
