"""The heat map and the dot plot, as plotly.js takes them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from annotation.report.words import percent, short, shown

MOST_LABELS = 60  # of a heat map that is still legible, down and across
LETTER = 6.6  # pixels


def confusion(table: pd.DataFrame, counts: Mapping[str, int], unknown: str) -> dict:
    """Existing labels down, predicted types across, both in one order, so that agreement is the diagonal."""
    of_label = table.sum(axis=1)
    down, across = _diagonal(table, list(counts), unknown)
    cells = table.loc[down, across].to_numpy(dtype=float)  # (known, predicted)
    share = cells / np.maximum(of_label.loc[down].to_numpy(dtype=float)[:, None], 1)
    n_down, n_across = cells.shape
    number = {name: k + 1 for k, name in enumerate(counts)}
    left_words, below_words = [[_tick(name, number) for name in names] for names in (down, across)]
    size = int(np.clip(520 / max(n_across, 1), 17, 46))
    slope = -90 if n_across > 12 else -45 if n_across > 1 else 0
    left = 24 + int(LETTER * max(map(len, left_words)))
    bottom = 24 + int(LETTER * (1 if slope == -90 else 0.75) * max(map(len, below_words)))
    hover = [
        [
            f"existing: {shown(known)}<br>predicted: {shown(called)}<br>"
            f"{int(cells[i, j]):,} cells, {percent(share[i, j])} of the label"
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
        "colorbar": {
            "title": {"text": "of the label", "side": "right"},
            "tickformat": ".0%",
            "thickness": 12,
            "len": 0.9,
        },
    }
    notes = []
    if n_across <= 16 and n_down <= 16:
        notes = [
            {
                "x": int(j),
                "y": int(i),
                "text": f"{int(cells[i, j]):,}",
                "showarrow": False,
                "font": {"size": 11, "color": "#ffffff" if share[i, j] > 0.45 else "#222222"},
            }
            for i, j in np.argwhere(cells > 0)
        ]
    plain = {"showgrid": False, "zeroline": False}
    layout = {
        "width": left + n_across * size + 110,
        "height": 56 + max(n_down * min(size, 30), 120) + bottom,
        "margin": {"l": left + 20, "r": 90, "t": 10, "b": bottom + 20, "pad": 2},
        "xaxis": _ticks(below_words) | {"tickangle": slope, "title": {"text": "predicted type", "standoff": 8}} | plain,
        "yaxis": _ticks(left_words)
        | {"autorange": "reversed", "title": {"text": "existing label", "standoff": 8}}
        | plain,
        "annotations": notes,
    }
    return {"data": [trace], "layout": layout}


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


def dots(table: pd.DataFrame) -> dict:
    """Types down, genes across."""
    types, genes = list(dict.fromkeys(table["type"])), list(dict.fromkeys(table["gene"]))
    mean = table.pivot(index="type", columns="gene", values="mean").loc[types, genes].to_numpy(dtype=float)
    genes = [genes[g] for g in np.argsort(mean.argmax(axis=0), kind="stable")]  # their dots form a diagonal
    row = {name: k for k, name in enumerate(types)}
    column = {name: k for k, name in enumerate(genes)}
    left = 30 + int(LETTER * max(len(short(str(name))) for name in types))
    bottom = 24 + int(7 * max(len(short(str(name), 18)) for name in genes))
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [column[g] for g in table["gene"]],
        "y": [row[t] for t in table["type"]],
        "text": [
            f"{shown(d.gene)} in {shown(d.type)}<br>mean {d.mean:.2f}, found in {percent(d.detected)}"
            for d in table[["type", "gene", "mean", "detected"]].itertuples(name="Dot")
        ],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "size": np.round(1 + 13 * np.sqrt(table["detected"].to_numpy(dtype=float)), 2).tolist(),
            "color": np.round(table["mean"].to_numpy(dtype=float), 3).tolist(),
            "colorscale": [[0, "#e3e9f0"], [0.5, "#6b9bc7"], [1, "#0b2f55"]],
            "cmin": 0,
            "opacity": 1,
            "line": {"width": 0},
            "colorbar": {"title": {"text": "mean"}, "thickness": 12, "lenmode": "pixels", "len": 120},
        },
    }
    gene_words = [html.escape(short(str(gene), 18), quote=False) for gene in genes]
    plain = {"zeroline": False, "gridcolor": "#f0f0f0"}
    layout = {
        "width": left + 18 * len(genes) + 110,
        "height": 20 + max(20 * len(types), 120) + bottom,
        "margin": {"l": left, "r": 90, "t": 10, "b": bottom, "pad": 2},
        "xaxis": _ticks(gene_words) | {"tickangle": -90, "range": [-0.8, len(genes) - 0.2]} | plain,
        "yaxis": _ticks([_tick(name) for name in types]) | {"range": [len(types) - 0.3, -0.7]} | plain,
    }
    return {"data": [trace], "layout": layout}


def _ticks(words: Sequence[str]) -> dict:
    return {"tickvals": list(range(len(words))), "ticktext": words}


def _tick(name: str, number: Mapping[str, int] | None = None) -> str:
    """A name as plotly draws it: it reads a few tags and entities in texts, which names must not be.

    A name too long to show in full carries its number in the legend: long names often begin alike.
    """
    words = short(str(name))
    if number and words != str(name) and name in number:
        words = f"{number[name]} {words}"
    return html.escape(words, quote=False) or "(none)"
