"""Fewer dimensions: principal components of sparse cells without making them dense, and UMAP."""

import warnings
from contextlib import suppress

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import ArpackError
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

SAMPLE = 20_000  # cells: components are fitted on at most so many
LEAST = 5  # cells: fewer are no map
EXACT = 20_000  # cells: of more the neighbours are approximate
SPECTRAL = 50  # cells: fewer have no spectrum to start from


def components(x: csr_matrix, dimensions: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The first components (D, G) and the mean (G,) of cells `x` (N, G), float32; D is at most min(N, G) - 1.

    Fitted on a sample of 20,000 cells where there are more.
    """
    if x.shape[0] > SAMPLE:
        x = x[np.sort(np.random.default_rng(seed).choice(x.shape[0], SAMPLE, replace=False))]
    dimensions = max(1, min(dimensions, min(x.shape) - 1))
    try:
        pca = PCA(dimensions, svd_solver="arpack", random_state=seed).fit(x)
    except (ArpackError, ValueError):  # one cell, or cells that are all equal: no direction is better than another
        return np.eye(dimensions, x.shape[1], dtype=np.float32), np.asarray(x.mean(axis=0), dtype=np.float32).ravel()
    return pca.components_.astype(np.float32), pca.mean_.astype(np.float32)


def project(x: csr_matrix, components: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Cells `x` (N, G) on components (D, G) around the mean `centre` (G,): (N, D), without a dense `x`."""
    return x @ components.T - centre @ components.T


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a seed means one thread; a graph in pieces is laid out all the same
        fitted = UMAP(n_neighbors=k, init=start, random_state=seed, n_jobs=1, **exact)
        return fitted.fit_transform(points)


def _keep_compiled() -> None:
    """Let numba keep what it compiles of umap-learn on disk: that is 5 of the 7 seconds of a small map."""
    from umap import layouts, umap_

    functions = [getattr(umap_, name, None) for name in ("smooth_knn_dist", "compute_membership_strengths")]
    functions.append(getattr(layouts, "_nb_optimize_layout_euclidean_single_epoch", None))
    for function in filter(None, functions):
        with suppress(Exception):  # no folder to keep them in, or another umap-learn: they are compiled anew then
            function.enable_caching()
