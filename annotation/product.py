"""Sparse cells times a dense matrix, on several threads; scipy's product holds Python's lock and uses one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from scipy.sparse import csr_matrix

SMALL = 50_000  # stored entries: below it threads, and the compiler, cost more than they save


def product(x: csr_matrix, weights: np.ndarray, threads: int = 2) -> np.ndarray:
    """x (B, G) times weights (G, D), float32 (B, D); scipy's numbers up to rounding."""
    weights = np.ascontiguousarray(weights, dtype=np.float32)
    kernel = _kernel() if x.nnz > SMALL else None
    if kernel is None:
        return np.asarray(x @ weights, dtype=np.float32)
    out = np.zeros((x.shape[0], weights.shape[1]), np.float32)
    edges = np.searchsorted(x.indptr, np.linspace(0, x.nnz, 4 * threads + 1)[1:-1])  # equal work, not equal rows
    edges = [0, *edges.tolist(), x.shape[0]]
    data = x.data.astype(np.float32, copy=False)

    def part(i: int) -> None:
        kernel(x.indptr, x.indices, data, weights, out, edges[i], edges[i + 1])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, range(len(edges) - 1)))
    return out


@cache
def _kernel():
    """The compiled loop, or None where numba (which comes with umap-learn) is not installed."""
    try:
        import numba
    except ImportError:
        return None

    def rows_times(indptr, indices, data, weights, out, start, stop):
        width = weights.shape[1]
        for i in range(start, stop):
            target = out[i]
            for j in range(indptr[i], indptr[i + 1]):
                value, row = data[j], weights[indices[j]]
                for h in range(width):
                    target[h] += value * row[h]

    try:
        return numba.njit(rows_times, nogil=True, fastmath=True, cache=True)
    except RuntimeError:  # no folder to keep what is compiled in
        return numba.njit(rows_times, nogil=True, fastmath=True)
