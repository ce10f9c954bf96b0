"""k-means (or a tree) of one dataset at three granularities: its pseudo-labels."""

import random
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.linalg import cholesky
from scipy.linalg.blas import ssyrk
from scipy.sparse import coo_matrix, csr_matrix, issparse
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from stages import on_device, reduce

try:
    import faiss  # not among the requirements
except ImportError:
    faiss = None

ITERATIONS = 20  # Lloyd iterations, as published
ROTATE_UP_TO = 12_000  # cells: an (N, N) float64 matrix is then 1.2 GB
LEADING = 100  # components of more sparse cells: clusters of these are as tight among all genes (.996 of the inertia)
FEW_SIZES = (6, 12, 25)  # clusters of the partitions of scpretrain2, at most one for CELLS_EACH cells
CELLS_EACH = 8
NEIGHBOURS = 15  # of a cell in the graph of `leiden`
TREE_UP_TO = 10_000  # cells: the tree needs all their pairwise distances, 0.4 GB


class RowsOnDevice(Protocol):
    """Cells where torch has them: a tensor, or sparse rows that give a dense one for a slice."""

    shape: tuple[int, int]

    def __getitem__(self, rows: slice) -> torch.Tensor: ...


def partition_sizes(cells: int, cells_per_cluster: int = 100) -> tuple[int, int, int]:
    """Clusters of the three published partitions, n//a, n//(a//2) and n//(2a)+1: at least 2, at most one a cell."""
    half = max(1, cells_per_cluster // 2)
    sizes = (cells // cells_per_cluster, cells // half, cells // (2 * cells_per_cluster) + 1)
    return tuple(min(max(2, size), cells) for size in sizes)


def leiden(points: np.ndarray, resolutions: Sequence[float], seed: int = 0) -> dict[float, np.ndarray]:
    """Leiden's communities (N,) of the graph of nearest neighbours of `points` (N, D), for each resolution.

    Modularity of the graph that joins every cell to its 15 nearest by unweighted edges.
    """
    from igraph import Graph, set_random_number_generator  # here, as only this needs it

    cells = len(points)
    nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS, max(1, cells - 1))).fit(points)
    joined = nearest.kneighbors_graph().tocoo() if cells > 1 else coo_matrix((1, 1))
    graph = Graph(cells, list(zip(joined.row.tolist(), joined.col.tolist(), strict=True))).simplify()
    found = {}
    for resolution in resolutions:
        set_random_number_generator(random.Random(seed))
        parts = graph.community_leiden("modularity", resolution=resolution, n_iterations=-1)
        found[resolution] = np.array(parts.membership)
    set_random_number_generator(random)
    return found


