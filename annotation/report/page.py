"""The page as one file: page.html with page.css, page.js, plotly.js, the sections and the data filled in."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import numpy as np
from plotly.offline import get_plotlyjs

from annotation.report import figures
from annotation.report import genes as expressed
from annotation.report.annotation import Annotation, checked
from annotation.report.sections import fill, sections, summary, warnings
from annotation.report.words import text
from files import whole

# of confidence, from 0 to 1: what is in doubt stands out, what is sure is dark on white
SCALE = "#a63603 #d9700e #eba23e #b9b39a #7fa8c9 #2f78b5 #0b3c78".split()
# of a gene, from none to its highest value: after inferno (Smith and van der Walt, 2015; CC0), on grey
GENE_SCALE = "#d9dde3 #f6b27a #ee7b3c #d0444f #932667 #4a0c6b".split()
NO_NAME = 0xFFFF  # the code of "no label" in the page's uint16 columns
ROOM = 14_800_000  # characters of a page, all in all
SCRIPTS = "data.js maps.js genes.js naming.js page.js".split()  # one script, in this order


def write_report(path: str | Path, annotation: Annotation) -> None:
    """Write the page; the file appears whole or not at all.

    Raises ValueError where the arrays do not fit each other, OSError where the file cannot be written.
    """
    page = render(annotation)
    with whole(path) as part:
        # a name that is no valid unicode (h5 files hold such) must not cost the user the page
        part.write_text(page, encoding="utf-8", errors="backslashreplace")


def render(annotation: Annotation) -> str:
    """The page as one string: 5 MB, nearly all of it plotly.js; 50,000 cells add 3 MB, genes what is left of 15 MB."""
    a = checked(annotation)
    data = columns(a) | {"figures": {}}
    if a.confusion is not None:
        data["figures"]["confusion"] = figures.confusion(a.confusion, a.counts, a.unknown)
    if a.dots is not None:
        data["figures"]["dots"] = figures.dots(a.dots)
    data["genes"] = None if a.genes is None else genes(a, data)
    present = sections(a)
    return fill(
        "page.html",
        title=text(a.title),
        css=fill("page.css"),
        summary=summary(a),
        links="".join(f'<a href="#{key}">{heading}</a>' for key, heading, _ in present),
        warnings=warnings(a),
        sections="".join(
            f'<section id="{key}" aria-labelledby="h-{key}"><h2 id="h-{key}">{heading}</h2>{body}</section>\n'
            for key, heading, body in present
        ),
        data=as_json(data),
        plotly=get_plotlyjs(),
        script="".join(fill(name) for name in SCRIPTS),
    )


def drawn_order(a: Annotation) -> np.ndarray:
    """(n,) rows as they are drawn: Unknown beneath, the rest in a chance order, so that no type covers another."""
    order = np.random.default_rng(0).permutation(len(a.cells))
    return order[np.argsort(a.cell_type[order] != a.unknown, kind="stable")]


def columns(a: Annotation) -> dict:
    """What the map draws: numbers as base64 of little-endian arrays, names sent once and pointed at."""
    names = list(a.counts)
    for column in (a.second_choice, a.known):
        if column is not None:
            names += sorted(set(column.tolist()) - set(names) - {""})
    if len(names) >= NO_NAME:
        raise ValueError(f"{a.title}: {len(names):,} different labels are too many for a report")
    code = {name: k for k, name in enumerate(names)}
    order = drawn_order(a)

    def coded(column: np.ndarray | None) -> str | None:
        return None if column is None else pack([code.get(v, NO_NAME) for v in column[order]], "<u2")

    return {
        "names": names,
        "colours": [a.colour(k, name) for k, name in enumerate(a.counts)],
        "shapes": [a.shape(k, name) for k, name in enumerate(a.counts)],
        "scale": SCALE,
        "geneScale": GENE_SCALE,
        "counts": list(a.counts.values()),
        "called": a.called,
        "cells": [a.cells[i] for i in order],
        "type": coded(a.cell_type),
        "confidence": pack(a.confidence[order], "<f4"),
        "second": coded(a.second_choice),
        "known": coded(a.known),
        "x": None if a.umap is None else pack(a.umap[order, 0], "<f4"),
        "y": None if a.umap is None else pack(a.umap[order, 1], "<f4"),
        "labels": [] if a.umap is None else places(a.umap, a.cell_type, list(a.counts), a.unknown),
        "groups": None if a.groups is None else grouped(a, order),
        "title": a.title,
    }


def grouped(a: Annotation, order: np.ndarray) -> dict:
    """What naming needs: the place of each drawn cell's group in the table, sizes, cells to look at first."""
    numbers = a.groups["group"].tolist()
    place = {number: k for k, number in enumerate(numbers)}
    at = {cell: k for k, cell in enumerate(a.cells[i] for i in order)}
    ringed = [at[str(cell)] for cells in a.groups["suggested"] for cell in cells if str(cell) in at]
    made_of = json.dumps([a.cells, np.asarray(a.group).tolist(), numbers], ensure_ascii=True)
    return {
        "numbers": [str(number) for number in numbers],
        "sizes": a.groups["n"].astype(int).tolist(),
        "colours": [a.colour(k, "") for k in range(len(numbers))],
        "shapes": [a.shape(k, "") for k in range(len(numbers))],
        "group": pack([place.get(number, NO_NAME) for number in np.asarray(a.group)[order].tolist()], "<u2"),
        "ringed": ringed,
        "labels": [] if a.umap is None else places(a.umap, a.group, numbers),
        "whole": int(a.groups["n"].sum()) <= len(a.cells),  # else a file of cells would lack those not drawn
        "file": a.groups_file,
        "saveAs": a.save_as or "labels.csv",
        "key": "scpretrain-" + hashlib.sha256(made_of.encode()).hexdigest()[:24],
    }


