"""Is a query of the references' world at all: same organ, same species, or near enough to speak of the same types."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.stats import rankdata
from sklearn.cluster import KMeans

from stages.classify import fit_view

CELLS = 400  # of each side that are compared, evenly over types there, by chance here; it was measured so
GROUPS = 10  # of the query's cells: their mean profiles are compared, not the cells, which are mostly noise
LEAST_GENES = 300  # shared genes below which another organ looks like the same one (90 genes of islets, of liver)
LEAST_CELLS = 20  # a mean of fewer says little
# Measured on the public labelled sets with 300 shared genes and more (pairs of benchmarks/unknown_reference.py): 73 of
# 73 queries of another organ or species lie below, of the same world 51 of 51 pairs and halves above, 206 of 206 whose
# reference lacks a type of the query, and 147 of 151 queries of one pure type. Chosen on either half of the pairs it is
# .953 or .955 (form and weights were found on all of them), and of the other half it tells 31 of 31 or 42 of 42, with
# no false alarm but for 1 or 3 pure types.
FAMILIAR = 0.955
BEST = 0.5  # share of the query, its best agreeing groups, that is looked at: the rest may be of types that are new
STRUCTURE = 0.75  # weight of the third of the agreements below beside the mean of the first two
PURE = 0.6  # of how far a group is a type among the references, where it is none among the query: of one pure type


def familiarity(theirs: csr_matrix, labels: np.ndarray, ours: csr_matrix, seed: int) -> float:
    """How well the better half of the query agrees with types of the references; below `FAMILIAR` it is foreign.

    theirs (R, S) with labels (R,), ours (M, S): log1p on shared genes. The query goes into groups, and of the mean
    profiles of groups and types three things are compared: the profiles themselves, by Pearson's correlation; the
    same over the types' markers, by Spearman's (the mean of both); and what sets a group apart from the query's
    others, with what sets a type apart from the references' others. The first are high where cells are of one kind
    and technique differs little, the third where the same types differ in the same genes, whatever technique does to
    all of them. A query of one type has no others: for it the references' serve too, at a discount.
    """
    types = np.stack([_mean(theirs[labels == k]) for k in np.unique(labels) if (labels == k).sum() > 2])  # (L, S)
    view = fit_view(ours.astype(np.float32), None, np.ones(ours.shape[1]), GROUPS, seed)
    k = min(GROUPS, max(2, ours.shape[0] // 20))
    group = KMeans(k, n_init=1, random_state=seed).fit_predict(ours @ np.linalg.qr(view.axes)[0])
    profiles = np.stack([_mean(ours[group == j]) for j in range(k)])  # (K, S)
    apart, ours_apart = types - types.mean(axis=0), profiles - _mean(ours)
    markers = np.unique(np.argsort(-apart, axis=1)[:, :50])
    weight = np.bincount(group, minlength=k) / len(group)
    kind = correlation(profiles, types).max(axis=1)
    of_markers = correlation(_ranks(profiles[:, markers]), _ranks(types[:, markers])).max(axis=1)
    among_theirs = correlation((profiles - types.mean(axis=0))[:, markers], apart[:, markers]).max(axis=1)
    structure = np.maximum(correlation(ours_apart, apart).max(axis=1), PURE * among_theirs)
    return best_mean((kind + of_markers) / 2 + STRUCTURE * structure, weight, BEST)


def best_mean(values: np.ndarray, weight: np.ndarray, share: float) -> float:
    """The mean of the highest of the values (K,), so many that their weights (K,), which sum to 1, reach `share`."""
    order = np.argsort(-values, kind="stable")
    before = np.cumsum(weight[order]) - weight[order]
    used = np.clip(share - before, 0, weight[order])
    return float(used @ values[order] / used.sum())


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation of every row of a (K, S) with every row of b (L, S): (K, L); 0 for a row without spread."""
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    return a @ b.T / np.maximum(np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)), 1e-9)


def _ranks(x: np.ndarray) -> np.ndarray:
    return np.apply_along_axis(rankdata, 1, x)


def _mean(x: csr_matrix) -> np.ndarray:
    return np.asarray(x.mean(axis=0)).ravel()