def few_sizes(cells: int) -> tuple[int, int, int]:
    """Clusters of the three partitions of scpretrain2: 6, 12 and 25, at most one for eight cells and at least 2."""
    return tuple(min(cells, max(2, min(size, cells // CELLS_EACH))) for size in FEW_SIZES)


def pseudo_labels(
    points: np.ndarray | csr_matrix | RowsOnDevice,
    sizes: tuple[int, ...],
    *,
    method: str = "kmeans",
    seed: int = 0,
    spread: bool = False,
) -> np.ndarray:
    """Cluster `points` (N, D) once for every number in `sizes`; returns (N, len(sizes)) int64.

    `points` is a numpy or csr matrix (on the CPU: scikit-learn; faiss beyond 12,000 cells if it is installed) or rows
    on a device (torch, where they are). Of more than 12,000 sparse cells their first 100 components are clustered.
    `method` is "kmeans" (random start, 20 Lloyd iterations, one run: the published setting) or "agglomerative"
    (Ward's tree cut at each size). With `spread` k-means starts from centres far apart (k-means++), the better of
    two runs. Raises ValueError for another method.
    """
    if method == "agglomerative":
        return _tree(points, sizes, seed)
    if method != "kmeans":
        raise ValueError(f"no clustering method is called {method!r}; there are kmeans and agglomerative")
    if not isinstance(points, np.ndarray) and not issparse(points):
        return on_device.kmeans(points[:], sizes, seed=seed, spread=spread).cpu().numpy()
    if issparse(points):
        if points.shape[0] >= ROTATE_UP_TO:
            points = reduce.project(points, *reduce.components(points, LEADING, seed=seed))  # (N, 100)
        elif points.shape[0] < points.shape[1]:
            points = rotate(points)  # (N, N)
    if faiss and not spread and points.shape[0] >= ROTATE_UP_TO:
        return np.stack([_by_faiss(points, size, seed) for size in sizes], axis=1).astype(np.int64)
    return np.stack([_sklearn(points, size, seed, spread) for size in sizes], axis=1).astype(np.int64)


def _sklearn(points: np.ndarray | csr_matrix, size: int, seed: int, spread: bool) -> np.ndarray:
    if size >= points.shape[0]:
        return np.arange(points.shape[0])
    start = {"init": "k-means++", "n_init": 2} if spread else {"init": "random", "n_init": 1}
    kmeans = KMeans(size, **start, max_iter=ITERATIONS, tol=0.0, random_state=seed)
    # The sum of two threads' partial sums does not depend on who was first; that of three does.
    with threadpool_limits(limits=1 if spread else 2, user_api="openmp"):  # few points of 50 numbers need no second
        return kmeans.fit_predict(points)


def _by_faiss(points: np.ndarray, size: int, seed: int) -> np.ndarray:
    """The same k-means by faiss, which takes four fifths of scikit-learn's time; it fills an empty cluster anew."""
    points = np.ascontiguousarray(points, dtype=np.float32)
    every = {"min_points_per_centroid": 1, "max_points_per_centroid": len(points)}  # no sample, no warning
    kmeans = faiss.Kmeans(points.shape[1], min(size, len(points)), niter=ITERATIONS, seed=seed, **every)
    kmeans.train(points)
    return kmeans.index.search(points, 1)[1][:, 0]


def rotate(points: csr_matrix) -> np.ndarray:
    """Points (N, D) in the N dimensions they span: (N, N) float32 with the same pairwise distances, for N < D.

    The Cholesky factor L of the Gram matrix of the centred points has the inner products of the points themselves,
    so k-means sees the same geometry; a diagonal 1e-9 of the mean one makes room for cells that are equal.
    """
    try:
        points = cholesky(_gram(points), lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:  # many equal cells: float32 sums left a slightly negative eigenvalue
        values, vectors = np.linalg.eigh(_gram(points), UPLO="L")
        points = vectors * np.sqrt(np.clip(values, 0, None))
    return points.astype(np.float32)


def _gram(points: csr_matrix) -> np.ndarray:
    """The lower triangle of the inner products (N, N) of the centred points (N, D), its diagonal raised a little."""
    columns, cells = points.tocsc(), points.shape[0]
    gram = np.zeros((cells, cells), order="F")  # the upper triangle is of no account
    for start in range(0, points.shape[1], 2048):
        block = columns[:, start : start + 2048].toarray(order="F").astype(np.float32, copy=False)  # (N, 2048)
        gram += ssyrk(1.0, block, lower=1)  # each block in float32, the sum over blocks in float64
    diagonal = np.arange(cells)
    mean = (gram.sum(axis=0) + gram.sum(axis=1) - gram[diagonal, diagonal]) / cells  # row means of the whole matrix
    gram -= (mean - mean.mean())[:, None]
    gram -= mean[None, :]
    gram[diagonal, diagonal] += 1e-9 * gram[diagonal, diagonal].mean() + np.finfo(np.float32).tiny
    return gram


def _tree(points: np.ndarray | csr_matrix | RowsOnDevice, sizes: tuple[int, ...], seed: int) -> np.ndarray:
    """Ward's tree cut at each size; beyond TREE_UP_TO cells that of a sample, the others join the nearest mean."""
    cells = points.shape[0]
    if cells == 1:
        return np.zeros((1, len(sizes)), dtype=np.int64)
    sample = np.arange(cells)
    if cells > TREE_UP_TO:
        sample = np.sort(np.random.default_rng(seed).choice(cells, TREE_UP_TO, replace=False))
    tree = linkage(_dense(points, sample), method="ward")
    columns = []
    for size in sizes:
        of_sample = fcluster(tree, size, criterion="maxclust") - 1
        columns.append(of_sample if len(sample) == cells else _nearest_mean(points, sample, of_sample))
    return np.stack(columns, axis=1).astype(np.int64)


def _dense(points: np.ndarray | csr_matrix | RowsOnDevice, rows: np.ndarray) -> np.ndarray:
    if issparse(points):
        taken = points[rows]
        return rotate(taken) if len(rows) < points.shape[1] else taken.toarray()
    if isinstance(points, np.ndarray):
        return points[rows]
    return torch.cat([points[int(row) : int(row) + 1] for row in rows]).cpu().numpy()


def _nearest_mean(points: np.ndarray | csr_matrix | RowsOnDevice, sample: np.ndarray, labels: np.ndarray) -> np.ndarray:
    member = csr_matrix((np.ones(len(sample), np.float32), (labels, np.arange(len(sample)))))
    member = member.multiply(1 / member.sum(axis=1)).tocsr()
    nearest = []
    if issparse(points):
        means = (member @ points[sample]).toarray()  # (K, D)
    else:
        means = member @ _dense(points, sample)
    norm = np.square(means).sum(axis=1)
    for start in range(0, points.shape[0], 4096):
        block = points[start : start + 4096]
        product = block @ means.T if not torch.is_tensor(block) else block.cpu().numpy() @ means.T
        nearest.append((norm - 2 * product).argmin(axis=1))
    return np.concatenate(nearest)
