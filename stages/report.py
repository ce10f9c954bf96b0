"""One self-contained HTML page about an annotation, and the marker genes it shows.

The page holds everything it needs (plotly.js, data, styles), opens offline and is forbidden by its own
content security policy to ask any other machine for anything. Nothing is computed from the cells here but
their marker genes: the caller hands over plain arrays and tables.
"""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from plotly.offline import get_plotlyjs
from scipy.sparse import csr_matrix

# Chosen one by one, each as far as possible (OKLab distance) from all before it and from the grey of Unknown,
# the nearest of normal, deuteranope and protanope sight counting; the first six are Okabe and Ito's (2008).
# Beyond 40 types the colours repeat: the numbers on the map and the legend still tell them apart.
COLOURS = (
    "#0072b2 #e69f00 #009e73 #d55e00 #cc79a7 #56b4e9 #69001e #0f00a5 #4b00ff #874b4b "
    "#8778ff #003c5a #00d287 #c31e96 #c30000 #0f3cc3 #f05a69 #006978 #96000f #c33cd2 "
    "#ff78d2 #3c3c87 #00d2ff #4b5aff #c369d2 #693c3c #ffa569 #0f962d #7896ff #3c4b69 "
    "#690f4b #87694b #87b4a5 #3c1e78 #ff96c3 #3c5ab4 #d2965a #0000e1 #5a2da5 #8778b4"
).split()
UNKNOWN_COLOUR = "#d3d3d3"
# viridis (van der Walt and Smith, 2015; CC0) from 0 to 1: even steps look even, also to colour-blind eyes
SCALE = (
    "#440154 #48186a #472d7b #424086 #3b528b #33638d #2c728e #26828e #21918c "
    "#1fa088 #28ae80 #3fbc73 #5ec962 #84d44b #addc30 #d8e219 #fde725"
).split()
MARKER_NUMBERS = ("mean_in", "mean_out", "detected_in", "detected_out", "log2_fold_change", "score")
MOST_LABELS = 60  # of a heat map that is still legible, down and across
NO_NAME = 0xFFFF  # the code of "no label" in the page's uint16 columns


@dataclass
class Annotation:
    """What the page says about n drawn cells, out of possibly many more that were annotated.

    title          heading of the page
    cells          (n,) names of the drawn cells
    cell_type      (n,) the call of each, `unknown` where none was made
    confidence     (n,) 0..1, NaN where there is none
    umap           (n, 2) finite coordinates, or None: no map
    second_choice  (n,) the runner-up, "" for none; or None
    known          (n,) labels the cells came with, "" for none; or None
    counts         {type: cells} over all cells; None: the drawn cells are all there are
    confusion      cells, existing label (index) x predicted type (columns), over all cells; or None: `known`
    confusion_note a sentence under it, e.g. that known labels were kept
    markers        what `marker_genes` returns
    dots           what `marker_dots` returns
    overlap        gene overlap, a row per dataset, columns as they are to be headed ("share" is a fraction)
    clusters       consensus: cluster, n, majority, share, entropy, mixed (bool)
    ece            expected calibration error, a fraction
    reliability    calibration bins: confidence, accuracy, n
    warnings       sentences, shown at the top
    notes          sentences, shown under the map, e.g. how cells were sampled
    settings, versions, command   how the page came about
    unknown        the name that stands for "no known type"
    """

    title: str
    cells: Sequence[str]
    cell_type: Sequence[str] | np.ndarray
    confidence: np.ndarray
    umap: np.ndarray | None = None
    second_choice: Sequence[str] | np.ndarray | None = None
    known: Sequence[str] | np.ndarray | None = None
    counts: Mapping[str, int] | None = None
    confusion: pd.DataFrame | None = None
    confusion_note: str = ""
    markers: pd.DataFrame | None = None
    dots: pd.DataFrame | None = None
    overlap: pd.DataFrame | Sequence[Mapping] | None = None
    clusters: pd.DataFrame | None = None
    ece: float | None = None
    reliability: pd.DataFrame | None = None
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    unknown: str = "Unknown"


def write_report(path: str | Path, annotation: Annotation) -> None:
    """Write the page; the file appears whole or not at all.

    Raises ValueError where the arrays do not fit each other, OSError where the file cannot be written.
    """
    path = Path(path)
    page = render(annotation)
    part = path.with_name(path.name + ".part")
    try:
        # a name that is no valid unicode (h5 files hold such) must not cost the user the page
        part.write_text(page, encoding="utf-8", errors="backslashreplace")
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        reason = error.strerror or error
        raise OSError(f"{path}: the report could not be written ({reason}); name another place") from error


