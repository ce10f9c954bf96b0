"""The sections of the page as HTML; a section that has nothing to say is empty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd

from annotation.report import figures
from annotation.report.annotation import NUMBERS, Annotation
from annotation.report.figures import MOST_LABELS
from annotation.report.naming import naming
from annotation.report.words import number, percent, plural, short, shown, text

LOW = 0.7  # a median confidence under it is worth a warning
BAR = '<span class="hide">Bar</span>'  # heads a column of bars


def sections(a: Annotation) -> list[tuple[str, str, str]]:
    """(id, heading, HTML) of those that have something to say."""
    every = [
        ("name", "Name the groups", _naming(a)),
        ("map", "Map", _map(a)),
        ("types", "Cells per type", _types(a) if a.called else ""),
        ("agreement", "Existing labels", _agreement(a)),
        ("markers", "Marker genes", _markers(a)),
        ("clusters", "Cluster consensus", _clusters(a)),
        ("calibration", "Confidence", _calibration(a)),
        ("overlap", "Gene overlap", _overlap(a)),
        ("reproduce", "How to reproduce", _reproduce(a)),
    ]
    return [(key, heading, body) for key, heading, body in every if body]


def summary(a: Annotation) -> str:
    n_types = sum(name != a.unknown for name in a.counts)
    tiles = [(f"{a.total:,}", "cell" if a.total == 1 else "cells")]
    if a.called:
        tiles += [
            (f"{n_types:,}", "cell type" if n_types == 1 else "cell types"),
            (percent(a.counts.get(a.unknown, 0) / max(a.total, 1)), a.unknown),
            (number(_median(a.confidence), 2), "median confidence"),
        ]
    if a.groups is not None:
        tiles.append((f"{len(a.groups):,}", "group" if len(a.groups) == 1 else "groups"))
    if a.ece is not None:
        tiles.append((number(float(a.ece)), "calibration error"))
    pairs = "".join(f"<div><dt>{text(word)}</dt><dd>{text(value)}</dd></div>" for value, word in tiles)
    return f'<dl class="tiles">{pairs}</dl>'


def warnings(a: Annotation) -> str:
    found = doubts(a.counts, a.cell_type, a.confidence, a.settings.get("unknown"), a.unknown) if a.called else []
    sentences = [*a.warnings, *found]
    if not sentences:
        return "" if not a.called else '<p class="fine">No warnings.</p>\n'
    items = "".join(f"<li>{text(sentence)}</li>" for sentence in sentences)
    heading = f'<h2 id="h-warn">{plural(len(sentences), "warning")}</h2>'
    return f'<aside class="warn" aria-labelledby="h-warn">{heading}<ul>{items}</ul></aside>\n'


def doubts(
    counts: Mapping[str, int], cell_type: np.ndarray, confidence: np.ndarray, asked: Any, unknown: str
) -> list[str]:
    """What the calls themselves give reason to doubt.

    counts: cells of each type; cell_type and confidence (n,) of some cells or all; asked: the share of known cells
    that may be called `unknown`.
    """
    found = []
    share = counts.get(unknown, 0) / max(sum(counts.values()), 1)
    asked = float(asked) if isinstance(asked, (int, float)) and asked == asked else 0.0
    if share > asked > 0:
        found.append(
            f"{percent(share)} of the cells are {unknown}, more than the {percent(asked)} of wrongly refused cells "
            "that were asked for: there may be types here that none of the labels names."
        )
    medians = {name: _median(confidence[cell_type == name]) for name in counts if name != unknown}
    low = sorted((name for name in medians if medians[name] < LOW), key=medians.get)
    if low:
        named = ", ".join(f"{short(name, 60)} ({medians[name]:.2f})" for name in low[:8])
        more = f" and {len(low) - 8:,} more" if len(low) > 8 else ""
        verb = "has" if len(low) == 1 else "have"
        found.append(
            f"{len(low):,} of {plural(len(medians), 'type')} {verb} a median confidence under {LOW}: {named}{more}."
        )
    return found


def fill(name: str, **values: str) -> str:
    """A file beside this one, as it is or, with values, with each $name replaced."""
    content = (Path(__file__).parent / name).read_text(encoding="utf-8")
    return Template(content).substitute(values) if values else content


# -- the sections ----------------------------------------------------------------
def _naming(a: Annotation) -> str:
    if a.called:  # the map by type has the gene box and the buttons
        return naming(a, fill)
    page = naming(a, fill, _gene_box(a), _bars(a), _downloads(a))
    return page + (_paragraphs([_sample(a), *a.notes]) if _grouped(a) else "")


def _grouped(a: Annotation) -> bool:
    """Whether the map by group is the only one."""
    return not a.called and a.groups is not None


def _sample(a: Annotation) -> str:
    if len(a.cells) == a.total:
        return ""
    return f"The map shows {len(a.cells):,} of {a.total:,} cells; the numbers beside the names count all."


def _map(a: Annotation) -> str:
    if _grouped(a):
        return ""
    by_gene, sample = _gene_box(a), _sample(a)
    if a.umap is None:
        return by_gene + _bars(a) + (_downloads(a) if a.called else "") + _paragraphs(a.notes)
    items = [
        f'<li><button type="button" data-type="{k}" aria-pressed="false">'
        f'<i class="{a.shape(k, name)}" style="background-color:{a.colour(k, name)}" aria-hidden="true"></i>'
        f"<b>{k + 1}</b><span>{shown(name)}</span><em>{count:,}</em></button></li>"
        for k, (name, count) in enumerate(a.counts.items())
    ]
    if not a.called:
        plain = fill("plain.html", cells=plural(len(a.cells), "cell"))
        return by_gene + plain + _bars(a) + _downloads(a) + _paragraphs([sample, *a.notes])
    return fill(
        "map.html",
        seen="name, type, confidence, second choice" + ("" if a.known is None else " and existing label"),
        cells=plural(len(a.cells), "cell"),
        gene=by_gene,
        bars=_bars(a),
        downloads=_downloads(a),
        legend="".join(items),
        notes=_paragraphs([sample, *a.notes]),
    )


def _gene_box(a: Annotation) -> str:
    if a.genes is None:
        return ""
    what = "types" if a.called else "groups" if a.groups is not None else "the plain map"
    return fill("gene.html", example=f"e.g. {text(a.genes[0][0])}", what=what)


def _bars(a: Annotation) -> str:
    """Where the page shows a gene's values by type, beside or beneath the map."""
    return (
        ""
        if a.genes is None
        else '<div id="gene-bars" tabindex="0" role="region" aria-label="Gene by type" hidden></div>'
    )