def genes(a: Annotation, data: dict) -> dict:
    """The genes of the gene box: those that tables name, then those that fewest cells express, while there is room.

    What most cells express takes most room and tells least.
    """
    names, values = [str(name) for name in a.genes[0]], a.genes[1]
    listed = [] if a.markers is None else a.markers["gene"].tolist()
    listed += [] if a.groups is None else [gene["gene"] for row in a.groups["genes"] for gene in row]
    place = {name: -k for k, name in enumerate(dict.fromkeys(map(str, reversed(listed))))}
    cells = np.bincount(values.indices, minlength=len(names))  # (K,)
    first = sorted(range(len(names)), key=lambda k: (place.get(names[k], 1), cells[k]))
    order = drawn_order(a)
    order = order[np.argsort(alike(a)[order], kind="stable")]
    used = len(get_plotlyjs()) + len(as_json(data)) + 500_000
    found = expressed.packed(values[:, first], [names[k] for k in first], order, ROOM - used)
    return found | {"all": len(names)}


def alike(a: Annotation) -> np.ndarray:
    """(n,) codes that are the same for cells that express the same; page.js sorts by the same ones."""
    if a.groups is not None:
        place = {number: k for k, number in enumerate(a.groups["group"].tolist())}
        return np.array([place.get(number, NO_NAME) for number in np.asarray(a.group).tolist()])
    place = {name: k for k, name in enumerate(a.counts)}
    return np.array([place[name] for name in a.cell_type])


def places(umap: np.ndarray, codes: np.ndarray, values: list, skip: object = None) -> list[list]:
    """[k, x, y]: the cell nearest the median of the k-th value, for the median of a ring is outside it."""
    found = []
    for k, value in enumerate(values):
        mine = umap[np.asarray(codes) == value]
        if len(mine) and value != skip:
            nearest = mine[np.abs(mine - np.median(mine, axis=0)).sum(axis=1).argmin()]
            found.append([k, float(nearest[0]), float(nearest[1])])
    return found


def pack(values, dtype: str) -> str:
    return base64.b64encode(np.asarray(values, dtype=dtype).tobytes()).decode("ascii")


def as_json(data: dict) -> str:
    """JSON that cannot end the script element it stands in."""
    packed = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return packed.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