def render(annotation: Annotation) -> str:
    """The page as one string (about 5 MB, nearly all of it plotly.js; 50,000 cells add about 3 MB)."""
    a = annotation
    cells, types, confidence, second, known, umap = _checked(a)
    counts = _counts(a, types)
    confusion = a.confusion if a.confusion is not None else _confusion(known, types)
    if confusion is not None and confusion.size == 0:
        confusion = None

    sections = [
        ("map", "Map", _map_section(a, counts, umap, len(cells), known is not None)),
        ("types", "Cells per type", _types_section(a, counts, types, confidence)),
        ("agreement", "Existing labels", _agreement_section(a, confusion)),
        ("markers", "Marker genes", _markers_section(a, counts)),
        ("clusters", "Cluster consensus", _clusters_section(a)),
        ("calibration", "Confidence", _calibration_section(a)),
        ("overlap", "Gene overlap", _overlap_section(a)),
        ("reproduce", "How to reproduce", _reproduce_section(a)),
    ]
    sections = [(key, heading, body) for key, heading, body in sections if body]
    figures = {
        "confusion": _confusion_figure(confusion, counts, a.unknown) if confusion is not None else None,
        "dots": _dots_figure(_in_order(a.dots, counts)) if a.dots is not None and len(a.dots) else None,
    }
    data = _page_data(a, cells, types, confidence, second, known, umap, counts)
    data["figures"] = {key: figure for key, figure in figures.items() if figure}

    links = "".join(f'<a href="#{key}">{heading}</a>' for key, heading, _ in sections)
    body = "".join(
        f'<section id="{key}" aria-labelledby="h-{key}"><h2 id="h-{key}">{heading}</h2>{text}</section>\n'
        for key, heading, text in sections
    )
    return "".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            '<link rel="icon" href="data:,">\n',
            f"<title>{_text(a.title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n",
            f"<header><h1>{_text(a.title)}</h1>{_summary(a, counts, confidence)}",
            f'<nav aria-label="Sections">{links}</nav></header>\n',
            f"<main>\n{_warnings(a.warnings)}{body}</main>\n",
            '<div id="tip" role="status" hidden></div>\n',
            "<noscript>The map and the heat map need JavaScript; the tables do not.</noscript>\n",
            f'<script type="application/json" id="data">{_json(data)}</script>\n',
            f"<script>{get_plotlyjs()}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        ]
    )


# ----------------------------------------------------------------------------------------------- marker genes


def marker_genes(
    log_counts: csr_matrix,
    genes: Sequence[str],
    types: Sequence[str] | np.ndarray,
    top: int = 5,
    *,
    skip: Iterable[str] = ("Unknown", ""),
    min_cells: int = 3,
    min_detected: float = 0.1,
) -> pd.DataFrame:
    """The genes that set each type apart from all other cells.

    log_counts : csr (n, G), natural log1p of counts per 10,000; types : (n,) names.
    Returns a row per type and gene, best first: type, gene, mean_in, mean_out (of log_counts), detected_in,
    detected_out (shares of cells with the gene), log2_fold_change, score.

    The score is Welch's t (1947), as in scanpy's default test. Listed are genes found in `min_detected` of
    the type's cells or more (Seurat's default before version 5) and higher in the type than outside it. The
    fold change is the difference of means over ln 2: that of the geometric means of 1 + counts per 10,000, so
    a gene absent elsewhere has a finite one. Types in `skip` or of under `min_cells` cells are left out.
    """
    log_counts, names, code = _by_type(log_counts, genes, types)
    n, n_genes = log_counts.shape
    size = np.bincount(code, minlength=len(names)).astype(float)[:, None]  # (L, 1)
    total = _sums(log_counts, code, len(names))  # (L, G)
    squares = _sums(_with_data(log_counts, log_counts.data.astype(np.float64) ** 2), code, len(names))
    found = _sums(_with_data(log_counts, log_counts.data > 0), code, len(names))

    rows = []
    for k, name in enumerate(names):
        n_in, n_out = size[k, 0], n - size[k, 0]
        if name in set(skip) or n_in < min_cells or n_out < min_cells:
            continue
        mean_in, mean_out = total[k] / n_in, (total.sum(axis=0) - total[k]) / n_out  # (G,)
        var_in = (squares[k] / n_in - mean_in**2).clip(0) * n_in / (n_in - 1)
        var_out = ((squares.sum(axis=0) - squares[k]) / n_out - mean_out**2).clip(0) * n_out / (n_out - 1)
        detected_in, detected_out = found[k] / n_in, (found.sum(axis=0) - found[k]) / n_out
        # 1e-9: a gene that is constant on both sides has no variance to divide by
        t = (mean_in - mean_out) / np.sqrt(var_in / n_in + var_out / n_out + 1e-9)
        wanted = np.flatnonzero((detected_in >= min_detected) & (mean_in > mean_out))
        wanted = wanted[np.argsort(-t[wanted], kind="stable")][:top]
        rows += [
            (
                name,
                str(genes[g]),
                mean_in[g],
                mean_out[g],
                detected_in[g],
                detected_out[g],
                (mean_in[g] - mean_out[g]) / np.log(2),
                t[g],
            )
            for g in wanted
        ]
    return pd.DataFrame(rows, columns=["type", "gene", *MARKER_NUMBERS])


def marker_dots(
    log_counts: csr_matrix,
    genes: Sequence[str],
    types: Sequence[str] | np.ndarray,
    wanted: Sequence[str],
    *,
    skip: Iterable[str] = ("Unknown", ""),
) -> pd.DataFrame:
    """How every type expresses every gene of `wanted`: type, gene, mean, detected (share of cells with it).

    log_counts : csr (n, G); types : (n,). Genes of `wanted` that are not in `genes` are left out.
    """
    where = {str(gene): g for g, gene in reversed(list(enumerate(genes)))}
    wanted = [gene for gene in dict.fromkeys(map(str, wanted)) if gene in where]
    picked = csr_matrix(log_counts)[:, [where[gene] for gene in wanted]]  # (n, wanted)
    picked, names, code = _by_type(picked, wanted, types)
    size = np.bincount(code, minlength=len(names)).astype(float)[:, None]
    mean = _sums(picked, code, len(names)) / size
    detected = _sums(_with_data(picked, picked.data > 0), code, len(names)) / size
    keep = [k for k, name in enumerate(names) if name not in set(skip)]
    return pd.DataFrame(
        {
            "type": [names[k] for k in keep for _ in wanted],
            "gene": wanted * len(keep),
            "mean": mean[keep].ravel(),
            "detected": detected[keep].ravel(),
        }
    )


