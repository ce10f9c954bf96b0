"""The values of genes as the page holds them: few levels, deflated gene by gene, averaged where they take too much."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix

LEVELS = 15  # above nought; the eye tells no more apart on a colour bar
ALIKE = 8  # cells of a neighbourhood, at most


@dataclass(frozen=True)
class Neighbourhoods:
    """Small sets of cells of one kind that lie side by side on the map.

    order  (n,) rows, those of a neighbourhood after one another, kind by kind
    sizes  (R,) cells of each neighbourhood
    code   (n,) the kind of each row, 0..kinds-1; beyond: of no kind
    kinds  how many kinds there are
    """

    order: np.ndarray
    sizes: np.ndarray
    code: np.ndarray
    kinds: int


def neighbourhoods(umap: np.ndarray | None, code: np.ndarray, kinds: int) -> Neighbourhoods:
    """Halve the cells of each kind at the median of the longer side of their box until at most `ALIKE` are left.

    umap : (n, 2) or None, which leaves the cells as they come; code : (n,) int, as in `Neighbourhoods`.
    """
    points = np.zeros((len(code), 2), np.float32) if umap is None else np.asarray(umap)
    parts: list[np.ndarray] = []
    for kind in np.unique(code):
        waiting = [np.flatnonzero(code == kind)]
        while waiting:
            rows = waiting.pop()
            if len(rows) <= ALIKE:
                parts.append(rows)
                continue
            side = int(np.ptp(points[rows], axis=0).argmax())
            rows = rows[np.argsort(points[rows, side], kind="stable")]
            half = len(rows) // 2
            waiting += [rows[half:], rows[:half]]  # the left half goes first
    return Neighbourhoods(np.concatenate(parts), np.array([len(part) for part in parts]), np.asarray(code), kinds)


def packed(values: csr_matrix, genes: Mapping[str, int], near: Neighbourhoods, room: int, listed: int = 0) -> dict:
    """Genes as {names, highest, top, averaged, data}: as many of the first as fit into `room` characters.

    values : csr (n, K), log1p; genes : column of each, in the order in which they matter; listed : how many of the
    first stand in tables of the page.

    A gene is base64 of the raw deflate of bytes. Exact: `_exact`, in levels of `highest`. Averaged: LEVELS + 1 bytes
    a kind, the shares of its cells at each level of `top` in 1/255; then a byte a neighbourhood, its mean in levels
    of `highest`. Where the exact ones take too much room, those that take most are averaged, listed ones last.
    """
    columns = csc_matrix(values)
    place = np.empty(len(near.order), dtype=np.uint16 if len(near.order) <= 1 << 16 else np.intp)  # small sorts faster
    place[near.order] = np.arange(len(place))
    found = []
    for k, name in enumerate(genes):
        cells, value = _expressing(columns, genes[name], place)
        if len(cells) and np.isfinite(value).all():
            top = float(value.max())
            found.append({"k": k, "name": name, "top": top, "highest": top, "text": _exact(cells, value)})
    over = sum(map(_length, found)) - room
    for gene in sorted(found, key=lambda gene: (gene["k"] < listed, -len(gene["text"]))):
        if over <= 0:
            break
        highest, text = _averaged(*_expressing(columns, genes[gene["name"]], place), near)
        if len(text) < len(gene["text"]):
            over -= len(gene["text"]) - len(text)
            gene |= {"highest": highest, "text": text, "averaged": 1}
    kept = []
    for gene in found:
        room -= _length(gene)
        if room < 0:
            break
        kept.append(gene)
    return {
        "names": [gene["name"] for gene in kept],
        "highest": [round(gene["highest"], 3) for gene in kept],
        "top": [round(gene["top"], 3) for gene in kept],
        "averaged": [gene.get("averaged", 0) for gene in kept],
        "data": [gene["text"] for gene in kept],
        "levels": LEVELS,
        "kinds": near.kinds,
    }


def _expressing(columns: csc_matrix, k: int, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the cells that express a gene, first to last, and its values there; both (n_on,)."""
    mine = slice(columns.indptr[k], columns.indptr[k + 1])
    cells, value = place[columns.indices[mine]], columns.data[mine]
    cells, value = cells[~(value <= 0)], value[~(value <= 0)]  # NaN stays, and is found out
    first = np.argsort(cells, kind="stable")
    return cells[first].astype(np.intp), value[first]


def _length(gene: dict) -> int:
    """Characters of JSON."""
    return len(gene["text"]) + len(gene["name"].encode(errors="backslashreplace")) + 22


def _level(value: np.ndarray, highest: float) -> np.ndarray:
    return np.clip(np.rint(value / highest * LEVELS), 1, LEVELS).astype(np.uint8)


def _exact(cells: np.ndarray, value: np.ndarray) -> str:
    """A byte a cell that expresses it: high half the cells passed over since the last (0..14), low half its level.

    240 passes over 15 cells and is of none.
    """
    gaps = np.diff(cells, prepend=-1) - 1  # (n_on,)
    long = gaps // 15
    content = np.full(len(gaps) + int(long.sum()), 0xF0, dtype=np.uint8)
    content[np.cumsum(long + 1) - 1] = (gaps % 15) * 16 + _level(value, value.max())
    return deflated(content.tobytes())


def _averaged(cells: np.ndarray, value: np.ndarray, near: Neighbourhoods) -> tuple[float, str]:
    """Its highest mean, and what the page holds of it."""
    code = near.code[near.order]
    level = np.zeros(len(code), dtype=np.intp)
    level[cells] = _level(value, value.max())
    known = code < near.kinds
    at = code[known] * (LEVELS + 1) + level[known]
    shares = np.bincount(at, minlength=near.kinds * (LEVELS + 1)).reshape(near.kinds, LEVELS + 1).astype(float)
    shares = np.rint(255 * shares / np.maximum(shares.sum(axis=1, keepdims=True), 1)).astype(np.uint8)
    run = np.repeat(np.arange(len(near.sizes)), near.sizes)
    mean = np.bincount(run[cells], weights=value, minlength=len(near.sizes)) / near.sizes  # (R,)
    highest = max(float(mean.max()), 1e-6)
    return highest, deflated(shares.tobytes() + np.rint(mean / highest * LEVELS).astype(np.uint8).tobytes())


def deflated(content: bytes) -> str:
    """base64 of the raw deflate, which browsers unpack as `deflate-raw`.

    Levels repeat in no pattern: without a search for one it is twelve times as fast, and a little smaller.
    """
    made = zlib.compressobj(6, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return base64.b64encode(made.compress(content) + made.flush()).decode("ascii")
