"""Groups of cells to be named: a tree cut at N, its groups then drawn tight, and the cells of each to look at first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

from annotation import consensus, suggest
from annotation.labeller import AVERAGED, MANY
from annotation.road import evenly, neighbours
from stages import classify, cluster

LEAST = 3  # cells a group at least, on average
AGAIN = 0.9  # share of the cells that the second run sees
LOOK_AT = 3  # cells of a group to look at first
MIXED = 0.38  # neighbours across a cut in two, over those by chance: less in a quarter of groups, purity .79 not .92
SMALLEST_PART = 0.1  # share of a group that either part of such a cut must have


@dataclass(frozen=True)
class Groups:
    """K groups, the largest first."""

    centres: np.ndarray  # (K, D) of the features
    of: np.ndarray  # (M,) group of each fitted cell, 0..K-1
    stability: float  # adjusted Rand index with the groups of another run on most of the cells


def find(features: np.ndarray, averaged: np.ndarray, n: int, seed: int) -> Groups:
    """Groups of cells (M, D), whose features averaged over neighbours are given too; n of them where cells suffice.

    Ward's tree keeps rare cells apart, on features half averaged because a tree never takes back a wrong turn; k-means
    then starts from its groups. Over the 25 labelled sets, for 20 groups: 79 % of the cells are in groups of one type
    (90 % of it), Leiden on the neighbour graph 73 %, k-means 74 %; and nothing but the sample of a large set, and the
    seed of the features, is left to chance.
    """
    n = max(1, min(n, len(features) // LEAST))
    centres, of = _grouped(features, averaged, n, seed)
    rng = np.random.default_rng(seed)
    some = np.sort(rng.choice(len(features), max(1, int(AGAIN * len(features))), replace=False))
    again = _grouped(features[some], averaged[some], min(n, len(some)), seed + 1)[1]
    return Groups(centres, of, float(adjusted_rand_score(of[some], again)))


def _grouped(features: np.ndarray, averaged: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres (K, D) and the group of each cell (M,), the largest first."""
    half = (features + averaged) / 2  # (M, D)
    tree = cluster.pseudo_labels(half, (n,), method="agglomerative", seed=seed)[:, 0]
    tree = np.unique(tree, return_inverse=True)[1]
    start = np.stack([features[tree == k].mean(axis=0) for k in range(tree.max() + 1)])  # (K, D)
    kmeans = KMeans(len(start), init=start, n_init=1, random_state=seed).fit(features)
    order = np.argsort(-np.bincount(kmeans.labels_, minlength=len(start)), kind="stable")
    place = np.argsort(order)
    return kmeans.cluster_centers_[order], place[kmeans.labels_]


def keep_their_name(features: np.ndarray, of: np.ndarray, names: np.ndarray, seed: int) -> np.ndarray:
    """Whether each cell (M,) keeps the name of its group; no: what the cores of groups teach calls it surely otherwise.

    of (M,): the group of each cell, -1 where it is not named; names (M,): its type as int, or -1. A core is the half of
    a group that is nearest to its mean, less the cells that have a neighbour of another name. Over the 25 labelled
    sets, 20 groups named by their most frequent type, macro F1 .922, and .915 where every cell keeps its group's name;
    chosen on 14 of the sets (.914, .909), confirmed on the other 11 (.933, .924).
    """
    settled = (names[neighbours(features, AVERAGED)] == names[:, None]).all(axis=1)
    core = np.full(len(of), -1)
    for k in np.unique(of[of >= 0]):
        rows = np.flatnonzero(of == k)
        distance = ((features[rows] - features[rows].mean(axis=0)) ** 2).sum(axis=1)
        rows = rows[np.argsort(distance, kind="stable")]
        inner = rows[: max(LEAST, len(rows) // 2)]
        core[inner[settled[inner]] if settled[inner].any() else rows[:LEAST]] = names[rows[0]]  # one of the group
    if len(np.unique(core[core >= 0])) < 2:
        return np.ones(len(of), dtype=bool)
    few = evenly(core, MANY, np.random.default_rng(seed))
    strength = classify.choose_strength(features[few], core[few], seed)
    p = classify.learn(features, core, int(core.max()) + 1, strength=strength).predict(features)  # (M, L)
    otherwise = (p.argmax(axis=1) != names) & (p.max(axis=1) >= consensus.SURE)
    return ~otherwise | (of < 0) | (core >= 0)


def to_look_at(groups: Groups, averaged: np.ndarray, seed: int) -> list[np.ndarray]:
    """Of each group the rows of the fitted cells to look at first: as `suggest` spreads them, over the group alone."""
    found = []
    for k in range(len(groups.centres)):
        rows = np.flatnonzero(groups.of == k)
        few = min(LOOK_AT, len(rows))
        found.append(rows[suggest.suggest(averaged[rows], n=few, seed=seed)[0]] if few else rows)
    return found


def mixed(groups: Groups, features: np.ndarray, seed: int) -> np.ndarray:
    """Whether each group may want to be split (K,): hardly a neighbour lies across the best cut in two."""
    found = np.zeros(len(groups.centres), dtype=bool)
    for k in range(len(found)):
        points = features[groups.of == k]  # (m, D)
        if len(points) < 20:
            continue
        half = KMeans(2, n_init=3, random_state=seed).fit(points).labels_
        part = half.mean()
        if min(part, 1 - part) < SMALLEST_PART:
            continue
        near = NearestNeighbors(n_neighbors=min(10, len(points) // 2)).fit(points).kneighbors(return_distance=False)
        found[k] = (half[near] != half[:, None]).mean() < MIXED * 2 * part * (1 - part)
    return found