def _by_type(log_counts: csr_matrix, genes: Sequence[str], types) -> tuple[csr_matrix, list[str], np.ndarray]:
    log_counts = csr_matrix(log_counts)
    types = np.asarray(types, dtype=object)
    if log_counts.shape != (len(types), len(genes)):
        raise ValueError(
            f"marker genes: a matrix of {log_counts.shape[0]:,} cells x {log_counts.shape[1]:,} genes "
            f"was given with {len(types):,} types and {len(genes):,} gene names; they must be of one size"
        )
    code, names = pd.factorize(pd.Series([str(t) for t in types], dtype=object), sort=True)
    return log_counts, list(names), code


def _with_data(matrix: csr_matrix, data: np.ndarray) -> csr_matrix:
    return csr_matrix((data.astype(np.float64), matrix.indices, matrix.indptr), shape=matrix.shape)


def _sums(matrix: csr_matrix, code: np.ndarray, n_types: int) -> np.ndarray:
    """Column sums by type, (L, G), in float64."""
    n = len(code)
    member = csr_matrix((np.ones(n), (code, np.arange(n))), shape=(n_types, n))
    return (member @ matrix).toarray()


# ------------------------------------------------------------------------------------------ what is handed in


def _checked(a: Annotation):
    """The columns as arrays of one length; ValueError where they are not."""
    n = len(a.cells)
    if n == 0:
        raise ValueError(f"{a.title}: a report needs at least one cell")
    columns = {"cell_type": a.cell_type, "confidence": a.confidence}
    columns |= {k: v for k, v in (("second_choice", a.second_choice), ("known", a.known)) if v is not None}
    for name, values in columns.items():
        if len(values) != n:
            raise ValueError(f"{a.title}: {len(values):,} values of {name} for {n:,} cells")
    umap = None
    if a.umap is not None:
        umap = np.asarray(a.umap, dtype=np.float32)  # (n, 2)
        if umap.shape != (n, 2):
            raise ValueError(f"{a.title}: UMAP coordinates are of shape {umap.shape}, not ({n}, 2)")
        if not np.isfinite(umap).all():
            raise ValueError(f"{a.title}: {int((~np.isfinite(umap)).sum()):,} UMAP coordinates are not numbers")
    confidence = np.asarray(a.confidence, dtype=np.float32)
    return (
        [str(cell) for cell in a.cells],
        _names(a.cell_type),
        confidence,
        None if a.second_choice is None else _names(a.second_choice),
        None if a.known is None else _names(a.known),
        umap,
    )


def _names(values) -> np.ndarray:
    """(n,) object array of str; missing values become ""."""
    values = np.asarray(values, dtype=object)
    return np.array(["" if v is None or v != v else str(v) for v in values], dtype=object)


def _counts(a: Annotation, types: np.ndarray) -> dict[str, int]:
    """{type: cells} over all cells, most first, Unknown last."""
    drawn = pd.Series(types, dtype=object).value_counts()
    counts = {str(k): int(v) for k, v in (drawn if a.counts is None else a.counts).items()}
    for name in drawn.index:  # a caller's table that forgets a type must not make its cells vanish
        counts.setdefault(name, int(drawn[name]))
    return dict(sorted(counts.items(), key=lambda item: (item[0] == a.unknown, -item[1], item[0])))


def _confusion(known: np.ndarray | None, types: np.ndarray) -> pd.DataFrame | None:
    if known is None or not (known != "").any():
        return None
    labelled = known != ""
    return pd.crosstab(pd.Series(known[labelled], dtype=object), pd.Series(types[labelled], dtype=object))


def _page_data(a, cells, types, confidence, second, known, umap, counts) -> dict:
    """The columns of the map: numbers as base64 of little-endian arrays, names sent once and pointed at."""
    names = list(counts)
    for column in (second, known):
        if column is not None:
            names += sorted(set(column.tolist()) - set(names) - {""})
    if len(names) >= NO_NAME:
        raise ValueError(f"{a.title}: {len(names):,} different labels are too many for a report")
    code = {name: k for k, name in enumerate(names)}
    # Unknown beneath, the rest in a drawn order that does not depend on the file's: no type covers another
    order = np.random.default_rng(0).permutation(len(cells))
    order = order[np.argsort(types[order] != a.unknown, kind="stable")]

    def coded(column):
        if column is None:
            return None
        return _pack(np.array([code.get(v, NO_NAME) for v in column[order]]), "<u2")

    data = {
        "names": names,
        "colours": [_colour(k, name, a.unknown) for k, name in enumerate(counts)],
        "scale": SCALE,
        "counts": list(counts.values()),
        "cells": [cells[i] for i in order],
        "type": coded(types),
        "confidence": _pack(confidence[order], "<f4"),
        "second": coded(second),
        "known": coded(known),
        "x": None,
        "y": None,
        "labels": [],
    }
    if umap is not None:
        data["x"], data["y"] = _pack(umap[order, 0], "<f4"), _pack(umap[order, 1], "<f4")
        for k, name in enumerate(counts):
            mine = umap[types == name]
            if len(mine) and name != a.unknown:
                # on the cell nearest the median: the median of a ring lies on another type
                nearest = mine[np.abs(mine - np.median(mine, axis=0)).sum(axis=1).argmin()]
                data["labels"].append([k, float(nearest[0]), float(nearest[1])])
    return data


