"""Principal components of sparse cells, without making them dense."""

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import ArpackError
from sklearn.decomposition import PCA

SAMPLE = 20_000  # cells: components are fitted on at most so many


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
