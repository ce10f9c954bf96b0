"""The values of genes as the page holds them: few levels, zeros left out, deflated gene by gene."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix

LEVELS = 15  # above nought; the eye tells no more apart on a colour bar


def packed(values: csr_matrix, names: Sequence[str], order: np.ndarray, room: int) -> dict:
    """Genes as {names, highest, data}: as many of the first as fit into `room` characters.

    values : csr (n, K), log1p; order : (n,) rows, cells that are alike beside each other, for that packs best.

    A gene is base64 of the zlib of: n_on as uint32, then a byte a gap to the next cell that expresses it (255: 255
    cells without, read on), then a byte a level, 1..LEVELS, of its highest value.
    """
    values = csc_matrix(values[order])
    values.sort_indices()
    kept, highest, data = [], [], []
    for k, name in enumerate(names):
        mine = slice(values.indptr[k], values.indptr[k + 1])
        on = values.data[mine] > 0
        cells, level = values.indices[mine][on], values.data[mine][on]  # (n_on,)
        if not len(cells) or not np.isfinite(level).all():
            continue
        text = _deflated(cells, np.clip(np.rint(level / level.max() * LEVELS), 1, LEVELS).astype(np.uint8))
        room -= len(text) + len(str(name)) + 16
        if room < 0:
            break
        kept.append(str(name))
        highest.append(round(float(level.max()), 3))
        data.append(text)
    return {"names": kept, "highest": highest, "data": data, "levels": LEVELS}


def _deflated(cells: np.ndarray, levels: np.ndarray) -> str:
    gaps = np.diff(cells, prepend=-1) - 1  # (n_on,)
    long = gaps // 255
    steps = np.full(len(gaps) + int(long.sum()), 255, dtype=np.uint8)
    steps[np.cumsum(long + 1) - 1] = gaps % 255
    content = np.array([len(cells)], dtype="<u4").tobytes() + steps.tobytes() + levels.tobytes()
    return base64.b64encode(zlib.compress(content, 6)).decode("ascii")