def _colour(k: int, name: str, unknown: str) -> str:
    return UNKNOWN_COLOUR if name == unknown else COLOURS[k % len(COLOURS)]


def _pack(values: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode("ascii")


def _json(data: dict) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


# ----------------------------------------------------------------------------------------------- the sections


def _text(value) -> str:
    return html.escape(str(value), quote=True)


def _percent(share: float) -> str:
    return "–" if share != share else f"{100 * share:.1f} %"


def _median(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else float("nan")


def _number(value, digits: int = 3) -> str:
    if value is None or value != value:
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}"
    if isinstance(value, (float, np.floating)):
        return f"{int(value):,}" if float(value).is_integer() and abs(value) >= 10 else f"{value:.{digits}f}"
    return str(value)


def _short(name: str, length: int = 28) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _plural(n: int, word: str) -> str:
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """A table of finished HTML cells; all columns after the first `text_columns` are numbers."""
    kind = ["" if c < text_columns else ' class="num"' for c in range(len(head))]
    heads = "".join(f'<th scope="col"{kind[c]}>{h}</th>' for c, h in enumerate(head))
    lines = []
    for row in rows:
        first = f'<th scope="row">{row[0]}</th>'
        lines.append(f"<tr>{first}{''.join(f'<td{kind[c]}>{v}</td>' for c, v in enumerate(row) if c)}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(caption)}"><table>'
        f"<caption>{_text(caption)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _bar(share: float, colour: str = "#4a6fa5") -> str:
    width = 100 * min(max(share, 0), 1) if share == share else 0
    fill = f'<i style="width:{width:.2f}%;background:{colour}"></i>'
    return f'<span class="bar" aria-hidden="true">{fill}</span>'


def _paragraphs(sentences: Iterable[str]) -> str:
    return "".join(f'<p class="note">{_text(sentence)}</p>' for sentence in sentences if sentence)


def _summary(a: Annotation, counts: dict[str, int], confidence: np.ndarray) -> str:
    total = sum(counts.values())
    n_types = sum(name != a.unknown for name in counts)
    tiles = [
        (f"{total:,}", "cell" if total == 1 else "cells"),
        (f"{n_types:,}", "cell type" if n_types == 1 else "cell types"),
        (_percent(counts.get(a.unknown, 0) / max(total, 1)), a.unknown),
        (_number(_median(confidence), 2), "median confidence"),
    ]
    if a.ece is not None:
        tiles.append((_number(float(a.ece)), "calibration error"))
    return (
        '<dl class="tiles">'
        + "".join(f"<div><dt>{_text(word)}</dt><dd>{_text(value)}</dd></div>" for value, word in tiles)
        + "</dl>"
    )


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return '<p class="fine">No warnings.</p>\n'
    items = "".join(f"<li>{_text(sentence)}</li>" for sentence in warnings)
    heading = _plural(len(warnings), "warning")
    heading = f'<h2 id="h-warn">{heading}</h2>'
    return f'<aside class="warn" aria-labelledby="h-warn">{heading}<ul>{items}</ul></aside>\n'


def _map_section(a: Annotation, counts: dict[str, int], umap, n: int, has_known: bool) -> str:
    total = sum(counts.values())
    if umap is None:
        return _paragraphs(["No map was made of these cells.", *a.notes])
    sample = ""
    if n < total:
        sample = f"The map shows {n:,} of {total:,} cells; the numbers beside the names count all."
    items = []
    for k, (name, number) in enumerate(counts.items()):
        colour = _colour(k, name, a.unknown)
        label = _text(name) or "(no name)"
        items.append(
            f'<li><button type="button" data-type="{k}" aria-pressed="false">'
            f'<i style="background:{colour}" aria-hidden="true"></i><b>{k + 1}</b>'
            f"<span>{label}</span><em>{number:,}</em></button></li>"
        )
    seen = "cell, type, confidence, second choice" + (" and existing label" if has_known else "")
    return f"""
<p>Point at a cell for its {seen}. Drag to zoom both maps, double-click to go back.
Click names below to see these types alone.</p>
<p id="no-webgl" class="warn" hidden></p>
<div class="maps">
<figure><figcaption>By cell type</figcaption>
<div id="map-type" class="plot" role="img"
 aria-label="UMAP of {_plural(n, "cell")} coloured by cell type"></div></figure>
<figure><figcaption>By confidence</figcaption>
<div id="map-confidence" class="plot" role="img"
 aria-label="UMAP of {_plural(n, "cell")} coloured by confidence from 0 to 1"></div></figure>
</div>
<div class="tools"><button type="button" id="all" disabled>Show all types</button>
<label><input type="checkbox" id="names" checked> Labels on the map</label>
<span id="shown" role="status"></span></div>
<ul class="legend" aria-label="Cell types with their number of cells">{"".join(items)}</ul>
{_paragraphs([sample, *a.notes])}"""


def _types_section(a: Annotation, counts: dict[str, int], types: np.ndarray, confidence: np.ndarray) -> str:
    total, most = max(sum(counts.values()), 1), max(max(counts.values()), 1)
    rows = []
    for k, (name, number) in enumerate(counts.items()):
        colour = _colour(k, name, a.unknown)
        rows.append(
            [
                f'<span class="no">{k + 1}</span> {_text(name) or "(no name)"}',
                _bar(number / most, colour),
                f"{number:,}",
                _percent(number / total),
                _number(_median(confidence[types == name]), 2),
            ]
        )
    head = ["Type", '<span class="hide">Bar</span>', "Cells", "Share", "Median confidence"]
    note = "Median confidences are those of the cells on the map." if len(types) < total else ""
    return _table("Cells per predicted type", head, rows, 2) + _paragraphs([note])


def _agreement_section(a: Annotation, confusion: pd.DataFrame | None) -> str:
    if confusion is None:
        return ""
    total = int(confusion.to_numpy().sum())
    shared = [name for name in confusion.index if name in set(confusion.columns)]
    same = int(sum(confusion.loc[name, name] for name in shared))
    table = confusion.to_numpy(dtype=float)  # (known, predicted)
    differs = np.array([[known != called for called in confusion.columns] for known in confusion.index])
    most = np.argsort(-(table * differs), axis=None, kind="stable")[:10]
    pairs = [(int(table[i, j]), i, j) for i, j in zip(*np.unravel_index(most, table.shape), strict=True)]
    rows = [
        [
            _text(confusion.index[i]),
            _text(confusion.columns[j]),
            f"{number:,}",
            _percent(number / max(table[i].sum(), 1)),
        ]
        for number, i, j in pairs
        if number > 0 and differs[i, j]
    ]
    said = f"{same:,} of {_plural(total, 'cell')} with an existing label were given the same name"
    said += f" ({_percent(same / max(total, 1))})."
    if not shared:
        said += " No name occurs on both sides: compare rows and columns, not the names."
    if max(confusion.shape) > MOST_LABELS:
        said += f" The heat map shows the {MOST_LABELS} most frequent names."
    figure = (
        '<div class="scroll" tabindex="0" role="region" aria-label="Heat map">'
        f'<div id="confusion" role="img" aria-label="Heat map of existing labels against predicted types. '
        f'{_text(said)}"></div></div>'
    )
    head = ["Existing label", "Predicted type", "Cells", "Of the label"]
    differences = _table("Most frequent differences", head, rows, 2) if rows else ""
    return f'<p>{_text(said)}</p>{_paragraphs([a.confusion_note])}<div class="pair">{figure}{differences}</div>'


def _markers_section(a: Annotation, order: dict[str, int]) -> str:
    if a.markers is None or not len(a.markers):
        return ""
    markers = _in_order(a.markers, order)
    rows = []
    for name, group in markers.groupby("type", sort=False):
        chips = []
        for row in group.itertuples():
            detail = f"{row.gene}: mean {row.mean_in:.2f} in the type, {row.mean_out:.2f} elsewhere"
            if hasattr(row, "detected_in"):
                shares = _percent(row.detected_in), _percent(row.detected_out)
                detail += f"; found in {shares[0]} of its cells, {shares[1]} elsewhere"
            chips.append(f'<span class="gene" title="{_text(detail)}">{_text(row.gene)}</span>')
        rows.append([_text(name), " ".join(chips)])
    short = _table("Top marker genes per predicted type", ["Type", "Genes, best first"], rows, 2)
    head = ["Type", "Gene", "Mean in", "Mean out", "Found in", "Found out", "Log2 fold change", "Score"]
    here = [c for c in MARKER_NUMBERS if c in a.markers]
    lines = [
        [_text(row["type"]), _text(row["gene"])]
        + [_percent(row[c]) if c.startswith("detected") else _number(float(row[c]), 2) for c in here]
        for _, row in markers.iterrows()
    ]
    head = head[:2] + [h for h, c in zip(head[2:], MARKER_NUMBERS, strict=True) if c in here]
    full = _table("Marker genes in numbers", head, lines, 2)
    full = f"<details><summary>All numbers</summary>{full}</details>"
    dots = ""
    if a.dots is not None and len(a.dots):
        dots = (
            "<p>Colour: mean of log1p(counts per 10,000). Area: share of cells with the gene.</p>"
            '<div class="scroll" tabindex="0" role="region" aria-label="Dot plot"><div id="dots" role="img" '
            'aria-label="Dot plot of the marker genes in every predicted type, as in the table"></div></div>'
        )
    note = "A gene is ranked by how surely its mean in the type is above that of all other cells (Welch's t)."
    return short + dots + full + _paragraphs([note])


def _in_order(table: pd.DataFrame, counts: Mapping[str, int]) -> pd.DataFrame:
    """Rows by type as everywhere on the page; the order within a type stays."""
    place = {name: k for k, name in enumerate(counts)}
    return table.iloc[np.argsort([place.get(name, len(place)) for name in table["type"]], kind="stable")]


def _clusters_section(a: Annotation) -> str:
    if a.clusters is None or not len(a.clusters):
        return ""
    mixed = a.clusters["mixed"].to_numpy(dtype=bool)
    rows = [
        [
            _text(_number(row["cluster"])),
            _text(row["majority"]) + (' <span class="mixed">mixed</span>' if flag else ""),
            _bar(float(row["share"])),
            _number(int(row["n"])),
            _percent(float(row["share"])),
            _number(float(row["entropy"]), 2),
        ]
        for (_, row), flag in zip(a.clusters.iterrows(), mixed, strict=True)
    ]
    head = ["Cluster", "Majority", '<span class="hide">Bar</span>', "Cells", "Vote share", "Entropy"]
    table = _table("Majority vote in each cluster", head, rows, 3)
    number = int(mixed.sum())
    verb = "holds" if number == 1 else "hold"
    said = f"{number:,} of {_plural(len(rows), 'cluster')} {verb} more than one type."
    if len(rows) > 30:
        table = f"<details><summary>All {len(rows):,} clusters</summary>{table}</details>"
    return f"<p>{_text(said)}</p>{table}"


def _calibration_section(a: Annotation) -> str:
    if a.reliability is None or not len(a.reliability):
        return ""
    bins = a.reliability[a.reliability["n"] > 0]
    total = max(int(bins["n"].sum()), 1)
    side, left, top = 260, 46, 10

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
        marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{_text(said)}</title></circle>')
    (x0, y0), (x1, y1) = at(0, 0), at(1, 1)
    picture = (
        f'<svg class="reliability" viewBox="0 0 {side + left + 14} {side + top + 42}" role="img" '
        'aria-label="Reliability diagram; the table beside it holds its numbers">'
        f'{"".join(grid)}<path d="M{x0} {y0}L{x1} {y1}" class="ideal"/>{"".join(marks)}'
        f'<text x="{left + side / 2}" y="{side + top + 36}" text-anchor="middle">confidence said</text>'
        f'<text transform="translate(12 {top + side / 2}) rotate(-90)" '
        'text-anchor="middle">share correct</text></svg>'
    )
    rows = [[f"{row.confidence:.3f}", f"{row.accuracy:.3f}", f"{int(row.n):,}"] for row in bins.itertuples()]
    table = _table("Held-out labelled cells by confidence", ["Confidence", "Share correct", "Cells"], rows)
    ece = "" if a.ece is None else f" Expected calibration error: {float(a.ece):.3f}."
    said = f"Measured on {_plural(total, 'held-out labelled cell')}. Of those called with 80 % confidence 80 % "
    said += f"should be right: that is the dashed line.{ece}"
    return f'<p>{_text(said)}</p><div class="pair">{picture}{table}</div>'


def _overlap_section(a: Annotation) -> str:
    if a.overlap is None or not len(a.overlap):
        return ""
    overlap = a.overlap
    if isinstance(overlap, Mapping):
        overlap = [overlap]
    overlap = pd.DataFrame(overlap)
    words = [not pd.api.types.is_numeric_dtype(overlap[c]) for c in overlap]
    rows = []
    for _, row in overlap.iterrows():
        cells = [
            _bar(float(row[c])) + f" {_percent(float(row[c]))}" if c == "share" else _text(_number(row[c]))
            for c in overlap.columns
        ]
        rows.append(cells)
    head = [_text(str(c).replace("_", " ").capitalize()) for c in overlap.columns]
    leading = next((k for k, word in enumerate(words) if not word), len(words))
    return _table("Genes found", head, rows, max(leading, 1))


def _reproduce_section(a: Annotation) -> str:
    command = f'<pre tabindex="0" aria-label="Command">{_text(a.command)}</pre>' if a.command else ""
    tables = "".join(
        _table(caption, ["Name", "Value"], [[_text(k), _text(v)] for k, v in table.items()], 2)
        for caption, table in (("Settings", a.settings), ("Versions", a.versions))
        if table
    )
    return command + (f'<div class="pair">{tables}</div>' if tables else "")


# ------------------------------------------------------------------------------------------------ the figures


def _tick(name: str, number: Mapping[str, int] | None = None) -> str:
    """A name as plotly draws it: it reads a few tags and entities in texts, which names must not be.

    A name too long to show in full carries its number in the legend: long names often begin alike.
    """
    short = _short(str(name))
    if number and short != str(name) and name in number:
        short = f"{number[name]} {short}"
    return html.escape(short, quote=False) or "(none)"


def _confusion_figure(confusion: pd.DataFrame, counts: Mapping[str, int], unknown: str) -> dict:
    """Existing labels down, predicted types across, both in one order, so that agreement is the diagonal."""
    of_label = confusion.sum(axis=1)
    confusion = confusion.loc[
        confusion.sum(axis=1).nlargest(MOST_LABELS).index, confusion.sum(axis=0).nlargest(MOST_LABELS).index
    ]
    number = {name: k + 1 for k, name in enumerate(counts)}
    shared = [name for name in confusion.index if name in set(confusion.columns)]
    size = confusion.sum(axis=1)
    shared.sort(key=lambda name: (name == unknown, number.get(name, NO_NAME), -size[name], str(name)))
    extra = [name for name in confusion.columns if name not in set(shared)]
    extra.sort(key=lambda name: (name == unknown, -confusion[name].sum(), str(name)))
    by_size = size.sort_values(ascending=False, kind="stable").index
    down = shared + [name for name in by_size if name not in set(shared)]
    across = [name for name in shared if name != unknown] + [name for name in extra if name != unknown]
    across += [name for name in (*shared, *extra) if name == unknown]
    table = confusion.loc[down, across].to_numpy(dtype=float)  # (known, predicted)
    share = table / np.maximum(of_label.loc[down].to_numpy(dtype=float)[:, None], 1)
    n_down, n_across = table.shape
    cell = int(np.clip(520 / max(n_across, 1), 17, 46))
    slope = -90 if n_across > 12 else -45 if n_across > 1 else 0
    left = 24 + int(6.6 * max(len(_tick(name, number)) for name in down))
    bottom = 24 + int(6.6 * (1 if slope == -90 else 0.75) * max(len(_tick(name, number)) for name in across))
    hover = [
        [
            f"existing: {html.escape(str(known))}<br>predicted: {html.escape(str(called))}<br>"
            f"{int(table[i, j]):,} cells, {_percent(share[i, j])} of the label"
            for j, called in enumerate(across)
        ]
        for i, known in enumerate(down)
    ]
    trace = {
        "type": "heatmap",
        "z": np.round(share, 4).tolist(),
        "text": hover,
        "hovertemplate": "%{text}<extra></extra>",
        "colorscale": [[0, "#ffffff"], [0.02, "#eef3f9"], [0.5, "#6b9bc7"], [1, "#123f6d"]],
        "zmin": 0,
        "zmax": 1,
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"title": {"text": "of the label"}, "tickformat": ".0%", "thickness": 12, "len": 0.9},
    }
    notes = []
    if n_across <= 16 and n_down <= 16:
        notes = [
            {
                "x": j,
                "y": i,
                "text": f"{int(table[i, j]):,}",
                "showarrow": False,
                "font": {"size": 11, "color": "#ffffff" if share[i, j] > 0.45 else "#222222"},
            }
            for i in range(n_down)
            for j in range(n_across)
            if table[i, j] > 0
        ]
    layout = {
        "width": left + n_across * cell + 110,
        "height": 56 + max(n_down * min(cell, 30), 120) + bottom,
        "margin": {"l": left + 20, "r": 90, "t": 10, "b": bottom + 20, "pad": 2},
        "xaxis": {
            "tickvals": list(range(n_across)),
            "ticktext": [_tick(name, number) for name in across],
            "tickangle": slope,
            "title": {"text": "predicted type", "standoff": 8},
            "showgrid": False,
            "zeroline": False,
        },
        "yaxis": {
            "tickvals": list(range(n_down)),
            "ticktext": [_tick(name, number) for name in down],
            "autorange": "reversed",
            "title": {"text": "existing label", "standoff": 8},
            "showgrid": False,
            "zeroline": False,
        },
        "annotations": notes,
    }
    return {"data": [trace], "layout": layout}


def _dots_figure(dots: pd.DataFrame) -> dict:
    """Types down, genes across."""
    types, genes = list(dict.fromkeys(dots["type"])), list(dict.fromkeys(dots["gene"]))
    mean = dots.pivot(index="type", columns="gene", values="mean").loc[types, genes].to_numpy(dtype=float)
    genes = [genes[g] for g in np.argsort(mean.argmax(axis=0), kind="stable")]  # their dots form a diagonal
    row = {name: k for k, name in enumerate(types)}
    column = {name: k for k, name in enumerate(genes)}
    left = 30 + int(6.6 * max(len(_short(str(name))) for name in types))
    bottom = 24 + int(7 * max(len(_short(str(name), 18)) for name in genes))
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [column[g] for g in dots["gene"]],
        "y": [row[t] for t in dots["type"]],
        "text": [
            f"{html.escape(str(d.gene))} in {html.escape(str(d.type))}<br>mean {d.mean:.2f}, "
            f"found in {_percent(d.detected)}"
            for d in dots[["type", "gene", "mean", "detected"]].itertuples(name="Dot")
        ],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "size": np.round(1 + 13 * np.sqrt(dots["detected"].to_numpy(dtype=float)), 2).tolist(),
            "color": np.round(dots["mean"].to_numpy(dtype=float), 3).tolist(),
            "colorscale": [[0, "#e3e9f0"], [0.5, "#6b9bc7"], [1, "#0b2f55"]],
            "cmin": 0,
            "opacity": 1,
            "line": {"width": 0},
            "colorbar": {"title": {"text": "mean"}, "thickness": 12, "lenmode": "pixels", "len": 120},
        },
    }
    layout = {
        "width": left + 18 * len(genes) + 110,
        "height": 20 + max(20 * len(types), 120) + bottom,
        "margin": {"l": left, "r": 90, "t": 10, "b": bottom, "pad": 2},
        "xaxis": {
            "tickvals": list(range(len(genes))),
            "ticktext": [html.escape(_short(str(g), 18), quote=False) for g in genes],
            "tickangle": -90,
            "range": [-0.8, len(genes) - 0.2],
            "zeroline": False,
            "gridcolor": "#f0f0f0",
        },
        "yaxis": {
            "tickvals": list(range(len(types))),
            "ticktext": [_tick(name) for name in types],
            "range": [len(types) - 0.3, -0.7],
            "zeroline": False,
            "gridcolor": "#f0f0f0",
        },
    }
    return {"data": [trace], "layout": layout}


