"""Fewer dimensions: principal components of sparse cells without making them dense, and UMAP."""

import warnings

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import ArpackError
from sklearn.decomposition import PCA

SAMPLE = 20_000  # cells: components are fitted on at most so many
LEAST = 5  # cells: fewer are no map
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
    """Cells (N, D) to (N, 2) with the usual settings: 15 neighbours, minimal distance 0.1; under 5 cells on a line."""
    if len(points) < LEAST:
        return np.column_stack([np.arange(len(points)), np.zeros(len(points))]).astype(np.float32)
    from umap import UMAP  # here, because it takes seconds to load

    start = "spectral" if len(points) > SPECTRAL else "random"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a seed means one thread; a graph in pieces is laid out all the same
        fitted = UMAP(n_neighbors=min(15, len(points) - 1), init=start, random_state=seed, n_jobs=1)
        return fitted.fit_transform(points)
