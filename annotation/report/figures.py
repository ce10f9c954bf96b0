"""The heat map and the dot plot as SVG; what a mark says stands in its data-tip."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from annotation.report.words import percent, short, shown, text

MOST_LABELS = 60  # of a heat map that is still legible, down and across
HEAT = "#ffffff #eef3f9 #a9c3dd #6b9bc7 #3d6d9f #123f6d".split()
DOTS = "#e3e9f0 #6b9bc7 #0b2f55".split()
INK, SOFT = "#1c2430", "#55606e"


def confusion(table: pd.DataFrame, counts: Mapping[str, int], unknown: str, label: str) -> str:
    """Existing labels down, predicted types across, both in one order, so that agreement is the diagonal.

    table : cells, existing label x predicted type; label : what the picture is, for those who hear the page.
    """
    of_label = table.sum(axis=1)
    down, across = _diagonal(table, list(counts), unknown)
    cells = table.loc[down, across].to_numpy(dtype=float)  # (known, predicted)
    share = cells / np.maximum(of_label.loc[down].to_numpy(dtype=float)[:, None], 1)
    number = {name: k + 1 for k, name in enumerate(counts)}
    left_words, below_words = [[_tick(name, number) for name in names] for names in (down, across)]
    size = int(np.clip(520 / max(len(across), 1), 17, 46))
    high = int(np.clip(size, 17, 30))
    marks = []
    for i, j in np.argwhere(cells > 0):
        said = f"{shown(down[i])} → {shown(across[j])}: {int(cells[i, j]):,} cells, {percent(share[i, j])} of the label"
        marks.append(
            f'<rect x="{j * size + 0.5}" y="{i * high + 0.5}" width="{size - 1}" height="{high - 1}" '
            f'fill="{shade(HEAT, share[i, j])}" data-tip="{said}"/>'
        )
        if size >= 30:
            ink = "#ffffff" if share[i, j] > 0.45 else INK
            marks.append(
                f'<text x="{(j + 0.5) * size}" y="{i * high + high / 2 + 4}" text-anchor="middle" font-size="11" '
                f'fill="{ink}" pointer-events="none">{_amount(int(cells[i, j]))}</text>'
            )
    grid = f'<rect width="{len(across) * size}" height="{len(down) * high}" fill="#fafbfc" stroke="#dde2e8"/>'
    key = _key(HEAT, ["0 %", "50 %", "100 %"], "of the label")
    return _plot(
        "confusion", label, grid + "".join(marks), key, (left_words, high, "existing label"),
        (below_words, size, "predicted type"),
    )  # fmt: skip


def _diagonal(table: pd.DataFrame, types: Sequence[str], unknown: str) -> tuple[list, list]:
    """The most frequent labels down and across: first those on both sides, as on the page; Unknown last."""
    table = table.loc[
        table.sum(axis=1).nlargest(MOST_LABELS).index,
        table.sum(axis=0).nlargest(MOST_LABELS).index,
    ]
    place = {name: k for k, name in enumerate(types)}
    of_label, of_type = table.sum(axis=1), table.sum(axis=0)
    shared = [name for name in table.index if name in of_type.index]
    shared.sort(key=lambda name: (name == unknown, place.get(name, len(place)), -of_label[name], str(name)))
    by_size = of_label.sort_values(ascending=False, kind="stable").index
    down = shared + [name for name in by_size if name not in of_type.index]
    extra = [name for name in table.columns if name not in of_label.index]
    extra.sort(key=lambda name: (-of_type[name], str(name)))
    return down, sorted(shared + extra, key=lambda name: name == unknown)


def dots(table: pd.DataFrame, label: str) -> str:
    """Types down, genes across; table : as `marker_dots` returns it."""
    types, genes = list(dict.fromkeys(table["type"])), list(dict.fromkeys(table["gene"]))
    mean = table.pivot(index="type", columns="gene", values="mean").loc[types, genes].to_numpy(dtype=float)
    genes = [genes[g] for g in np.argsort(mean.argmax(axis=0), kind="stable")]  # their dots form a diagonal
    row, column = ({name: k for k, name in enumerate(names)} for names in (types, genes))
    highest, size, high = max(float(np.nanmax(mean)), 1e-9), 18, 20
    lines = [f"M0 {(k + 0.5) * high}H{len(genes) * size}" for k in range(len(types))]
    lines += [f"M{(k + 0.5) * size} 0V{len(types) * high}" for k in range(len(genes))]
    marks = [f'<path d="{"".join(lines)}" stroke="#f0f2f4"/>']
    for dot in table[["type", "gene", "mean", "detected"]].itertuples(name="Dot"):
        said = f"{shown(dot.gene)} in {shown(dot.type)}: mean {dot.mean:.2f}, found in {percent(dot.detected)}"
        marks.append(
            f'<circle cx="{(column[dot.gene] + 0.5) * size}" cy="{(row[dot.type] + 0.5) * high}" '
            f'r="{0.5 + 7 * np.sqrt(max(dot.detected, 0)):.2f}" fill="{shade(DOTS, dot.mean / highest)}" '
            f'data-tip="{said}"/>'
        )
    key = _key(DOTS, ["0", "", f"{highest:.1f}"], "mean")
    gene_words = [text(short(str(gene), 18)) for gene in genes]
    return _plot(
        "dots", label, "".join(marks), key, ([_tick(name) for name in types], high, ""), (gene_words, size, "")
    )


# -- what they are made of ----------------------------------------------------------------
def _plot(
    key: str, label: str, marks: str, scale: str, down: tuple[list[str], int, str], across: tuple[list[str], int, str]
) -> str:
    """Marks with a word a row at their left, a word a column beneath, a scale at their right."""
    rows, high, left_title = down
    columns, size, below_title = across
    left = 14 + max(map(_wide, rows), default=0) + (18 if left_title else 0)
    below = 12 + max(map(_wide, columns), default=0)
    inside, tall = size * len(columns), high * len(rows)
    width, height = left + inside + 96, 8 + max(tall + below + (22 if below_title else 0), 134)
    words = [f'<text x="-7" y="{(k + 0.5) * high + 4}" text-anchor="end">{word}</text>' for k, word in enumerate(rows)]
    words += [
        f'<text transform="translate({(k + 0.5) * size + 4} {tall + 7}) rotate(-90)" text-anchor="end">{word}</text>'
        for k, word in enumerate(columns)
    ]
    if left_title:
        middle = f"translate({12 - left} {tall / 2}) rotate(-90)"
        words.append(f'<text transform="{middle}" text-anchor="middle" fill="{SOFT}">{left_title}</text>')
        words.append(
            f'<text x="{inside / 2}" y="{tall + below + 14}" text-anchor="middle" fill="{SOFT}">{below_title}</text>'
        )
    return (
        f'<svg id="{key}" xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{text(label)}" '
        f'font-family="system-ui, Segoe UI, Roboto, Arial, sans-serif" font-size="12" fill="{INK}">'
        f'<g transform="translate({left} 8)">{marks}{"".join(words)}'
        f'<g transform="translate({inside + 22} 4)">{scale}</g></g></svg>'
    )


def _key(stops: Sequence[str], words: Sequence[str], title: str) -> str:
    """An upright scale, its lowest at the foot."""
    tall, steps = 100, 20
    boxes = "".join(
        f'<rect y="{14 + tall * (1 - (k + 1) / steps)}" width="12" height="{tall / steps + 0.5}" '
        f'fill="{shade(stops, k / (steps - 1))}"/>'
        for k in range(steps)
    )
    ticks = "".join(
        f'<text x="18" y="{18 + tall * (1 - k / (len(words) - 1)):.0f}" font-size="11">{word}</text>'
        for k, word in enumerate(words)
    )
    return f'<text y="4" font-size="11" fill="{SOFT}">{title}</text>{boxes}{ticks}'


def shade(stops: Sequence[str], at: float) -> str:
    """The colour `at` 0..1 along the stops of a scale."""
    at = min(max(float(at), 0.0), 1.0) * (len(stops) - 1) if at == at else 0.0
    low = min(int(at), len(stops) - 2)
    ends = [[int(stop[c : c + 2], 16) for c in (1, 3, 5)] for stop in stops[low : low + 2]]
    return "#" + "".join(f"{round(a * (low + 1 - at) + b * (at - low)):02x}" for a, b in zip(*ends, strict=True))


def _amount(cells: int) -> str:
    return f"{cells:,}" if cells < 10_000 else f"{cells / 1000:,.0f}k"


def _wide(word: str) -> int:
    """Pixels of an escaped word, at least, in the widest of the usual fonts (DejaVu Sans)."""
    of = {**dict.fromkeys("ijlI.,:;'|! ()[]", 4.4), **dict.fromkeys("mwMW@%", 11.5)}
    return int(sum(of.get(c, 12.5 if ord(c) > 0x2E80 else 8.4 if c.isupper() else 7.5) for c in html.unescape(word)))


def _tick(name: str, number: Mapping[str, int] | None = None) -> str:
    """A name in short. One too long to show in full carries its number in the legend: long names often begin alike."""
    words = short(str(name))
    if number and words != str(name) and name in number:
        words = f"{number[name]} {words}"
    return text(words) or "(none)"
