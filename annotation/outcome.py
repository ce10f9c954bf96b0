"""What was found out about the query's cells: the columns, the tables and the page that are made of it."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pandas as pd

from annotation import consensus, report, suggest
from annotation.labeller import FIT, Block, Labeller
from reading.source import Source
from stages import reduce
from voice import bar, log

UNKNOWN = "Unknown"
PREFIX = "scpretrain"
BLOCK = 4096  # query rows at a time
DRAWN = 50_000  # cells in the report's map


@dataclass
class Work:
    """The opened datasets and what was learnt from them."""

    query: Source
    references: list[Source]
    labeller: Labeller
    known: np.ndarray  # (N,) labels of the query that are kept, -1 for none
    existing: np.ndarray | None  # (N,) labels of the query to compare with, "" for none
    overlap: list[dict]
    warnings: list[str]
    settings: dict[str, Any]
    seed: int


@dataclass
class Calls:
    """What each of the query's N cells is by itself, before clusters vote and known labels count; types as ints."""

    first: np.ndarray  # (N,) the likeliest type
    second: np.ndarray  # (N,) the next
    confidence: np.ndarray  # (N,) probability of the likeliest
    strange: np.ndarray  # (N,) bool: no known type explains it
    cluster: np.ndarray  # (N,) the nearest of the clusters that vote
    probability: np.ndarray | None  # (N, L) where clusters vote: they may turn to any type


@dataclass
class Found:
    """What the query's N cells are: the columns for obs, named without the prefix, and what else is written."""

    columns: dict[str, Any]
    umap: np.ndarray | None  # (N, 2)
    uns: dict[str, Any]
    clusters: pd.DataFrame | None
    suggested: pd.DataFrame | None
    seconds: float
    processor: float  # seconds, of all threads
    notes: list[str] = field(default_factory=list)


def label(work: Work, sink, *, use_consensus: bool, umap: bool, suggestions: int) -> Found:
    """Label every cell of the query by blocks; its embedding goes into `sink` (N, H), which takes slices."""
    model, fitted, cells, n = work.labeller, work.labeller.fitted, work.query, len(work.query)
    types, notes = len(model.classes), []
    places = reduce.umap(fitted.features, work.seed) if umap else None
    centres = consensus.over_cluster(fitted.features, seed=work.seed)[0] if types and use_consensus else None
    probability = np.zeros((n, types), np.float32) if centres is not None else None
    calls = Calls(
        np.full(n, -1), np.full(n, -1), np.zeros(n, np.float32), np.zeros(n, bool), np.zeros(n, int), probability
    )
    drawn = np.zeros((n, 2), np.float32) if umap else None
    at_once = n <= FIT
    begin, busy = time.perf_counter(), time.process_time()

    def take(rows, block: Block) -> None:
        sink[rows] = block.embedding
        if types:
            order = np.argsort(-block.probabilities, axis=1, kind="stable")[:, :2]
            calls.first[rows], calls.second[rows] = order[:, 0], order[:, 1]
            calls.confidence[rows] = block.probabilities[np.arange(len(order)), order[:, 0]]
            calls.strange[rows] = block.strange
        if centres is not None:
            calls.cluster[rows], probability[rows] = consensus.assign(block.features, centres), block.probabilities
        if umap:
            near = model.nearest(block.features) if block.near is None else block.near
            drawn[rows] = places[model.anchors[near[:, :3]]].mean(axis=1)

    for start, counts in progress(cells, "labelling"):
        take(slice(start, start + counts.shape[0]), model.block(counts))
    if at_once and umap:
        drawn[fitted.rows] = places
    if at_once and types:  # all cells were learnt from together: their own scores are the better ones
        calls.strange[fitted.rows] = fitted.strange
    seconds, processor = time.perf_counter() - begin, time.process_time() - busy
    if not at_once:
        notes.append(
            f"Learnt from {len(fitted.rows):,} of the {n:,} cells (UMAP, clusters, markers); the others were labelled "
            "in blocks and placed on the map beside their nearest cells."
        )
    found = Found({}, drawn, {}, None, None, seconds, processor, notes)
    if types:
        found.columns, found.clusters = decide_types(work, calls, centres)
    if suggestions:
        found.suggested = suggest_cells(work, found, suggestions)
    found.uns = about(work, found)
    return found