def _downloads(a: Annotation) -> str:
    return '<div class="tools"><button type="button" data-save="csv">Table as CSV</button></div>'


def _types(a: Annotation) -> str:
    total, most = max(a.total, 1), max(*a.counts.values(), 1)
    rows = [
        [
            f'<span class="no">{k + 1}</span> {shown(name)}',
            _bar(count / most, a.colour(k, name)),
            f"{count:,}",
            percent(count / total),
            number(_median(a.confidence[a.cell_type == name]), 2),
        ]
        for k, (name, count) in enumerate(a.counts.items())
    ]
    note = "Median confidences are those of the cells on the map." if len(a.cells) < total else ""
    head = ["Type", BAR, "Cells", "Share", "Median confidence"]
    return _table("Cells per predicted type", head, rows, 2) + _paragraphs([note])


def _agreement(a: Annotation) -> str:
    if a.confusion is None:
        return ""
    table = a.confusion.to_numpy(dtype=float)  # (known, predicted)
    known, called = a.confusion.index.to_numpy(object), a.confusion.columns.to_numpy(object)
    differs = known[:, None] != called
    total, same = int(table.sum()), int(table[~differs].sum())
    said = f"{same:,} of {plural(total, 'cell')} with an existing label were given the same name"
    said += f" ({percent(same / max(total, 1))})."
    if differs.all():
        said += " No name occurs on both sides: compare rows and columns, not the names."
    if max(table.shape) > MOST_LABELS:
        said += f" The heat map shows the {MOST_LABELS} most frequent names."
    label = f"Heat map of existing labels against predicted types. {said}"
    figure = _scroll(figures.confusion(a.confusion, a.counts, a.unknown, label), "Heat map")
    most = np.argsort(-(table * differs), axis=None, kind="stable")[:10]
    rows = [
        [shown(known[i]), shown(called[j]), f"{int(table[i, j]):,}", percent(table[i, j] / max(table[i].sum(), 1))]
        for i, j in zip(*np.unravel_index(most, table.shape), strict=True)
        if table[i, j] > 0 and differs[i, j]
    ]
    head = ["Existing label", "Predicted type", "Cells", "Of the label"]
    differences = _table("Most frequent differences", head, rows, 2) if rows else ""
    return f'<p>{text(said)}</p>{_paragraphs([a.confusion_note])}<div class="pair">{figure}{differences}</div>'


