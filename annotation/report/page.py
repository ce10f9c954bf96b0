"""The page as one file: page.html with page.css, the scripts, the sections and the data filled in."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import numpy as np

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
ROOM = 14_900_000  # bytes of a page, all in all
# one script, in this order
SCRIPTS = "data.js pens.js labels.js maps.js pictures.js pointer.js genes.js naming.js page.js".split()


def write_report(path: str | Path, annotation: Annotation) -> None:
    """Write the page; the file appears whole or not at all.

    Raises ValueError where the arrays do not fit each other, OSError where the file cannot be written.
    """
    page = render(annotation)
    with whole(path) as part:
        # a name that is no valid unicode (h5 files hold such) must not cost the user the page
        part.write_text(page, encoding="utf-8", errors="backslashreplace")


def render(annotation: Annotation) -> str:
    """The page as one string: 0.1 MB; 50,000 cells add 3 MB, their genes what is left of 15 MB at most."""
    a = checked(annotation)
    near = expressed.neighbourhoods(a.umap, *alike(a))
    data = columns(a, near.order)
    present = sections(a)
    parts = {
        "title": text(a.title),
        "css": fill("page.css"),
        "summary": summary(a),
        "links": "".join(f'<a href="#{key}">{heading}</a>' for key, heading, _ in present),
        "warnings": warnings(a),
        "sections": "".join(
            f'<section id="{key}" aria-labelledby="h-{key}"><h2 id="h-{key}">{heading}</h2>{body}</section>\n'
            for key, heading, body in present
        ),
        "script": "".join(fill(name) for name in SCRIPTS),
    }
    data["genes"] = None
    if a.genes is not None:
        data["genes"] = {"runs": pack(near.sizes, "u1")}
        used = sum(len(part.encode(errors="backslashreplace")) for part in (*parts.values(), as_json(data)))
        data["genes"] |= genes(a, near, ROOM - used)
    return fill("page.html", data=as_json(data), **parts)


def columns(a: Annotation, order: np.ndarray) -> dict:
    """What the map draws: numbers as base64 of little-endian arrays, names sent once and pointed at.

    order : (n,) rows, as the page is to hold them.
    """
    names = list(a.counts)
    for column in (a.second_choice, a.known):
        if column is not None:
            names += sorted(set(column.tolist()) - set(names) - {""})
    if len(names) >= NO_NAME:
        raise ValueError(f"{a.title}: {len(names):,} different labels are too many for a report")
    code = {name: k for k, name in enumerate(names)}

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
        "unknown": list(a.counts).index(a.unknown) if a.unknown in a.counts else -1,
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


def genes(a: Annotation, near: expressed.Neighbourhoods, room: int) -> dict:
    """The genes of the gene box: those that tables name, then those that fewest cells express, while there is room.

    What most cells express takes most room and tells least.
    """
    names, values = [str(name) for name in a.genes[0]], a.genes[1]
    listed = [] if a.markers is None else a.markers["gene"].tolist()
    listed += [] if a.groups is None else [gene["gene"] for row in a.groups["genes"] for gene in row]
    place = {name: -k for k, name in enumerate(dict.fromkeys(map(str, reversed(listed))))}
    cells = np.bincount(values.indices, minlength=len(names))  # (K,)
    first = sorted(range(len(names)), key=lambda k: (place.get(names[k], 1), cells[k]))
    found = expressed.packed(values, {names[k]: k for k in first}, near, room, listed=len(place))
    return found | {"all": len(names)}


def alike(a: Annotation) -> tuple[np.ndarray, int]:
    """(n,) codes that are the same for cells that express the same: of groups, else types; and how many there are."""
    if a.groups is not None and not a.called:
        numbers = a.groups["group"].tolist()
        place = {number: k for k, number in enumerate(numbers)}
        return np.array([place.get(number, NO_NAME) for number in np.asarray(a.group).tolist()]), len(numbers)
    place = {name: k for k, name in enumerate(a.counts)}
    return np.array([place[name] for name in a.cell_type]), len(place)


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