def decide_types(work: Work, calls: Calls, centres: np.ndarray | None) -> tuple[dict[str, Any], pd.DataFrame | None]:
    """The columns of obs and the table of clusters: votes overrule, then Unknown, then known labels.

    centres (K, D): of the clusters that vote; None where none does.
    """
    known, classes = work.known, np.array([*work.labeller.classes, UNKNOWN], dtype=object)
    final, second, sure = calls.first, calls.second, calls.confidence
    table, extra = None, {}
    if centres is not None:
        clusters = calls.cluster
        votes = np.where(known >= 0, known, np.where(calls.strange, -1, calls.first))
        voted = consensus.consensus(centres, consensus.count_votes(clusters, votes, len(centres), len(classes) - 1))
        unsure = sure < consensus.SURE  # a vote overrules only a cell that is less sure than a vote must be
        final = np.where(unsure, consensus.overrule(calls.first, clusters, voted), calls.first)
        changed = final != calls.first
        second = np.where(changed, calls.first, second)
        sure = np.where(changed, calls.probability[np.arange(len(final)), final], sure)
        extra = {
            "cluster": clusters, "cluster_type": named(voted.winner[clusters], classes),
            "vote_share": voted.share[clusters], "vote_entropy": voted.entropy[clusters],
            "mixed": voted.mixed[clusters],
        }  # fmt: skip
        table = pd.DataFrame(
            {"cluster": np.arange(len(centres)), "n": np.bincount(clusters, minlength=len(centres)),
             "majority": classes[voted.winner], "share": voted.share, "entropy": voted.entropy, "mixed": voted.mixed}
        )  # fmt: skip
        table = table[table["n"] > 0]
    second = np.where(calls.strange, final, second)  # of Unknown: the type that is nearest
    second = np.where(known >= 0, calls.first, second)  # of a label that was given: what the cell was called
    final = np.where(known >= 0, known, np.where(calls.strange, -1, final))
    sure = np.where(known >= 0, 1.0, sure)
    second = np.where(second == final, -2, second)
    columns = {
        "cell_type": named(final, classes), "confidence": sure.astype(np.float32),
        "second_choice": named(second, classes), "cell_call": named(calls.first, classes), "known": known >= 0,
    }  # fmt: skip
    return columns | extra, table


def named(codes: np.ndarray, classes: np.ndarray) -> pd.Categorical:
    """Types by name: -1 is Unknown, -2 no type at all."""
    codes = np.where(codes == -1, len(classes) - 1, codes)
    return pd.Categorical.from_codes(
        np.where(codes < 0, -1, codes), [str(name) for name in classes]
    ).remove_unused_categories()


def suggest_cells(work: Work, found: Found, n: int) -> pd.DataFrame:
    """The cells to label next, from among those that were learnt from."""
    fitted = work.labeller.fitted
    free = int((work.known[fitted.rows] < 0).sum())
    if n > free:
        log.info(f"only {free:,} cells have no label: that many are suggested, not {n:,}")
    if not min(n, free):
        return pd.DataFrame(columns=["cell", "group"])
    probabilities = fitted.probabilities if work.labeller.classes else None
    rows, groups = suggest.suggest(fitted.averaged, work.known[fitted.rows], min(n, free), probabilities, work.seed)
    table = pd.DataFrame({"cell": [work.query.rows.cells[row] for row in fitted.rows[rows]], "group": groups})
    for name in ("cell_type", "confidence", "second_choice", "cluster"):
        if name in found.columns:
            table[name] = np.asarray(found.columns[name])[fitted.rows[rows]]
    return table


def about(work: Work, found: Found) -> dict[str, Any]:
    """What goes into uns['scpretrain']."""
    model, learnt = work.labeller, work.labeller.learnt
    content = {
        "versions": versions(), "settings": work.settings, "genes": np.array(work.query.genes, dtype=object),
        "classes": np.array(model.classes, dtype=object), "temperature": learnt.temperature, "ece": learnt.ece,
        "seed": work.seed, "recipe": work.settings["recipe"], "warnings": np.array(work.warnings, dtype=object),
        "overlap": pd.DataFrame(work.overlap), "cells_learnt_from": len(model.fitted.rows), "command": "",
    }  # fmt: skip
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