def _markers(a: Annotation) -> str:
    if a.markers is None:
        return ""
    rows = []
    for name, group in a.markers.groupby("type", sort=False):
        chips = []
        for row in group.itertuples():
            detail = (
                f"{short(row.gene, 60)}: mean {row.mean_in:.2f} in the type, {row.mean_out:.2f} elsewhere; "
                f"found in {percent(row.detected_in)} of its cells, {percent(row.detected_out)} elsewhere"
            )
            chip = f'<button type="button" class="gene" data-gene="{text(row.gene)}" title="{text(detail)}">'
            chips.append(f"{chip}{shown(row.gene)}</button>")
        rows.append([shown(name), " ".join(chips)])
    genes = _table("Top marker genes per predicted type", ["Type", "Genes, best first"], rows, 2)
    lines = [
        [shown(row["type"]), shown(row["gene"])]
        + [percent(row[c]) if c.startswith("detected") else number(float(row[c]), 2) for c in NUMBERS]
        for _, row in a.markers.iterrows()
    ]
    head = ["Type", "Gene", "Mean in", "Mean out", "Found in", "Found out", "Log2 fold change", "Score"]
    numbers = _details("All numbers", _table("Marker genes in numbers", head, lines, 2))
    dots = ""
    if a.dots is not None:
        drawn = figures.dots(a.dots, "Dot plot of the marker genes in every predicted type, as in the table")
        dots = "<p>Colour: mean of log1p(counts per 10,000). Area: share of cells with the gene.</p>"
        dots += _scroll(drawn, "Dot plot")
    note = "At most 30 % of all other cells express a listed gene. Score: Wilcoxon's rank sum in standard deviations."
    return genes + dots + numbers + _paragraphs([note])


def _clusters(a: Annotation) -> str:
    if a.clusters is None:
        return ""
    rows = [
        [
            text(number(row["cluster"])),
            shown(row["majority"]) + (' <span class="mixed">mixed</span>' if row["mixed"] else ""),
            _bar(float(row["share"])),
            number(int(row["n"])),
            percent(float(row["share"])),
            number(float(row["entropy"]), 2),
        ]
        for _, row in a.clusters.iterrows()
    ]
    table = _table(
        "Majority vote in each cluster", ["Cluster", "Majority", BAR, "Cells", "Vote share", "Entropy"], rows, 3
    )
    if len(rows) > 30:
        table = _details(f"All {len(rows):,} clusters", table)
    mixed = int(a.clusters["mixed"].sum())
    verb = "holds" if mixed == 1 else "hold"
    said = f"{mixed:,} of {plural(len(rows), 'cluster')} {verb} more than one type."
    return f"<p>{text(said)}</p>{table}"


def _calibration(a: Annotation) -> str:
    if a.reliability is None:
        return ""
    bins = a.reliability[a.reliability["n"] > 0]
    rows = [[f"{row.confidence:.3f}", f"{row.accuracy:.3f}", f"{int(row.n):,}"] for row in bins.itertuples()]
    table = _table("Held-out labelled cells by confidence", ["Confidence", "Share correct", "Cells"], rows)
    total = max(int(bins["n"].sum()), 1)
    ece = "" if a.ece is None else f" Expected calibration error: {float(a.ece):.3f}."
    said = f"Measured on {plural(total, 'held-out labelled cell')}. Of those called with 80 % confidence 80 % "
    said += f"should be right: that is the dashed line.{ece}"
    return f'<p>{text(said)}</p><div class="pair">{_reliability(bins, total)}{table}</div>'