# -------------------------------------------------------------------------------------------- the page itself

# 'unsafe-eval': WebGL drawing in plotly.js writes its own functions. Everything else must be in the page.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'"
)

CSS = """
:root { --ink: #1c2430; --soft: #55606e; --line: #dde2e8; --back: #f6f7f9; --link: #0b5394; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 0 20px 60px; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 28px 0 12px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 8px; }
p { margin: 6px 0; max-width: 80ch; }
section { margin: 36px 0 0; border-top: 1px solid var(--line); padding-top: 18px; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 14px 0 0; font-size: .92rem; }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 0; }
.tiles div { display: flex; flex-direction: column-reverse; background: var(--back); border-radius: 8px;
  padding: 10px 18px; min-width: 120px; }
.tiles dt { color: var(--soft); font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.5rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.warn { background: #fff4dc; border: 1px solid #e0b14a; border-radius: 8px; padding: 12px 18px;
  margin: 20px 0 0; }
.warn ul { margin: 0; padding-left: 20px; } .warn li { overflow-wrap: anywhere; }
.fine { color: #2b6a3f; margin-top: 18px; }
.note { color: var(--soft); font-size: .9rem; overflow-wrap: anywhere; }
.maps { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; margin: 10px 0; }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; margin-bottom: -22px; position: relative; z-index: 2;
  pointer-events: none; }
.plot { width: 100%; aspect-ratio: 1 / 1.1; }
.tools { display: flex; flex-wrap: wrap; gap: 6px 18px; align-items: center; font-size: .9rem; }
button { font: inherit; color: inherit; }
#all { border: 1px solid #98a3b0; border-radius: 6px; background: #fff; padding: 3px 12px; cursor: pointer; }
#all:disabled { color: #6b7580; border-color: var(--line); cursor: default; }
#shown { color: var(--soft); }
.legend { list-style: none; margin: 10px 0 0; padding: 0; columns: 250px; column-gap: 14px; }
.legend li { break-inside: avoid; }
.legend button { display: flex; align-items: baseline; gap: 7px; width: 100%; padding: 2px 6px;
  border-radius: 5px; border: 1px solid transparent; background: none; text-align: left; cursor: pointer;
  font-size: .9rem; }
.legend button:hover { background: var(--back); }
.legend button[aria-pressed=true] { border-color: #7d8896; background: var(--back); }
.legend i { flex: none; width: 13px; height: 13px; border-radius: 50%; border: 1px solid rgba(0,0,0,.25); }
.legend b { flex: none; font-weight: 400; color: var(--soft); min-width: 1.4em; text-align: right;
  font-size: .8rem; }
.legend span { flex: 1; overflow-wrap: anywhere; line-height: 1.25; }
.legend em { font-style: normal; color: var(--soft); font-variant-numeric: tabular-nums; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 1px; }
.scroll { overflow-x: auto; margin: 10px 0; max-width: 100%; }
table { border-collapse: collapse; font-size: .9rem; }
caption { text-align: left; font-weight: 600; padding: 4px 0; }
th, td { padding: 3px 12px 3px 0; text-align: left; font-weight: 400; border-bottom: 1px solid #eceff2;
  max-width: 46ch; min-width: 3em; overflow-wrap: break-word; vertical-align: top; }
thead th { color: var(--soft); border-bottom-color: #b9c1cb; overflow-wrap: normal; }
.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { display: inline-block; width: 180px; height: 11px; vertical-align: middle; background: #f0f2f5; }
.bar i { display: block; height: 100%; }
td.num .bar { width: 90px; }
.no { color: var(--soft); font-size: .8rem; }
td:has(.gene) { max-width: none; }
.gene { display: inline-block; background: var(--back); border-radius: 4px; padding: 0 7px;
  margin: 1px 2px 1px 0; }
.mixed { background: #fff4dc; border: 1px solid #e0b14a; border-radius: 4px; padding: 0 6px;
  font-size: .8rem; }
.hide { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.pair { display: flex; flex-wrap: wrap; gap: 10px 40px; align-items: flex-start; }
.pair > * { min-width: 0; }
.reliability { width: 330px; max-width: 100%; font-size: 11px; }
.reliability text { fill: var(--soft); } .reliability circle { fill: #0072b2; fill-opacity: .8; }
.reliability .grid { stroke: #eceff2; fill: none; }
.reliability .ideal { stroke: #55606e; stroke-dasharray: 4 4; }
pre { background: var(--back); border-radius: 8px; padding: 12px 16px; overflow-x: auto; font-size: .88rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--link); }
#tip { position: fixed; z-index: 10; pointer-events: none; max-width: 340px; background: rgba(24,30,40,.95);
  color: #fff; border-radius: 6px; padding: 7px 11px; font-size: .85rem; line-height: 1.4;
  overflow-wrap: anywhere; }
#tip[hidden] { display: none; }
#tip b { display: block; } #tip span { display: block; }
@media (max-width: 760px) {
  body { padding: 0 12px 40px; } .maps { grid-template-columns: 1fr; } .tiles div { flex: 1; }
  .bar { width: 80px; } td.num .bar { width: 50px; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 11px; }
  nav, .tools, .modebar, #tip { display: none !important; }
  #confusion, #dots { zoom: var(--fit); } figure, tr, .tiles, .warn { break-inside: avoid; }
  .maps { display: flex; gap: 8px; } .maps figure { width: 350px; overflow: hidden; }
  .plot { width: 345px; height: 380px; aspect-ratio: auto; } .plot > * { zoom: var(--fit); }
  h2, caption { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .scroll { overflow: visible; } section { margin-top: 20px; }
}
"""

SCRIPT = r"""
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
"""
