"""The closed form an encoder starts from: the leading directions that separate the pseudo-clusters of all datasets.

A random start of 15,000 genes x 200 units keeps its noise, because a few hundred steps never wash it out.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from scipy.sparse import csr_matrix

import ranks
from stages import on_device

LEAST_SCALE = 0.1  # added to every gene's deviation: a gene that hardly varies is not blown up
BLOCK = 16_384  # cells whose genes are summed at once


def moments(x: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (G,) of every gene of sparse `x` (N, G), float32, without making it dense."""
    mean, square = np.zeros((2, x.shape[1]))
    for start in range(0, x.shape[0], BLOCK):  # the sums take three times the memory of what they are of
        block = x[start : start + BLOCK] if x.shape[0] > BLOCK else x
        mean += np.asarray(block.mean(axis=0), dtype=np.float64).ravel() * (block.shape[0] / x.shape[0])
        square += np.bincount(block.indices, np.square(block.data, dtype=np.float64), minlength=x.shape[1])
    square /= x.shape[0]
    return mean.astype(np.float32), np.maximum(square - mean**2, 0).astype(np.float32)


def gene_scale(variances: Sequence[np.ndarray], measured: Sequence[np.ndarray]) -> np.ndarray:
    """What a gene is divided by, (G,): the root of its mean variance over the datasets that measured it, plus 0.1.

    `variances` (G,) and `measured` (G,) bool of each dataset; one with no variance at all takes no part.
    """
    times = np.maximum(np.sum(measured, axis=0), 1)
    return (np.sqrt(np.sum(variances, axis=0) / times) + LEAST_SCALE).astype(np.float32)


def start(
    datasets: Sequence[csr_matrix],
    measured: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    hidden: int,
    device: torch.device | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All an encoder starts from: `directions` (H, G), the `gene_scale` (G,) they are of, and gene means (D, G).

    `datasets` (N, G) log-normalised, with pseudo-labels (N, P); `measured` (G,) bool, the genes each of them has. With
    a `device` cells are summed there, as dense blocks, which pays on a GPU.
    """
    of_genes = partial(on_device.moments, device=device) if device else moments
    means, variances = zip(*ranks.spread(of_genes, datasets, [x.nnz for x in datasets]), strict=True)
    scale = gene_scale(variances, measured)
    return directions(datasets, means, labels, scale, hidden, device), scale, np.stack(means)


def directions(
    datasets: Sequence[csr_matrix],
    means: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    scale: np.ndarray,
    hidden: int,
    device: torch.device | None = None,
) -> np.ndarray:
    """The `hidden` leading directions (H, G) of all pseudo-cluster centroids, on genes divided by `scale` (G,).

    `datasets` (N, G) log-normalised, their gene means (G,) and `labels` (N, P). A cluster counts by the root of its
    share of cells, every dataset as much as any other. Rows are of unit length; those beyond the rank are zero.
    """

    def centroids(dataset: int) -> np.ndarray:
        x, mean, partitions = datasets[dataset], means[dataset], labels[dataset]
        found = _on_device(x, partitions, device) if device else [_centroids(x, column) for column in partitions.T]
        shares = [root_share(column)[:, None] for column in partitions.T]
        block = np.vstack([one - share * mean for one, share in zip(found, shares, strict=True)])
        block /= scale
        return block / np.sqrt(np.square(block).sum() + 1e-12)

    rows = ranks.spread(centroids, range(len(datasets)), [x.nnz for x in datasets])
    found = leading(np.vstack(rows), hidden)  # (rank, G)
    out = np.zeros((hidden, len(scale)), np.float32)
    out[: len(found)] = found
    return out


def leading(rows: np.ndarray, most: int) -> np.ndarray:
    """At most `most` leading unit directions (rank, G) of rows (R, G), none where all are zero."""
    values, vectors = np.linalg.eigh((rows @ rows.T).astype(np.float64))
    keep = np.argsort(-values)[: min(most, int((values > values.max() * 1e-8).sum()))]
    found = (rows.T @ vectors[:, keep] / np.sqrt(values[keep])).T
    sign = np.sign(found[np.arange(len(found)), np.abs(found).argmax(axis=1)])  # the same on every machine
    return found * sign[:, None]


def root_share(column: np.ndarray) -> np.ndarray:
    """The root of each cluster's share of the cells, (K,)."""
    return np.sqrt(np.bincount(column) / len(column)).astype(np.float32)


def _centroids(x: csr_matrix, column: np.ndarray) -> np.ndarray:
    """Cluster centroids (K, G), each times the root of its share of the cells."""
    count = np.maximum(np.bincount(column), 1)
    weight = (root_share(column) / count)[column]
    member = csr_matrix((weight, (column, np.arange(len(column)))), shape=(len(count), len(column)), dtype=np.float32)
    return (member @ x).toarray()  # (K, G)


def _on_device(x: csr_matrix, partitions: np.ndarray, device: torch.device) -> list[np.ndarray]:
    """`_centroids` of every partition (N, P), on a GPU."""
    weights = [root_share(column) / np.maximum(np.bincount(column), 1) for column in partitions.T]
    return on_device.weighted_sums(x, partitions, [one.astype(np.float32) for one in weights], device)
