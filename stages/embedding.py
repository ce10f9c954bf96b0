"""The linear map of an embedding that invents nothing: genes weighted by what other genes confirm, then whitened.

Separating the clusters of a dataset by the very genes and cells that made them fits their noise: on genes that were
permuted among cells, so that nothing is there, ten clusters then stand apart. Here a gene counts by its signal share,
measured in the neighbourhoods that the *other* half of the genes makes. No cell is set aside, and where genes are
independent the share is zero whatever the clusters look like.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, diags
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from stages import directions, reduce

DIMENSIONS = 15  # kNN from 5 labels .883 with 10 or 15, .877 with 20, .868 with 30
NEIGHBOURS = 10  # cells whose mean must agree with a cell, for a gene to carry signal
POINTS = 20  # principal components in which neighbours are found
FLOOR = 0.005  # signal share that every gene is granted
LEAST_VARIANCE = 0.03  # added to a gene's variance: one that hardly varies is not blown up
SPLITS = 4  # of the genes in halves that shares are the mean of: kNN +.004; fewer where cells are many, noise small
CLUSTERS = (6, 12, 25)  # k-means partitions, at most one cluster for CELLS_EACH cells
CELLS_EACH = 8
SHRINKAGE, SHRINKAGE_CELLS = 0.1, 50  # of the covariance within clusters towards a round one: .1 + 50 / N, at most 1
DEVIATIONS = 4.0  # a share this many standard deviations above 0 is no chance
CONFIRMED = 0.01  # share of genes that must be so; 25 real sets have .04 to .87, permuted ones at most .002
BLOCK = 1024  # cells whose neighbours' means are made at a time
SAMPLE = 6_000  # cells: a map is made of at most so many
LEAST_CELLS = 3  # that have a gene; one of two cells is noise
PRIOR_CELLS, PRIOR_CELLS_SHALLOW = 100, 300  # cells of a dataset that the signal shares of a corpus are worth
SHALLOW = 500  # genes seen in the median cell; of shallower cells the corpus knows more
FEW = 100  # cells: kNN +.012 by the corpus at 60, -.003 at 120; at a tenth of the depth +.022 whatever their number


@dataclass(frozen=True)
class Prior:
    """Signal shares of genes (G,) that are known from elsewhere, NaN for a gene without, and how many cells' worth."""

    shares: np.ndarray
    cells: float