def _reliability(bins: pd.DataFrame, total: int) -> str:
    """An SVG: how often each bin of confidence was right; the area of a dot grows with its share of all cells."""
    side, left, top = 260, 46, 16

    def at(x: float, y: float) -> tuple[float, float]:
        return left + side * x, top + side * (1 - y)

    marks, grid = [], []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        (x, low), (near, y) = at(tick, 0), at(0, tick)
        grid.append(f'<path d="M{x} {top}V{low}M{near} {y}H{left + side}" class="grid"/>')
        grid.append(f'<text x="{x}" y="{low + 16}" text-anchor="middle">{tick:g}</text>')
        grid.append(f'<text x="{near - 6}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    for row in bins.itertuples():
        x, y = at(float(row.confidence), float(row.accuracy))
        said = f"{int(row.n):,} cells: confidence {row.confidence:.3f}, correct {row.accuracy:.3f}"
        radius = 4 + 9 * np.sqrt(row.n / total)
        marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{text(said)}</title></circle>')
    (x0, y0), (x1, y1) = at(0, 0), at(1, 1)
    return (
        f'<svg class="reliability" viewBox="0 0 {side + left + 14} {side + top + 42}" role="img" '
        'aria-label="Reliability diagram; the table beside it holds its numbers">'
        f'{"".join(grid)}<path d="M{x0} {y0}L{x1} {y1}" class="ideal"/>{"".join(marks)}'
        f'<text x="{left + side / 2}" y="{side + top + 36}" text-anchor="middle">confidence said</text>'
        f'<text transform="translate(12 {top + side / 2}) rotate(-90)" '
        'text-anchor="middle">share correct</text></svg>'
    )


def _overlap(a: Annotation) -> str:
    if a.overlap is None:
        return ""
    rows = [
        [
            f"{_bar(float(value))} {percent(float(value))}" if column == "share" else text(number(value))
            for column, value in row.items()
        ]
        for _, row in a.overlap.iterrows()
    ]
    head = [text(str(column).replace("_", " ").capitalize()) for column in a.overlap]
    numeric = [pd.api.types.is_numeric_dtype(a.overlap[column]) for column in a.overlap]
    leading = numeric.index(True) if any(numeric) else len(numeric)
    return _table("Genes found", head, rows, max(leading, 1))


def _reproduce(a: Annotation) -> str:
    command = f'<pre tabindex="0" aria-label="Command">{text(a.command)}</pre>' if a.command else ""
    tables = "".join(
        _table(caption, ["Name", "Value"], [[text(k), text(v)] for k, v in table.items() if str(v)], 2)
        for caption, table in (("Settings", a.settings), ("Versions", a.versions))
        if table
    )
    return command + (f'<div class="pair">{tables}</div>' if tables else "")


# -- what they are made of ----------------------------------------------------------------
def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """A table of finished HTML cells; all columns after the first `text_columns` are numbers."""
    kind = ["" if c < text_columns else ' class="num"' for c in range(len(head))]
    heads = "".join(f'<th scope="col"{kind[c]}>{h}</th>' for c, h in enumerate(head))
    lines = []
    for row in rows:
        first = f'<th scope="row">{row[0]}</th>'
        lines.append(f"<tr>{first}{''.join(f'<td{kind[c]}>{v}</td>' for c, v in enumerate(row) if c)}</tr>")
    table = (
        f"<table><caption>{text(caption)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>"
    )
    return _scroll(table, caption)


def _scroll(content: str, label: str) -> str:
    """What may be wider than the window."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{text(label)}">{content}</div>'


def _details(heading: str, content: str) -> str:
    return f"<details><summary>{heading}</summary>{content}</details>"


def _bar(share: float, colour: str = "#4a6fa5") -> str:
    width = 100 * min(max(share, 0), 1) if share == share else 0
    fill_ = f'<i style="width:{width:.2f}%;background:{colour}"></i>'
    return f'<span class="bar" aria-hidden="true">{fill_}</span>'


def _paragraphs(sentences: Iterable[str]) -> str:
    return "".join(f'<p class="note">{text(sentence)}</p>' for sentence in sentences if sentence)


def _median(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else float("nan")
