"""The page as one file: page.html with page.css, page.js, plotly.js, the sections and the data filled in."""

from __future__ import annotations

import base64
import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from plotly.offline import get_plotlyjs

from annotation.report import figures
from annotation.report.annotation import Annotation, checked
from annotation.report.sections import fill, sections, summary, warnings
from annotation.report.words import text

# viridis (van der Walt and Smith, 2015; CC0) from 0 to 1: even steps look even, also to colour-blind eyes
SCALE = (
    "#440154 #48186a #472d7b #424086 #3b528b #33638d #2c728e #26828e #21918c "
    "#1fa088 #28ae80 #3fbc73 #5ec962 #84d44b #addc30 #d8e219 #fde725"
).split()
NO_NAME = 0xFFFF  # the code of "no label" in the page's uint16 columns


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
    a = checked(annotation)
    data = columns(a) | {"figures": {}}
    if a.confusion is not None:
        data["figures"]["confusion"] = figures.confusion(a.confusion, a.counts, a.unknown)
    if a.dots is not None:
        data["figures"]["dots"] = figures.dots(a.dots)
    present = sections(a)
    return fill(
        "page.html",
        title=text(a.title),
        css=fill("page.css"),
        summary=summary(a),
        links="".join(f'<a href="#{key}">{heading}</a>' for key, heading, _ in present),
        warnings=warnings(a.warnings),
        sections="".join(
            f'<section id="{key}" aria-labelledby="h-{key}"><h2 id="h-{key}">{heading}</h2>{body}</section>\n'
            for key, heading, body in present
        ),
        data=as_json(data),
        plotly=get_plotlyjs(),
        script=fill("page.js"),
    )


def columns(a: Annotation) -> dict:
    """What the map draws: numbers as base64 of little-endian arrays, names sent once and pointed at."""
    names = list(a.counts)
    for column in (a.second_choice, a.known):
        if column is not None:
            names += sorted(set(column.tolist()) - set(names) - {""})
    if len(names) >= NO_NAME:
        raise ValueError(f"{a.title}: {len(names):,} different labels are too many for a report")
    code = {name: k for k, name in enumerate(names)}
    # Unknown beneath, the rest in a drawn order that does not depend on the file's: no type covers another
    order = np.random.default_rng(0).permutation(len(a.cells))
    order = order[np.argsort(a.cell_type[order] != a.unknown, kind="stable")]

    def coded(column: np.ndarray | None) -> str | None:
        return None if column is None else pack([code.get(v, NO_NAME) for v in column[order]], "<u2")

    return {
        "names": names,
        "colours": [a.colour(k, name) for k, name in enumerate(a.counts)],
        "scale": SCALE,
        "counts": list(a.counts.values()),
        "cells": [a.cells[i] for i in order],
        "type": coded(a.cell_type),
        "confidence": pack(a.confidence[order], "<f4"),
        "second": coded(a.second_choice),
        "known": coded(a.known),
        "x": None if a.umap is None else pack(a.umap[order, 0], "<f4"),
        "y": None if a.umap is None else pack(a.umap[order, 1], "<f4"),
        "labels": [] if a.umap is None else places(a),
    }


def places(a: Annotation) -> list[list]:
    """[type, x, y] where its name stands: on the cell nearest the median, for the median of a ring is outside it."""
    found = []
    for k, name in enumerate(a.counts):
        mine = a.umap[a.cell_type == name]
        if len(mine) and name != a.unknown:
            nearest = mine[np.abs(mine - np.median(mine, axis=0)).sum(axis=1).argmin()]
            found.append([k, float(nearest[0]), float(nearest[1])])
    return found


def pack(values, dtype: str) -> str:
    return base64.b64encode(np.asarray(values, dtype=dtype).tobytes()).decode("ascii")


def as_json(data: dict) -> str:
    """JSON that cannot end the script element it stands in."""
    packed = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return packed.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
