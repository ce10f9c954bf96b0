"""What each cell of the query is: labelled block by block, then clusters vote, then all is weighed together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from annotation import confidence, consensus, suggest
from annotation.labeller import FIT, Block
from annotation.work import UNKNOWN, Work
from reading.source import Source
from stages import reduce
from voice import bar, log

BLOCK = 4096  # query rows at a time


@dataclass
class Calls:
    """What each of the query's N cells is by itself, before clusters vote and known labels count; types as ints."""

    first: np.ndarray  # (N,) the likeliest type
    second: np.ndarray  # (N,) the next
    confidence: np.ndarray  # (N,) probability of the likeliest
    strange: np.ndarray  # (N,) bool: no known type explains it
    cluster: np.ndarray  # (N,) the nearest of the clusters that vote
    group: np.ndarray  # (N,) the nearest of the groups of unknown cells
    probability: np.ndarray | None  # (N, L) where clusters vote: they may turn to any type

    @staticmethod
    def none(n: int, types: int, voting: bool) -> Calls:
        """Of n cells none of which has been looked at."""
        return Calls(
            first=np.full(n, -1),
            second=np.full(n, -1),
            confidence=np.zeros(n, np.float32),
            strange=np.zeros(n, bool),
            cluster=np.zeros(n, int),
            group=np.zeros(n, int),
            probability=np.zeros((n, types), np.float32) if voting else None,
        )

    def take(self, rows: slice, block: Block) -> None:
        """Write down what a block of cells was called."""
        order = np.argsort(-block.probabilities, axis=1, kind="stable")[:, :2]
        self.first[rows], self.second[rows] = order[:, 0], order[:, 1]
        self.confidence[rows] = block.probabilities[np.arange(len(order)), order[:, 0]]
        self.strange[rows] = block.strange
        if self.probability is not None:
            self.probability[rows] = block.probabilities


@dataclass
class Found:
    """What the query's N cells are: the columns for obs, named without the prefix, and what else is written."""

    work: Work
    embedding: Any  # (N, H) what it was written into
    columns: dict[str, Any] = field(default_factory=dict)
    umap: np.ndarray | None = None  # (N, 2)
    uns: dict[str, Any] = field(default_factory=dict)
    clusters: pd.DataFrame | None = None
    suggested: pd.DataFrame | None = None
    seconds: float = 0.0
    processor: float = 0.0  # seconds, of all threads
    notes: list[str] = field(default_factory=list)


def label(work: Work, sink) -> Found:
    """Label every cell of the query by blocks; its embedding goes into `sink` (N, H), which takes slices."""
    model, fitted, wishes = work.labeller, work.labeller.fitted, work.wishes
    n, types = len(work.query), len(model.classes)
    places = reduce.umap(fitted.features, wishes.seed) if wishes.umap else None
    voting = bool(types) and wishes.consensus
    centres = consensus.over_cluster(fitted.features, seed=wishes.seed)[0] if voting else None
    unknown = confidence.groups(fitted.features[fitted.strange], wishes.seed) if fitted.strange.any() else None
    calls = Calls.none(n, types, voting)
    found = Found(work, sink, umap=np.zeros((n, 2), np.float32) if wishes.umap else None)
    begin, busy = time.perf_counter(), time.process_time()
    for start, counts in progress(work.query, "labelling"):
        rows, block = slice(start, start + counts.shape[0]), model.block(counts)
        sink[rows] = block.embedding
        if types:
            calls.take(rows, block)
        if unknown is not None:
            calls.group[rows] = consensus.assign(block.features, unknown)
        if centres is not None:
            calls.cluster[rows] = consensus.assign(block.features, centres)
        if places is not None:
            near = model.nearest(block.features) if block.near is None else block.near
            found.umap[rows] = places[model.anchors[near[:, :3]]].mean(axis=1)
    if n <= FIT:  # all cells were learnt from together: their own places and scores are the better ones
        if places is not None:
            found.umap[fitted.rows] = places
        if types:
            calls.strange[fitted.rows] = fitted.strange
    else:
        found.notes.append(
            f"Learnt from {len(fitted.rows):,} of the {n:,} cells (UMAP, clusters, markers); the others were labelled "
            "in blocks and placed on the map beside their nearest cells."
        )
    found.seconds, found.processor = time.perf_counter() - begin, time.process_time() - busy
    if types:
        found.columns, found.clusters = decide(work, calls, centres)
    if wishes.suggest:
        found.suggested = suggest_cells(work, found, wishes.suggest)
    return found


