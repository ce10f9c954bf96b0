  // A map as a file, PNG or SVG: with its title, and a legend for the numbers on it
  function picture(panel, format) {
    const used = new Set(panel.rows.map(i => panel.code[i])), scale = scale_of(panel), wide = 820, tall = 780;
    const name = k => panel.code === group ? "group " + groups.numbers[k] + called(k) : (k + 1) + "  " + data.names[k];
    const legend = scale || !(data.called || group) ? [] : panel.colours.map((_, k) => k).filter(k => used.has(k));
    const columns = Math.ceil(legend.length / 38) || (scale ? 1 : 0), width = wide + 20 + 250 * columns, height = tall + 50;
    const canvas = document.createElement("canvas");
    canvas.width = 2 * width;
    canvas.height = 2 * height;
    const context = canvas.getContext("2d"), svg = format === "svg";
    const pen = svg ? svg_pen(width, height) : canvas_pen(context, 2);
    context.scale(2, 2);
    if (!svg) pen.box(0, 0, width, height, "#fff");
    const inside = {point: (a, b, ...more) => pen.point(a + 10, b + 40, ...more), alpha: pen.alpha,
      ring: (a, b, r) => pen.ring(a + 10, b + 40, r),
      line: (a, b, c, d, colour) => pen.line(a + 10, b + 40, c + 10, d + 40, colour),
      box: (a, b, ...more) => pen.box(a + 10, b + 40, ...more),
      text: (a, b, ...more) => pen.text(a + 10, b + 40, ...more)};
    const kept = panel.placed;
    sketch(panel, inside, wide, tall);
    panel.placed = kept;
    pen.text(12, 22, brief(title_of(panel), 90), {size: 16, bold: true});
    legend.forEach((k, place) => {
      const left = wide + 26 + 250 * Math.floor(place / 38), top = 54 + 19 * (place % 38);
      pen.point(left, top, panel.shapes[k], panel.colours[k], 5);
      pen.text(left + 12, top, brief(name(k), 36));
    });
    if (scale) {
      const steps = ramp(scale[0], 60);
      steps.forEach((colour, k) => pen.box(wide + 20 + 3 * k, 54, 3.5, 12, colour));
      pen.text(wide + 20, 78, "0");
      pen.text(wide + 200, 78, String(Number(scale[1].toFixed(1))), {align: "right"});
      pen.text(wide + 20, 96, unit_of().trim(), {colour: "#55606e"});
    }
    const called_so = file + "_" + (gene ? gene.name.replace(/\W+/g, "_") : panel.id.slice(4)) + "." + format;
    if (svg) download(called_so, pen.content(), "image/svg+xml");
    else canvas.toBlob(blob => download(called_so, blob, "image/png"));
  }
