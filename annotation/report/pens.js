  // Two pens that draw the same: on a canvas, and into the text of an SVG file
  const CORNERS = {diamond: [[0, -1.2], [1.2, 0], [0, 1.2], [-1.2, 0]], square: [[-.9, -.9], [.9, -.9], [.9, .9], [-.9, .9]],
    "triangle-up": [[0, -1.2], [1.15, .9], [-1.15, .9]], "triangle-down": [[0, 1.2], [1.15, -.9], [-1.15, -.9]]};

  function canvas_pen(context, ratio) {
    const stamps = new Map();  // a picture of each kind of point: copying it is faster than drawing it
    function stamp(shape, colour, radius) {
      const key = shape + colour + radius;
      if (stamps.has(key)) return stamps.get(key);
      const made = document.createElement("canvas"), pen = made.getContext("2d"), middle = Math.ceil(radius * 1.3) + 1;
      made.width = made.height = Math.ceil(2 * middle * ratio);
      pen.scale(ratio, ratio);
      pen.translate(middle, middle);
      pen.beginPath();
      if (CORNERS[shape]) CORNERS[shape].forEach(([a, b]) => pen.lineTo(a * radius, b * radius));
      else pen.arc(0, 0, radius, 0, 2 * Math.PI);
      pen.fillStyle = colour;
      pen.fill();
      stamps.set(key, [made, middle]);
      return stamps.get(key);
    }
    return {
      point(px, py, shape, colour, radius) {
        const [picture, middle] = stamp(shape, colour, radius);
        context.drawImage(picture, Math.round((px - middle) * ratio) / ratio, Math.round((py - middle) * ratio) / ratio,
          picture.width / ratio, picture.height / ratio);
      },
      ring(px, py, radius) {
        for (const [colour, width] of [["#fff", 2.6], ["#111", 1.2]]) {
          context.beginPath();
          context.arc(px, py, radius, 0, 2 * Math.PI);
          context.strokeStyle = colour;
          context.lineWidth = width;
          context.stroke();
        }
      },
      line(a, b, c, d, colour) {
        context.beginPath();
        context.moveTo(a, b);
        context.lineTo(c, d);
        context.strokeStyle = colour;
        context.lineWidth = 1;
        context.stroke();
      },
      box(left, top, width, height, colour) { context.fillStyle = colour; context.fillRect(left, top, width, height); },
      text(px, py, words, {align = "left", colour = "#111", size = 12, bold = false} = {}) {
        context.font = (bold ? "600 " : "") + size + "px " + FONT;
        context.textAlign = align;
        context.textBaseline = "middle";
        context.fillStyle = colour;
        context.fillText(words, px, py);
      },
      alpha(value) { context.globalAlpha = value; },
    };
  }

  function svg_pen(width, height) {
    const parts = [], clean = text => text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, "")
      .replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
    const at = value => String(Math.round(value * 10) / 10);
    let alpha = 1;
    const seen = () => alpha === 1 ? "" : ' fill-opacity="' + alpha + '"';
    return {
      point(px, py, shape, colour, radius) {
        parts.push(CORNERS[shape] ? '<path d="M' + CORNERS[shape].map(([a, b]) => at(px + a * radius) + " " +
          at(py + b * radius)).join("L") + 'Z" fill="' + colour + '"' + seen() + "/>"
          : '<circle cx="' + at(px) + '" cy="' + at(py) + '" r="' + at(radius) + '" fill="' + colour + '"' + seen() + "/>");
      },
      ring(px, py, radius) {
        parts.push('<circle cx="' + at(px) + '" cy="' + at(py) + '" r="' + at(radius) +
          '" fill="none" stroke="#111" stroke-width="1.2"/>');
      },
      line(a, b, c, d, colour) {
        parts.push('<path d="M' + at(a) + " " + at(b) + "L" + at(c) + " " + at(d) + '" stroke="' + colour + '"/>');
      },
      box(left, top, w, h, colour) {
        parts.push('<rect x="' + at(left) + '" y="' + at(top) + '" width="' + at(w) + '" height="' + at(h) +
          '" fill="' + (/^rgba/.test(colour) ? '#fff" fill-opacity=".8' : colour) + '"/>');
      },
      text(px, py, words, {align = "left", colour = "#111", size = 12, bold = false} = {}) {
        parts.push('<text x="' + at(px) + '" y="' + at(py + size * 0.36) + '" font-size="' + size + '" text-anchor="' +
          {left: "start", center: "middle", right: "end"}[align] + '" fill="' + colour + '"' +
          (bold ? ' font-weight="600"' : "") + ">" + clean(words) + "</text>");
      },
      alpha(value) { alpha = value; },
      content: () => '<svg xmlns="http://www.w3.org/2000/svg" width="' + width + '" height="' + height + '" viewBox="0 0 ' +
        width + " " + height + '" font-family="system-ui, Segoe UI, Roboto, Arial, sans-serif">' +
        '<rect width="100%" height="100%" fill="#fff"/>' + parts.join("\n") + "</svg>\n",
    };
  }
