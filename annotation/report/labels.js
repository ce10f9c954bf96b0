  // Where the names on a map stand: beside their cells rather than over an island or another name

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
  // [x, y, text] a label, in pixels -> the box of each, moved off its cells where it would hide an island or a label
  function moved(labels, covered, wide, high) {
    letters.font = "12px " + FONT;
    const placed = [];
    labels.forEach(label => {
      const half = letters.measureText(label[2]).width / 2 + 3, tall = 8;
      let best = null;
      const attempt = (dx, dy) => {
        const box = [label[0] + dx - half, label[1] + dy - tall, label[0] + dx + half, label[1] + dy + tall];
        const meets = placed.filter(o => o[0] < box[2] && box[0] < o[2] && o[1] < box[3] && box[1] < o[3]).length;
        const outside = box[0] < 0 || box[1] < 0 || box[2] > wide || box[3] > high;
        const cost = covered(box) + 0.0012 * Math.hypot(dx, dy) + 5 * meets + (outside ? 3 : 0);
        if (best === null || cost < best.cost - 1e-9) best = {cost, box};
      };
      attempt(0, 0);
      for (let far = 16; far <= 160; far += 12)
        for (let k = 0; k < 16; k++) attempt(far * Math.cos(k * Math.PI / 8) + (half - tall) *
          Math.sign(Math.round(100 * Math.cos(k * Math.PI / 8))), far * Math.sin(k * Math.PI / 8));
      placed.push(best.box);
    });
    return placed;
  }