@threadpool_limits.wrap(limits=1)  # a classifier on the map hangs on last digits, and these on the number of threads
def fit(
    datasets: Sequence[csr_matrix],
    measured: Sequence[np.ndarray] | None = None,
    shares: Sequence[np.ndarray] | None = None,
    *,
    dimensions: int = DIMENSIONS,
    prior: Prior | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The map of log-normalised cells to their embedding: weight (H, G) and bias (H,), float32; H may be less.

    `datasets` (N, G) csr, log1p of 10,000 counts, one matrix a dataset; `measured` (G,) bool, the genes each has;
    `shares` (G,) of each, else measured here. `prior`: shares known from elsewhere.
    Genes times root of (share + .005) / (variance + .03); leading directions of all datasets, each as much as any
    other; whitened by the covariance within clusters. Plain principal components where no gene confirms another.
    """
    genes = datasets[0].shape[1]
    measured = [np.ones(genes, bool)] * len(datasets) if measured is None else measured
    shares = [signal_shares(x, seed=seed) for x in datasets] if shares is None else shares
    cells = np.array([x.shape[0] for x in datasets], dtype=float)
    once = np.ones(len(cells))
    means, variances = zip(*map(directions.moments, datasets), strict=True)
    found = any(structured(one[has], x.shape[0]) for one, has, x in zip(shares, measured, datasets, strict=True))
    weights = np.ones(genes)
    if found:
        share = average(shares, measured, np.sqrt(cells))
        if prior is not None:
            known = np.where(np.isnan(prior.shares), share, prior.shares)
            share = (cells.sum() * share + prior.cells * known) / (cells.sum() + prior.cells)
        weights = np.sqrt((np.clip(share, 0, 1) + FLOOR) / (average(variances, measured, once) + LEAST_VARIANCE))
    weighted = [(x @ diags(weights.astype(np.float32))).tocsr() for x in datasets]
    axes = directions.leading(np.vstack([principal(x, dimensions, seed) for x in weighted]), dimensions)  # (H, G)
    if not len(axes):  # one cell, or cells that are all equal: no direction is better than another
        axes = np.eye(1, genes)
    if found:
        inside = [within(x @ axes.T, seed=seed) for x in weighted]
        traces = [max(np.trace(one), 1e-12) for one in inside]  # each dataset as much as any other, at a common scale
        inside = np.mean(traces) * np.mean([one / t for one, t in zip(inside, traces, strict=True)], axis=0)
        axes = whitening(inside, min(1.0, SHRINKAGE + SHRINKAGE_CELLS / cells.sum())) @ axes
    weight = (axes * weights).astype(np.float32)
    return weight, (-weight @ average(means, measured, once)).astype(np.float32)


def own(x: csr_matrix, *, prior: np.ndarray | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """`fit` of one dataset's cells `x` (N, G) without the genes that hardly a cell has: weight (H, G), bias (H,).

    Of more than 6,000 cells some are drawn. `prior` (G,) are the signal shares of a corpus, NaN where it has none;
    they count for more where cells are shallow.
    """
    x = some(x, seed)
    cells_with = np.bincount(x.indices[x.data > 0], minlength=x.shape[1])
    seen = np.flatnonzero(cells_with >= LEAST_CELLS)
    seen = seen if len(seen) > 1 else np.arange(x.shape[1])
    worth = PRIOR_CELLS_SHALLOW if shallow(x) else PRIOR_CELLS
    known = None if prior is None else Prior(prior[seen], worth)
    found, bias = fit([x[:, seen].tocsr()], prior=known, seed=seed)
    weight = np.zeros((len(found), x.shape[1]), np.float32)
    weight[:, seen] = found
    return weight, bias


def shallow(x: csr_matrix) -> bool:
    """Whether few genes are seen in the median cell of `x` (N, G)."""
    return x.shape[0] > 0 and bool(np.median(np.diff(x.indptr)) < SHALLOW)


def corpus_helps(x: csr_matrix) -> bool:
    """Whether a corpus as a prior was measured to make the map of such cells `x` (N, G) better: few ones or shallow."""
    return x.shape[0] < FEW or shallow(x)


def some(x: csr_matrix, seed: int) -> csr_matrix:
    """At most 6,000 of the cells `x` (N, G), in their order."""
    if x.shape[0] <= SAMPLE:
        return x
    return x[np.sort(np.random.default_rng(seed).choice(x.shape[0], SAMPLE, replace=False))]


def signal_shares(x: csr_matrix, *, seed: int = 0) -> np.ndarray:
    """Share of each gene's variance that a cell's neighbours confirm, (G,), for log1p cells `x` (N, G); noise: about 0.

    The mean over some splits of the genes in halves: four up to 1,500 cells, one from 6,000 on.
    """
    splits = max(1, min(SPLITS, SAMPLE // max(1, x.shape[0])))
    return np.mean([shares_of_split(x, seed + split) for split in range(splits)], axis=0)


def shares_of_split(x: csr_matrix, seed: int) -> np.ndarray:
    """`signal_shares` (G,) by one split of the genes in halves.

    Neighbours are found in principal components of one half of the genes, and the shares of the other half are the
    covariance of a gene with its mean over these neighbours, over its variance. Both ways, so every gene has one.
    """
    cells, genes = x.shape
    mean, variance = directions.moments(x)
    shares = np.zeros(genes)
    count = neighbours_of(cells)
    half = np.random.default_rng(seed).permutation(genes) % 2
    for side in (0, 1) if cells > 2 and genes > 3 else ():
        others = x[:, half != side].tocsr()
        points = reduce.project(others, *reduce.components(others, POINTS, seed=seed))  # (N, 20)
        columns = np.flatnonzero(half == side)
        nearest = NearestNeighbors(n_neighbors=count).fit(points).kneighbors(return_distance=False)  # (N, k)
        pointer = np.arange(0, cells * count + 1, count)
        means = csr_matrix((np.full(cells * count, 1 / count), nearest.ravel(), pointer), (cells, cells))
        times = np.asarray(means.sum(axis=0)).ravel()  # (N,) how much a cell counts in the means
        own = x[:, columns].tocsr()
        product = np.zeros(len(columns))
        for start in range(0, cells, BLOCK):
            around = means[start : start + BLOCK] @ own  # (B, G/2) sparse
            shared = own[start : start + BLOCK].multiply(around)
            product += np.asarray(shared.sum(axis=0, dtype=np.float64)).ravel()
        centre = times @ own / cells  # (G/2,) the mean of the neighbours' means
        shares[columns] = (product / cells - mean[columns] * centre) / np.maximum(variance[columns], 1e-12)
    return shares


def neighbours_of(cells: int) -> int:
    """Neighbours that a cell is compared with, of so many cells."""
    return max(1, min(NEIGHBOURS, cells // CELLS_EACH))


def structured(shares: np.ndarray, cells: int) -> bool:
    """Whether genes confirm each other: a hundredth of the shares (G,) is four deviations above what chance gives."""
    deviation = np.sqrt(2 / (cells * neighbours_of(cells)))  # of the share of a gene without signal
    return bool(np.mean(shares > DEVIATIONS * deviation) > CONFIRMED)


def principal(x: csr_matrix, dimensions: int, seed: int) -> np.ndarray:
    """Principal axes (D, G) of cells `x` (N, G), each times the root of its share of what they explain."""
    axes, centre = reduce.components(x, dimensions, seed=seed)
    variance = reduce.project(x, axes, centre).var(axis=0, dtype=np.float64)
    return axes * np.sqrt(variance / (variance.sum() + 1e-12))[:, None]


def within(points: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Covariance (D, D) of points (N, D) within their k-means clusters, the mean over three partitions."""
    total = np.zeros((points.shape[1], points.shape[1]))
    for wanted in CLUSTERS:
        size = max(1, min(wanted, len(points) // CELLS_EACH))
        kmeans = KMeans(size, n_init=2, max_iter=20, random_state=seed).fit(points)
        rest = points - kmeans.cluster_centers_[kmeans.labels_]
        total += rest.T @ rest / max(1, len(points) - size) / len(CLUSTERS)
    return total


def whitening(covariance: np.ndarray, shrinkage: float) -> np.ndarray:
    """The map (D, D) that makes points of this covariance round; shrunk, so a thin direction is not blown up."""
    dimensions = len(covariance)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / dimensions * np.eye(dimensions)
    values, vectors = np.linalg.eigh(shrunk)
    return (vectors / np.sqrt(np.maximum(values, 1e-12))).T


def average(values: Sequence[np.ndarray], measured: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Weighted mean (G,) of values (G,), over the datasets that measured a gene."""
    total = sum(w * has * value for value, has, w in zip(values, measured, weights, strict=True))
    return total / np.maximum(sum(w * has for has, w in zip(measured, weights, strict=True)), 1e-12)
