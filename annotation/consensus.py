"""One call for cells that lie together: over-clustering, majority vote, and a flag where the vote is split."""

from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans

from stages import score

FINENESS = 3.0  # clusters a root of N: 95 for 1,000 cells; half as many merge rare types into their neighbours
SMALLEST, LARGEST = 2, 1000  # clusters; to compare a cell with 1,000 centres costs less than the classifier does
SURE = 0.8  # a vote overrules a cell's own call from this share on; less lowered macro-F1
MIXED = 0.25  # a second type with this share of the votes and two cells or more makes a cluster mixed


@dataclass
class Consensus:
    """The clusters of a dataset and what their cells are called; K clusters, L types."""

    centres: np.ndarray  # (K, D)
    votes: np.ndarray  # (K, L) calls, or sums of probabilities; rows of zeros where a cluster has no vote
    winner: np.ndarray  # (K,) int, -1 without a vote
    share: np.ndarray  # (K,) of the winner, 0 to 1
    entropy: np.ndarray  # (K,) of the votes, over log(L): 0 one type, 1 all alike
    mixed: np.ndarray  # (K,) bool


def over_cluster(features: np.ndarray, n_clusters: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Many small clusters: (N, D) -> centres (K, D), cluster of each cell (N,).

    `n_clusters` None: 3 sqrt(N), but 2 to 1,000. Fit it on a sample of a large query, then `assign` blocks.
    """
    if n_clusters is None:
        n_clusters = int(np.clip(FINENESS * np.sqrt(len(features)), SMALLEST, LARGEST))
    k = min(n_clusters, max(len(features) // 2, 1))
    if len(features) <= 20_000:  # k-means proper is better, and quick enough
        k = min(k, len(np.unique(features, axis=0)))  # copies of a cell cannot be told apart
        fitted = KMeans(k, n_init=1, random_state=seed).fit(features)
    else:
        fitted = MiniBatchKMeans(k, batch_size=4096, n_init=3, random_state=seed).fit(features)
    return fitted.cluster_centers_, fitted.labels_


def assign(features: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The nearest centre of each cell of a block: (B, D), (K, D) -> (B,)."""
    return ((centres**2).sum(1) - 2 * (features @ centres.T)).argmin(1)


def count_votes(clusters: np.ndarray, calls: np.ndarray, n_clusters: int, n_types: int) -> np.ndarray:
    """Calls of each type in each cluster (K, L); -1 does not vote. Tables of blocks add up."""
    voting = calls >= 0
    cell = clusters[voting] * n_types + calls[voting]
    return np.bincount(cell, minlength=n_clusters * n_types).reshape(n_clusters, n_types).astype(float)


def consensus(centres: np.ndarray, votes: np.ndarray) -> Consensus:
    """What each cluster is, from its votes (K, L)."""
    total = votes.sum(1)  # (K,)
    shares = votes / np.maximum(total, 1e-12)[:, None]  # (K, L)
    winner = np.where(total > 0, votes.argmax(1), -1)
    divided = score.entropy(shares) / np.log(max(votes.shape[1], 2))  # (K,)
    if votes.shape[1] > 1:
        second = np.partition(votes, -2, axis=1)[:, -2]
        mixed = (second >= MIXED * np.maximum(total, 1e-12)) & (second >= 2)
    else:
        mixed = np.zeros(len(votes), dtype=bool)
    return Consensus(centres, votes, winner, shares.max(1), np.maximum(divided, 0), mixed)


def overrule(calls: np.ndarray, clusters: np.ndarray, fitted: Consensus) -> np.ndarray:
    """The vote where it is nearly unanimous, the cell's own call elsewhere: (B,), (B,) -> (B,)."""
    sure = (fitted.share[clusters] >= SURE) & (fitted.winner[clusters] >= 0)
    return np.where(sure, fitted.winner[clusters], calls)
