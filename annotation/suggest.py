"""Which cells to label next: one cell from each of the largest groups that no label reaches yet."""

import numpy as np
from sklearn.cluster import KMeans

from stages.score import entropy

LARGEST = 20_000  # cells the k-means sees; more cells do not move 20 centres


def suggest(
    features: np.ndarray,
    labels: np.ndarray | None = None,
    n: int = 20,
    probabilities: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The `n` cells whose labels would help most, spread over the groups of cells.

    Args:
        features: (N, D) float, finite; best those the classifier sees, averaged over neighbours.
        labels: (N,) int, -1 for a cell without a label; None when no cell has one.
        n: how many cells to suggest, at most the number of cells without a label.
        probabilities: (N, L) of the classifier so far; groups it is unsure of come first. None without one.
        seed: of the k-means and of the sample it sees.
    Returns:
        rows (n,) int64, most useful first, and groups (n,) int64, distinct: the one each stands for.
    Raises:
        ValueError: arrays of different lengths, or fewer than `n` cells without a label.
    """
    labels = np.full(len(features), -1) if labels is None else np.asarray(labels)
    if len(labels) != len(features) or (probabilities is not None and len(probabilities) != len(features)):
        raise ValueError(f"{len(features):,} cells, but {len(labels):,} labels or other probabilities; give one a cell")
    free = np.flatnonzero(labels < 0)
    if n < 1 or n > len(free):
        raise ValueError(f"{n} cells to suggest, but {len(free):,} have no label; ask for 1 to {len(free):,}")
    points = half_whiten(features)  # (N, D)
    known = np.flatnonzero(labels >= 0)
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(free, LARGEST, replace=False)) if len(free) > LARGEST else free
    if len(np.unique(points[sample], axis=0)) < n:  # copies of a few cells: nothing to spread over
        return np.sort(rng.choice(free, n, replace=False)), np.arange(n)
    # A labelled cell covers its own group: add a group for each of them, so that n stay uncovered.
    covered = min(len(known), 2 * n, len(sample) - n)
    for k in sorted({n + covered, min(2 * (n + covered), len(sample))}):
        kmeans = KMeans(k, n_init=10 if k <= 100 else 1, random_state=seed).fit(points[sample])
        open_groups = np.setdiff1d(np.arange(k), kmeans.predict(points[known]) if len(known) else [])
        if len(open_groups) >= n:
            break
    else:  # labels reach nearly every group: size and doubt alone decide
        open_groups = np.arange(k)
    group = kmeans.labels_  # (M,) of the sample
    size = np.bincount(group, minlength=k).astype(float)
    weight = np.sqrt(size)  # neither the largest type alone nor every outlier
    if probabilities is not None:
        p = np.asarray(probabilities)[sample]
        unsure = entropy(p) / np.log(max(p.shape[1], 2))  # (M,) 0 sure, 1 no idea
        weight *= 0.1 + np.bincount(group, weights=unsure, minlength=k) / np.maximum(size, 1)
    best = open_groups[np.argsort(-weight[open_groups], kind="stable")[:n]]
    rows = np.empty(len(best), dtype=np.int64)
    for i, j in enumerate(best):
        members = sample[group == j]
        rows[i] = members[((points[members] - kmeans.cluster_centers_[j]) ** 2).sum(1).argmin()]
    return rows, best.astype(np.int64)


def half_whiten(features: np.ndarray) -> np.ndarray:
    """Principal axes of the features, each divided by the root of its spread: (N, D) -> (N, D).

    Between plain axes, in which the one or two largest types own every distance, and whitened ones, in which
    noise owns them.
    """
    x = np.asarray(features, dtype=np.float64)
    x = x - x.mean(0)
    spread, axes = np.linalg.eigh(x.T @ x / max(len(x) - 1, 1))  # (D,), (D, D)
    keep = spread > 1e-9 * spread[-1]
    keep[-1] = True  # one axis even where all cells are alike
    return (x @ axes[:, keep]) / np.maximum(spread[keep], 1e-30) ** 0.25
