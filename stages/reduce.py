"""Fewer dimensions: principal components of sparse cells without making them dense, and UMAP."""

import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import numpy as np
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import ArpackError
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from voice import on_terminal

PLAIN = (15, 50, 200)  # components of all genes; 200 as published
VARIABLE, PCS_OF_VARIABLE, BINS = 2000, 50, 20
SAMPLE = 20_000  # cells: components are fitted on at most so many
TO_THE_LAST_DIGIT = 5_000  # cells: of more the components are not iterated until nothing changes
BLOCKS = 12  # of half as many directions as there are to be components
LEAST = 5  # cells: fewer are no map
EXACT = 20_000  # cells: of more the neighbours are approximate
SPECTRAL = 50  # cells: fewer have no spectrum to start from


def components(x: csr_matrix, dimensions: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The first components (D, G) and the mean (G,) of cells `x` (N, G), float32; D is at most min(N, G) - 1.

    Up to 5,000 cells by ARPACK, to the last digit; of more by block Lanczos, on a sample of at most 20,000: 50 of them
    explain .995 to .9997 of the variance that the exact ones do (two real sets, a simulated one), in a ninth of the
    time. What differs are the last ones, which are noise.
    """
    if x.shape[0] > SAMPLE:
        x = x[np.sort(np.random.default_rng(seed).choice(x.shape[0], SAMPLE, replace=False))]
    dimensions = max(1, min(dimensions, min(x.shape) - 1))
    if x.shape[0] > TO_THE_LAST_DIGIT and x.shape[1] > BLOCKS * dimensions:
        return _by_blocks(x, dimensions, seed)
    try:
        with threadpool_limits(1, user_api="blas"):  # its last digits, and with them a classifier, depend on threads
            pca = PCA(dimensions, svd_solver="arpack", random_state=seed).fit(x)
    except (ArpackError, ValueError):  # one cell, or cells that are all equal: no direction is better than another
        return np.eye(dimensions, x.shape[1], dtype=np.float32), np.asarray(x.mean(axis=0), dtype=np.float32).ravel()
    return pca.components_.astype(np.float32), pca.mean_.astype(np.float32)


def _by_blocks(x: csr_matrix, dimensions: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`components` from the span of a few blocks of directions, each the last one times the covariance of the genes.

    Block Lanczos with full orthogonalisation: Musco and Musco, NeurIPS 2015.
    """
    mean = np.asarray(x.mean(axis=0), dtype=np.float32).ravel()
    width = -(-dimensions // 2)
    block = np.random.default_rng(seed).standard_normal((x.shape[1], width), dtype=np.float32)
    basis, points = np.zeros((x.shape[1], 0), np.float32), []
    for _ in range(BLOCKS):
        for _ in range(2):  # once leaves in float32 what the first blocks have most of
            block = _orthonormal(block - basis @ (basis.T @ block))  # (G, W)
        basis = np.hstack([basis, block])
        points.append(x @ block - mean @ block)  # (N, W)
        block = x.T @ points[-1] - np.outer(mean, points[-1].sum(axis=0))
    _, turn = np.linalg.eigh(_products(np.hstack(points)))  # the smallest first
    found = (basis @ turn[:, ::-1][:, :dimensions].astype(np.float32)).T  # (D, G)
    sign = np.sign(found[np.arange(dimensions), np.abs(found).argmax(axis=1)])  # the same on every machine
    return found * sign[:, None], mean


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    """An orthonormal basis of tall `columns` (G, W), by their inner products: faster than QR."""
    columns = columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-30)
    values, vectors = np.linalg.eigh(_products(columns))
    return columns @ (vectors / np.sqrt(np.maximum(values, 1e-12 * values[-1]))).astype(np.float32)


def _products(columns: np.ndarray) -> np.ndarray:
    """The inner products (W, W) of columns (N, W): in float32 within a block of rows, in float64 over blocks."""
    blocks = (columns[start : start + 4096] for start in range(0, len(columns), 4096))
    return np.sum([(block.T @ block).astype(np.float64) for block in blocks], axis=0)


def project(x: csr_matrix, components: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Cells `x` (N, G) on components (D, G) around the mean `centre` (G,): (N, D), without a dense `x`."""
    return x @ components.T - centre @ components.T


def variable_genes(x: csr_matrix, most: int = VARIABLE) -> np.ndarray:
    """The columns of the `most` genes that vary more than others of their mean; `x` (N, G) is log1p of 10,000 counts.

    Variance over mean of the counts, its logarithm set against median and median deviation of the twentieth of genes
    that have such means.
    """
    counts = x.expm1()
    mean = np.asarray(counts.mean(axis=0)).ravel()
    variance = np.maximum(np.asarray(counts.power(2).mean(axis=0)).ravel() - mean**2, 0)
    there = np.flatnonzero((mean > 0) & (variance > 0))
    spread = np.log(variance[there] / mean[there])
    standing = np.empty(len(there))
    for genes in np.array_split(np.argsort(mean[there], kind="stable"), BINS):
        if len(genes):
            beyond = spread[genes] - np.median(spread[genes])  # robust: the genes that are looked for are few
            standing[genes] = beyond / (np.median(np.abs(beyond)) + 1e-9)
    return np.sort(there[np.argsort(-standing, kind="stable")[:most]])


def baselines(x: csr_matrix, seed: int = 0) -> dict[str, Callable[[csr_matrix], np.ndarray]]:
    """What an embedding is compared with, fitted on cells `x` (N, G): each makes points (M, D) of cells (M, G).

    15, 50 and 200 principal components of all genes, and 50 of the 2,000 most variable ones at unit variance.
    """
    components_of = components(x, max(PLAIN), seed=seed)
    found: dict[str, Callable[[csr_matrix], np.ndarray]] = {
        f"{width} PCs": partial(_first, components_of, width) for width in PLAIN
    }
    genes = variable_genes(x)
    if len(genes) < 2:  # cells that are all equal
        return found
    scaled = x[:, genes]
    scale = np.sqrt(np.maximum(np.asarray(scaled.power(2).mean(axis=0)).ravel() - _mean(scaled) ** 2, 1e-12))
    weights = diags(1 / scale).astype(np.float32)
    fitted = components(csr_matrix(scaled @ weights), PCS_OF_VARIABLE, seed=seed)
    name = f"{PCS_OF_VARIABLE} PCs of {VARIABLE:,} variable genes"
    return found | {name: lambda cells: project(csr_matrix(cells[:, genes] @ weights), *fitted)}


def _first(fitted: tuple[np.ndarray, np.ndarray], width: int, cells: csr_matrix) -> np.ndarray:
    return project(cells, fitted[0][:width], fitted[1])


def _mean(x: csr_matrix) -> np.ndarray:
    return np.asarray(x.mean(axis=0)).ravel()


def umap(points: np.ndarray, seed: int) -> np.ndarray:
    """Cells (N, D) to (N, 2) with the usual settings: 15 neighbours, minimal distance 0.1; under 5 cells on a line.

    Up to 20,000 cells their neighbours are exact and found here: umap-learn would compare every pair in Python below
    4,096 cells, and build (and compile) an approximate index above.
    """
    if len(points) < LEAST:
        return np.column_stack([np.arange(len(points)), np.zeros(len(points))]).astype(np.float32)
    from umap import UMAP  # here, because it takes seconds to load

    _keep_compiled()
    start = "spectral" if len(points) > SPECTRAL else "random"
    k = min(15, len(points) - 1)
    exact = {}
    if k < len(points) <= EXACT:
        near = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points).kneighbors(points)
        exact = {"precomputed_knn": (near[1].astype(np.int32), near[0].astype(np.float32))}
    rounds = {"desc": "drawing the map", "disable": not on_terminal(), "leave": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a seed means one thread; a graph in pieces is laid out all the same
        fitted = UMAP(n_neighbors=k, init=start, random_state=seed, n_jobs=1, tqdm_kwds=rounds, **exact)
        return fitted.fit_transform(points)


def _keep_compiled() -> None:
    """Let numba keep what it compiles of umap-learn on disk: that is 5 of the 7 seconds of a small map."""
    from umap import layouts, umap_

    functions = [getattr(umap_, name, None) for name in ("smooth_knn_dist", "compute_membership_strengths")]
    functions.append(getattr(layouts, "_nb_optimize_layout_euclidean_single_epoch", None))
    for function in filter(None, functions):
        with suppress(Exception):  # no folder to keep them in, or another umap-learn: they are compiled anew then
            function.enable_caching()
