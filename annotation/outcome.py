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

from annotation import confidence, consensus, groups, marker_labels, suggest
from annotation.groups import Groups
from annotation.labeller import AVERAGED, FIT, Block
from annotation.markers import marker_genes
from annotation.road import VOTERS, neighbours
from annotation.wishes import GROUPS
from annotation.work import UNKNOWN, Centres, Work
from reading.source import Source
from stages import reduce
from voice import bar, log

BLOCK = 4096  # query rows at a time
NEAR = 3  # of the cells that were learnt from, the nearest: a cell is drawn in the middle of them
SLOW = 3_000  # cells learnt from: with more, steps take seconds and say what they do


@dataclass
class Calls:
    """What each of N cells is by itself, before clusters vote and known labels count; types as ints."""

    first: np.ndarray  # (N,) the likeliest type
    second: np.ndarray  # (N,) the next
    confidence: np.ndarray  # (N,) probability of the likeliest
    strange: np.ndarray  # (N,) bool: no known type explains it
    cluster: np.ndarray  # (N,) the nearest of the clusters that vote
    unlike: np.ndarray  # (N,) the nearest of the groups of unknown cells
    group: np.ndarray  # (N,) the nearest of the groups that are to be named
    near: np.ndarray  # (N, 3) the nearest anchors, beside which it is placed on the map; (N, 0) without a map
    probability: np.ndarray | None  # (N, L) where clusters vote, for they may turn to any type, or it is asked for
    seconds: float = 0.0  # that looking at them took
    processor: float = 0.0  # the same, of all threads

    @staticmethod
    def none(n: int, work: Work) -> Calls:
        """Of n cells none of which has been looked at."""
        model, wishes = work.labeller, work.wishes
        types, anchors = len(model.classes), max(1, min(VOTERS - 1, len(model.anchors) // 4))
        return Calls(
            first=np.full(n, -1),
            second=np.full(n, -1),
            confidence=np.zeros(n, np.float32),
            strange=np.zeros(n, bool),
            cluster=np.zeros(n, int),
            unlike=np.zeros(n, int),
            group=np.zeros(n, int),
            near=np.zeros((n, min(NEAR, anchors) if wishes.umap else 0), np.int32),
            probability=np.zeros((n, types), np.float32) if types and wishes.all_types else None,
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
    markers: pd.DataFrame | None = None  # genes of each type, or of each group
    groups: pd.DataFrame | None = None  # a row a group: group, n, suggested, proposed, score, mixed
    group: np.ndarray | None = None  # (N,) int, 1 for the largest group
    stability: float = float("nan")  # of the groups
    probabilities: np.ndarray | None = None  # (N, L) before clusters vote and known labels count
    seconds: float = 0.0
    processor: float = 0.0  # seconds, of all threads
    notes: list[str] = field(default_factory=list)


def label(work: Work, sink) -> Found:
    """Label every cell of the query by blocks; its embedding goes into `sink` (N, H), which takes slices."""
    return conclude(work, look(work, sink, range(0, len(work.query), BLOCK)), sink)


def look(work: Work, sink, starts: range) -> Calls:
    """What the cells of some blocks are by themselves, one block after the other, (n,); starts: of the blocks.

    Their embedding goes into `sink` (n, H), which takes slices.
    """
    model = work.labeller
    work.centres = centres = work.centres or centres_of(work)
    types, done = len(model.classes), 0
    calls = Calls.none(cells_in(starts, len(work.query)), work)
    begin, busy = time.perf_counter(), time.process_time()
    for _, counts in progress(work.query, "labelling" if types else "embedding", starts):
        rows, block = slice(done, done + counts.shape[0]), model.block(counts)
        done = rows.stop
        sink[rows] = block.embedding
        if types:
            calls.take(rows, block)
        if centres.unlike is not None:
            calls.unlike[rows] = consensus.assign(block.features, centres.unlike)
        if centres.voting is not None:
            calls.cluster[rows] = consensus.assign(block.features, centres.voting)
        if centres.grouped is not None:
            calls.group[rows] = consensus.assign(block.features, centres.grouped.centres)
        if calls.near.shape[1]:
            near = model.nearest(block.features) if block.near is None else block.near
            calls.near[rows] = near[:, :NEAR]
    calls.seconds, calls.processor = time.perf_counter() - begin, time.process_time() - busy
    return calls


def conclude(work: Work, calls: Calls, sink) -> Found:
    """What takes all N cells, each of which has been looked at: the map, the votes, groups, genes. sink: as it was."""
    model, fitted, n = work.labeller, work.labeller.fitted, len(work.query)
    centres = work.centres or centres_of(work)
    found = Found(work, sink, seconds=calls.seconds, processor=calls.processor)
    if work.wishes.umap:
        places = map_of(work)
        found.umap = np.zeros((n, 2), np.float32)
        for start in range(0, n, BLOCK):
            rows = slice(start, start + BLOCK)
            found.umap[rows] = places[model.anchors[calls.near[rows]]].mean(axis=1)
    found.group = 1 + calls.group if centres.grouped else None
    if n <= FIT:  # all cells were learnt from together: their own places and scores are the better ones
        if found.umap is not None:
            found.umap[fitted.rows] = places
        if model.classes:
            calls.strange[fitted.rows] = fitted.strange
    else:
        found.notes.append(
            f"Learnt from {len(fitted.rows):,} of the {n:,} cells (UMAP, clusters, markers); the others were labelled "
            "in blocks and placed on the map beside their nearest cells."
        )
    describe(found, calls, centres.voting, centres.grouped)
    return found


def describe(found: Found, calls: Calls, centres: np.ndarray | None, grouped: Groups | None) -> None:
    """Add columns, tables and marker genes once every cell has been looked at."""
    work, fitted = found.work, found.work.labeller.fitted
    if work.labeller.classes:
        found.columns, found.clusters = decide(work, calls, centres)
        found.probabilities = calls.probability if work.wishes.probabilities else None
        of_fitted = np.asarray(found.columns["cell_type"]).astype(object)[fitted.rows]
    else:
        found.group[fitted.rows] = 1 + grouped.of
        found.groups, found.stability = table_of_groups(found, grouped), grouped.stability
        of_fitted = (1 + grouped.of).astype(str)
        if work.wishes.explore:
            found.columns["group"] = pd.Categorical.from_codes(found.group - 1, found.groups["group"].astype(str))
    if work.wishes.suggest:
        found.suggested = suggest_cells(work, found, work.wishes.suggest)
    say_slow(work, "marker genes")
    found.markers = marker_genes(fitted.log, work.query.spelled(), of_fitted)
    if "unknown_group" in found.columns and len(found.columns["unknown_group"].categories) > 1:
        group = pd.Series(found.columns["unknown_group"]).astype(object).fillna("").to_numpy()[fitted.rows]
        of_groups = marker_genes(
            fitted.log, work.query.spelled(), np.where(group != "", group, of_fitted), skip=set(of_fitted)
        )
        found.markers = pd.concat([t for t in (found.markers, of_groups) if len(t)] or [of_groups], ignore_index=True)


def say_slow(work: Work, what: str) -> None:
    """Name a step that takes seconds."""
    if (cells := len(work.labeller.fitted.rows)) > SLOW:
        log.info(f"{what}, of {cells:,} cells")


def map_of(work: Work) -> np.ndarray:  # (M, 2)
    """The UMAP of the cells that were learnt from."""
    log.info(f"drawing the map: UMAP of {len(work.labeller.fitted.rows):,} cells")
    return reduce.umap(work.labeller.fitted.features, work.wishes.seed)


def centres_of(work: Work) -> Centres:
    """What cells are held against one by one: made of the cells that were learnt from."""
    fitted, wishes, types = work.labeller.fitted, work.wishes, bool(work.labeller.classes)
    voting = None
    if types and wishes.consensus:
        say_slow(work, "small clusters that vote")
        voting = consensus.over_cluster(fitted.features, seed=wishes.seed)[0]
    unlike = confidence.groups(fitted.features[fitted.strange], wishes.seed) if fitted.strange.any() else None
    return Centres(voting, unlike, None if types else group_cells(work))


# -- groups ----------------------------------------------------------------
def group_cells(work: Work) -> Groups:
    """Groups of the cells that were learnt from; says how many, how large and how stable."""
    fitted, wishes = work.labeller.fitted, work.wishes
    say_slow(work, "groups of cells that belong together")
    found = groups.find(fitted.features, fitted.averaged, wishes.explore or GROUPS, wishes.seed)
    size = np.bincount(found.of, minlength=len(found.centres))
    if wishes.explore:
        log.info(
            f"{len(size)} groups of {size.min():,} to {size.max():,} cells; a second run on {groups.AGAIN:.0%} of the "
            f"cells, with another seed, agrees to {found.stability:.2f} (adjusted Rand index)"
        )
    return found


def table_of_groups(found: Found, grouped: Groups) -> pd.DataFrame:
    """A row a group: group, n (of all cells), suggested (cells to look at first), proposed, score, mixed."""
    work, fitted = found.work, found.work.labeller.fitted
    look_at = groups.to_look_at(grouped, fitted.averaged, work.wishes.seed)
    names = work.query.rows.cells
    table = pd.DataFrame({"group": 1 + np.arange(len(grouped.centres))})
    table["n"] = np.bincount(found.group, minlength=len(table) + 1)[1:]
    table["suggested"] = [[names[row] for row in fitted.rows[rows]] for rows in look_at]
    table["proposed"], table["score"] = "", np.nan
    if work.marked:
        columns, signs = work.marked
        score = marker_labels.scores(fitted.log[:, columns], signs, neighbours(fitted.features, AVERAGED))
        proposed = marker_labels.proposals(score, grouped.of, work.wishes.markers.types)
        table["proposed"], table["score"] = proposed["proposed"], proposed["score"]
    table["mixed"] = groups.mixed(grouped, fitted.features, work.wishes.seed)
    return table


# -- types ----------------------------------------------------------------
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
        # of Unknown there is none: that of the type it was refused would let it pass a filter on confidence
        "confidence": np.where(given, 1.0, np.where(calls.strange, np.nan, sure)).astype(np.float32),
        "second_choice": named(runner_up, classes),
        "cell_call": named(calls.first, classes),
        "known": given,
    }
    if (final == -1).any():
        columns["unknown_group"] = named_groups(np.where(final == -1, calls.unlike, -1))
    return columns | votes, clusters


def named_groups(group: np.ndarray) -> pd.Categorical:
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
        return pd.DataFrame(columns=["cell", "alike"])
    probabilities = fitted.probabilities if work.labeller.classes else None
    rows, alike = suggest.suggest(
        fitted.averaged, work.known[fitted.rows], min(n, free), probabilities, work.wishes.seed
    )  # fmt: skip
    table = pd.DataFrame({"cell": [work.query.rows.cells[row] for row in fitted.rows[rows]], "alike": alike})
    for name in ("group", "cell_type", "confidence", "second_choice", "cluster"):
        if name in found.columns:
            table[name] = np.asarray(found.columns[name])[fitted.rows[rows]]
    return table


def cells_in(starts: range, n: int) -> int:
    """How many of n cells lie in the blocks that begin there."""
    return sum(min(BLOCK, n - start) for start in starts)


def progress(cells: Source, what: str, starts: range | None = None) -> Iterator[tuple[int, csr_matrix]]:
    """The query's row blocks under a bar that tells the time left; the next is read while this one is worked on.

    starts: of the blocks that are wanted, by default all.
    """
    n = len(cells)
    starts = range(0, n, BLOCK) if starts is None else starts

    def read(start: int) -> csr_matrix:
        return cells.rows.rows(start, min(start + BLOCK, n))

    with bar(cells_in(starts, n), what) as shown, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(read, starts[0]) if len(starts) else None
        for i, start in enumerate(starts):
            counts = waiting.result()
            if i + 1 < len(starts):
                waiting = pool.submit(read, starts[i + 1])
            yield start, counts
            shown.update(counts.shape[0])