def progress(cells: Source, what: str) -> Iterator[tuple[int, Any]]:
    """The query's row blocks under a bar that tells the time left; the next is read while this one is worked on."""
    starts = range(0, len(cells), BLOCK)
    with bar(len(cells), what) as shown:
        with ThreadPoolExecutor(1) as pool:
            read = lambda a: pool.submit(cells.rows.rows, a, min(a + BLOCK, len(cells)))  # noqa: E731
            waiting = read(0)
            for start in starts:
                counts = waiting.result()
                if start + BLOCK < len(cells):
                    waiting = read(start + BLOCK)
                yield start, counts
                shown.update(counts.shape[0])


# -- telling ----------------------------------------------------------------
def table_of(found: Found, names: Sequence[str]) -> pd.DataFrame:
    """The .csv: a row a cell, the columns of obs without the prefix, and the map."""
    table = pd.DataFrame(found.columns, index=pd.Index(names, dtype=object))
    if found.umap is not None:
        table["umap_1"], table["umap_2"] = found.umap[:, 0], found.umap[:, 1]
    return table


def page_of(work: Work, found: Found, title: str) -> report.Annotation:
    """What the report says."""
    classes, learnt, fitted = work.labeller.classes, work.labeller.learnt, work.labeller.fitted
    n = len(work.query)
    rows = fitted.rows if n > DRAWN else np.arange(n)
    cells = [work.query.rows.cells[row] for row in rows]
    of = found.columns
    page = report.Annotation(
        title, cells, np.full(len(rows), "not labelled", dtype=object), np.full(len(rows), np.nan),
        umap=found.umap[rows] if found.umap is not None else None, overlap=work.overlap, warnings=work.warnings,
        notes=found.notes, settings=work.settings, versions=versions(), command=found.uns["command"], unknown=UNKNOWN,
        called=bool(of),
    )  # fmt: skip
    if not of:
        return page
    types = np.asarray(of["cell_type"]).astype(object)
    page.cell_type, page.confidence = types[rows], np.asarray(of["confidence"])[rows]
    page.second_choice = np.asarray(pd.Series(of["second_choice"]).astype(object).fillna(""))[rows]
    page.counts = pd.Series(types).value_counts().to_dict()
    if work.existing is not None:
        page.known = work.existing[rows]
        page.confusion = pd.crosstab(pd.Series(work.existing, name="existing"), pd.Series(types, name="predicted"))
        page.confusion = page.confusion.drop(index="", errors="ignore")
    elif (work.known >= 0).any():
        page.known = np.array([*classes, ""], dtype=object)[work.known][rows]
        if len(learnt.held_out):  # kept labels agree by construction; this says something
            names, (_, calls, truth) = np.array(classes, dtype=object), learnt.held_out.T
            page.confusion = pd.crosstab(names[truth.astype(int)], names[calls.astype(int)])
            page.confusion_note = (
                "Labelled cells, each called as if it had no label; in the output their labels are kept."
            )
    of_fitted = types[fitted.rows]
    page.markers = report.marker_genes(fitted.log, work.query.spelled(), of_fitted)
    wanted = page.markers.groupby("type", sort=False).head(3)["gene"]
    page.dots = report.marker_dots(fitted.log, work.query.spelled(), of_fitted, list(dict.fromkeys(wanted)))
    page.clusters = found.clusters
    if np.isfinite(learnt.ece):
        page.ece = learnt.ece
        sure, calls, truth = learnt.held_out.T
        bins = pd.DataFrame({"confidence": sure, "accuracy": (calls == truth).astype(float)})
        bins = bins.groupby(np.minimum((sure * 10).astype(int), 9))
        page.reliability = bins.mean().assign(n=bins.size()).reset_index(drop=True)
    return page


def tell(work: Work, found: Found) -> None:
    """The counts per type, most first, and how fast it went."""
    rate = len(work.query) / max(found.seconds, 1e-9)
    took = f"{found.seconds:.1f} s ({rate:,.0f} cells/s; {found.processor:.1f} s of processor time)"
    log.info(f"{len(work.query):,} cells in {took}")
    if found.columns:
        counts = pd.Series(np.asarray(found.columns["cell_type"])).value_counts()
        if work.labeller.unknown is not None:
            counts[UNKNOWN] = counts.get(UNKNOWN, 0)
        log.info("; ".join(f"{name} {count:,}" for name, count in counts.items()))
    if found.suggested is not None and len(found.suggested):
        log.info("label next: " + ", ".join(found.suggested["cell"].astype(str)))