def decide(work: Work, calls: Calls, centres: np.ndarray | None) -> tuple[dict[str, Any], pd.DataFrame | None]:
    """The columns of obs and the table of clusters: votes overrule, then Unknown, then known labels.

    centres (K, D): of the clusters that vote; None where none does.
    """
    known, classes = work.known, np.array([*work.labeller.classes, UNKNOWN], dtype=object)
    voted, sure, second = calls.first, calls.confidence, calls.second
    votes, clusters = {}, None
    if centres is not None:
        voted, votes, clusters = vote(calls, known, centres, classes)
        changed = voted != calls.first
        second = np.where(changed, calls.first, second)
        sure = np.where(changed, calls.probability[np.arange(len(voted)), voted], sure)
    given = known >= 0
    final = np.where(given, known, np.where(calls.strange, -1, voted))
    nearest = np.where(calls.strange, voted, second)  # of Unknown: the type that is nearest
    runner_up = np.where(given, calls.first, nearest)  # of a label that was given: what the cell was called
    runner_up = np.where(runner_up == final, -2, runner_up)
    columns = {
        "cell_type": named(final, classes),
        "confidence": np.where(given, 1.0, sure).astype(np.float32),
        "second_choice": named(runner_up, classes),
        "cell_call": named(calls.first, classes),
        "known": given,
    }
    if (final == -1).any():
        columns["unknown_group"] = grouped(np.where(final == -1, calls.group, -1))
    return columns | votes, clusters


def grouped(group: np.ndarray) -> pd.Categorical:
    """Groups of unknown cells (N,) as Unknown 1, Unknown 2 ..., the largest first; none where it is -1."""
    count = np.bincount(group[group >= 0])
    order = np.argsort(-count, kind="stable")
    place = np.append(np.argsort(order), -1)  # -1 stays
    return pd.Categorical.from_codes(place[group], [f"{UNKNOWN} {i}" for i in range(1, int((count > 0).sum()) + 1)])


def vote(
    calls: Calls, known: np.ndarray, centres: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, dict[str, Any], pd.DataFrame]:
    """The type of each cell (N,) after its cluster voted, the columns that tell of the vote, the table of clusters."""
    clusters = calls.cluster
    votes = np.where(known >= 0, known, np.where(calls.strange, -1, calls.first))
    won = consensus.consensus(centres, consensus.count_votes(clusters, votes, len(centres), len(classes) - 1))
    unsure = calls.confidence < consensus.SURE  # a vote overrules only a cell that is less sure than a vote must be
    voted = np.where(unsure, consensus.overrule(calls.first, clusters, won), calls.first)
    columns = {
        "cluster": clusters,
        "cluster_type": named(won.winner[clusters], classes),
        "vote_share": won.share[clusters],
        "vote_entropy": won.entropy[clusters],
        "mixed": won.mixed[clusters],
    }
    table = pd.DataFrame(
        {
            "cluster": np.arange(len(centres)),
            "n": np.bincount(clusters, minlength=len(centres)),
            "majority": classes[won.winner],
            "share": won.share,
            "entropy": won.entropy,
            "mixed": won.mixed,
        }
    )
    return voted, columns, table[table["n"] > 0]


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
    rows, groups = suggest.suggest(
        fitted.averaged, work.known[fitted.rows], min(n, free), probabilities, work.wishes.seed
    )  # fmt: skip
    table = pd.DataFrame({"cell": [work.query.rows.cells[row] for row in fitted.rows[rows]], "group": groups})
    for name in ("cell_type", "confidence", "second_choice", "cluster"):
        if name in found.columns:
            table[name] = np.asarray(found.columns[name])[fitted.rows[rows]]
    return table


def progress(cells: Source, what: str) -> Iterator[tuple[int, csr_matrix]]:
    """The query's row blocks under a bar that tells the time left; the next is read while this one is worked on."""
    n = len(cells)

    def read(start: int) -> csr_matrix:
        return cells.rows.rows(start, min(start + BLOCK, n))

    with bar(n, what) as shown, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(read, 0)
        for start in range(0, n, BLOCK):
            counts = waiting.result()
            if start + BLOCK < n:
                waiting = pool.submit(read, start + BLOCK)
            yield start, counts
            shown.update(counts.shape[0])
