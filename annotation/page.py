"""What is said of an annotation: a few lines at the end, uns, the .csv, and what the page is handed."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pandas as pd

from annotation import report
from annotation.labeller import Learnt
from annotation.outcome import Found
from annotation.work import UNKNOWN
from voice import log

DRAWN = 50_000  # cells in the page's map


def about(found: Found, command: str) -> dict[str, Any]:
    """What goes into uns['scpretrain']; command: what was typed."""
    work = found.work
    model, learnt = work.labeller, work.labeller.learnt
    content = {
        "versions": versions(),
        "settings": work.settings,
        "genes": np.array(work.query.genes, dtype=object),
        "classes": np.array(model.classes, dtype=object),
        "temperature": learnt.temperature,
        "ece": learnt.ece,
        "seed": work.wishes.seed,
        "recipe": work.settings["recipe"],
        "warnings": np.array(work.warnings, dtype=object),
        "overlap": pd.DataFrame(work.overlap),
        "cells_learnt_from": len(model.fitted.rows),
        "command": command,
    }
    if found.clusters is not None:
        content["clusters"] = found.clusters.set_index(found.clusters["cluster"].astype(str).to_numpy())
    if found.suggested is not None:
        content["suggested"] = found.suggested["cell"].to_numpy(dtype=object)
    return content


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("torch", "numpy", "scipy", "scikit-learn", "pandas", "anndata", "h5py", "umap-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def table_of(found: Found) -> pd.DataFrame:
    """The .csv: a row a cell, the columns of obs without the prefix, and the map."""
    table = pd.DataFrame(found.columns, index=pd.Index(found.work.query.rows.cells, dtype=object))
    if found.umap is not None:
        table["umap_1"], table["umap_2"] = found.umap[:, 0], found.umap[:, 1]
    return table


def tell(found: Found) -> None:
    """The counts per type, most first, and how fast it went."""
    work = found.work
    rate = len(work.query) / max(found.seconds, 1e-9)
    took = f"{found.seconds:.1f} s ({rate:,.0f} cells/s; {found.processor:.1f} s of processor time)"
    log.info(f"{len(work.query):,} cells in {took}")
    if found.columns:
        counts = pd.Series(np.asarray(found.columns["cell_type"])).value_counts()
        if work.labeller.calls_unknown and work.labeller.unknown is not None:
            counts[UNKNOWN] = counts.get(UNKNOWN, 0)
        log.info("; ".join(f"{name} {count:,}" for name, count in counts.items()))
    if found.suggested is not None and len(found.suggested):
        log.info("label next: " + ", ".join(found.suggested["cell"].astype(str)))


# -- the page ----------------------------------------------------------------
def page_of(found: Found, title: str) -> report.Annotation:
    """What the page says."""
    work, of = found.work, found.columns
    fitted, n = work.labeller.fitted, len(work.query)
    rows = fitted.rows if n > DRAWN else np.arange(n)
    page = report.Annotation(
        title=title,
        cells=[work.query.rows.cells[row] for row in rows],
        cell_type=np.full(len(rows), "not labelled", dtype=object),
        confidence=np.full(len(rows), np.nan),
        umap=found.umap[rows] if found.umap is not None else None,
        overlap=work.overlap,
        warnings=work.warnings,
        notes=found.notes + expected(found),
        settings=work.settings,
        versions=versions(),
        command=found.uns["command"],
        unknown=UNKNOWN,
        called=bool(of),
    )
    if not of:
        return page
    types = np.asarray(of["cell_type"]).astype(object)  # (N,)
    page.cell_type, page.confidence = types[rows], np.asarray(of["confidence"])[rows]
    page.second_choice = np.asarray(pd.Series(of["second_choice"]).astype(object).fillna(""))[rows]
    page.counts = pd.Series(types).value_counts().to_dict()
    page.clusters = found.clusters
    beside_known(page, found, types, rows)
    typical(page, found, types[fitted.rows])
    if np.isfinite(work.labeller.learnt.ece):
        page.ece, page.reliability = work.labeller.learnt.ece, reliability(work.labeller.learnt)
    return page


def expected(found: Found) -> list[str]:
    """How many known cells are expected among the unknown ones, where some were asked for."""
    work, share = found.work, found.work.wishes.unknown
    if not share or not work.labeller.classes or work.labeller.learnt.foreign:
        return []
    return [
        f"{UNKNOWN} are cells that no type explains. Of the cells of known types about {share:.0%} are expected among "
        "them, for that share was asked for; where the labels come from another dataset it can be more."
    ]


def beside_known(page: report.Annotation, found: Found, types: np.ndarray, rows: np.ndarray) -> None:
    """Add the labels that cells came with, and how the calls agree with them."""
    work, learnt = found.work, found.work.labeller.learnt
    names = np.array([*work.labeller.classes, ""], dtype=object)
    if work.existing is not None:
        page.known = work.existing[rows]
        page.confusion = pd.crosstab(pd.Series(work.existing, name="existing"), pd.Series(types, name="predicted"))
        page.confusion = page.confusion.drop(index="", errors="ignore")
    elif (work.known >= 0).any():
        page.known = names[work.known][rows]
        if len(learnt.held_out):  # kept labels agree by construction; this says something
            _, calls, truth = learnt.held_out.T
            page.confusion = pd.crosstab(names[truth.astype(int)], names[calls.astype(int)])
            page.confusion_note = (
                "Labelled cells, each called as if it had no label; in the output their labels are kept."
            )


def typical(page: report.Annotation, found: Found, types: np.ndarray) -> None:
    """Add the marker genes of each type, from the cells that were learnt from and their types (M,)."""
    log_counts, genes = found.work.labeller.fitted.log, found.work.query.spelled()
    page.markers = report.marker_genes(log_counts, genes, types)
    wanted = page.markers.groupby("type", sort=False).head(3)["gene"]
    page.dots = report.marker_dots(log_counts, genes, types, list(dict.fromkeys(wanted)))


def reliability(learnt: Learnt) -> pd.DataFrame:
    """How often held-out labelled cells were called rightly, by bins of confidence: confidence, accuracy, n."""
    sure, calls, truth = learnt.held_out.T
    bins = pd.DataFrame({"confidence": sure, "accuracy": (calls == truth).astype(float)})
    bins = bins.groupby(np.minimum((sure * 10).astype(int), 9))
    return bins.mean().assign(n=bins.size()).reset_index(drop=True)
