"""Cells laid out in two dimensions by UMAP."""

import warnings

import numpy as np

LEAST = 5  # cells: fewer are no map
SPECTRAL = 50  # cells: fewer have no spectrum to start from


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
