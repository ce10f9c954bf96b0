"""The genes that set each type apart, and how every type expresses given genes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

NUMBERS = ("mean_in", "mean_out", "detected_in", "detected_out", "log2_fold_change", "score")


def marker_genes(
    log_counts: csr_matrix,
    genes: Sequence[str],
    types: Sequence[str] | np.ndarray,
    top: int = 5,
    *,
    skip: Iterable[str] = ("Unknown", ""),
    min_cells: int = 3,
    min_detected: float = 0.1,
) -> pd.DataFrame:
    """The genes that set each type apart from all other cells.

    log_counts : csr (n, G), natural log1p of counts per 10,000; types : (n,) names.
    Returns a row per type and gene, best first: type, gene, mean_in, mean_out (of log_counts), detected_in,
    detected_out (shares of cells with the gene), log2_fold_change, score.

    The score is Welch's t (1947), as in scanpy's default test. Listed are genes found in `min_detected` of
    the type's cells or more (Seurat's default before version 5) and higher in the type than outside it. The
    fold change is the difference of means over ln 2: that of the geometric means of 1 + counts per 10,000, so
    a gene absent elsewhere has a finite one. Types in `skip` or of under `min_cells` cells are left out.
    """
    log_counts, names, code = _by_type(log_counts, genes, types)
    n, n_genes = log_counts.shape
    size = np.bincount(code, minlength=len(names)).astype(float)[:, None]  # (L, 1)
    total = _sums(log_counts, code, len(names))  # (L, G)
    squares = _sums(_with_data(log_counts, log_counts.data.astype(np.float64) ** 2), code, len(names))
    found = _sums(_with_data(log_counts, log_counts.data > 0), code, len(names))

    rows = []
    for k, name in enumerate(names):
        n_in, n_out = size[k, 0], n - size[k, 0]
        if name in set(skip) or n_in < min_cells or n_out < min_cells:
            continue
        mean_in, mean_out = total[k] / n_in, (total.sum(axis=0) - total[k]) / n_out  # (G,)
        var_in = (squares[k] / n_in - mean_in**2).clip(0) * n_in / (n_in - 1)
        var_out = ((squares.sum(axis=0) - squares[k]) / n_out - mean_out**2).clip(0) * n_out / (n_out - 1)
        detected_in, detected_out = found[k] / n_in, (found.sum(axis=0) - found[k]) / n_out
        # 1e-9: a gene that is constant on both sides has no variance to divide by
        t = (mean_in - mean_out) / np.sqrt(var_in / n_in + var_out / n_out + 1e-9)
        wanted = np.flatnonzero((detected_in >= min_detected) & (mean_in > mean_out))
        wanted = wanted[np.argsort(-t[wanted], kind="stable")][:top]
        rows += [
            (
                name,
                str(genes[g]),
                mean_in[g],
                mean_out[g],
                detected_in[g],
                detected_out[g],
                (mean_in[g] - mean_out[g]) / np.log(2),
                t[g],
            )
            for g in wanted
        ]
    return pd.DataFrame(rows, columns=["type", "gene", *NUMBERS])


def marker_dots(
    log_counts: csr_matrix,
    genes: Sequence[str],
    types: Sequence[str] | np.ndarray,
    wanted: Sequence[str],
    *,
    skip: Iterable[str] = ("Unknown", ""),
) -> pd.DataFrame:
    """How every type expresses every gene of `wanted`: type, gene, mean, detected (share of cells with it).

    log_counts : csr (n, G); types : (n,). Genes of `wanted` that are not in `genes` are left out.
    """
    where = {str(gene): g for g, gene in reversed(list(enumerate(genes)))}
    wanted = [gene for gene in dict.fromkeys(map(str, wanted)) if gene in where]
    picked = csr_matrix(log_counts)[:, [where[gene] for gene in wanted]]  # (n, wanted)
    picked, names, code = _by_type(picked, wanted, types)
    size = np.bincount(code, minlength=len(names)).astype(float)[:, None]
    mean = _sums(picked, code, len(names)) / size
    detected = _sums(_with_data(picked, picked.data > 0), code, len(names)) / size
    keep = [k for k, name in enumerate(names) if name not in set(skip)]
    return pd.DataFrame(
        {
            "type": [names[k] for k in keep for _ in wanted],
            "gene": wanted * len(keep),
            "mean": mean[keep].ravel(),
            "detected": detected[keep].ravel(),
        }
    )


def _by_type(log_counts: csr_matrix, genes: Sequence[str], types) -> tuple[csr_matrix, list[str], np.ndarray]:
    log_counts = csr_matrix(log_counts)
    types = np.asarray(types, dtype=object)
    if log_counts.shape != (len(types), len(genes)):
        raise ValueError(
            f"marker genes: a matrix of {log_counts.shape[0]:,} cells x {log_counts.shape[1]:,} genes "
            f"was given with {len(types):,} types and {len(genes):,} gene names; they must be of one size"
        )
    code, names = pd.factorize(pd.Series([str(t) for t in types], dtype=object), sort=True)
    return log_counts, list(names), code


def _with_data(matrix: csr_matrix, data: np.ndarray) -> csr_matrix:
    return csr_matrix((data.astype(np.float64), matrix.indices, matrix.indptr), shape=matrix.shape)


def _sums(matrix: csr_matrix, code: np.ndarray, n_types: int) -> np.ndarray:
    """Column sums by type, (L, G), in float64."""
    n = len(code)
    member = csr_matrix((np.ones(n), (code, np.arange(n))), shape=(n_types, n))
    return (member @ matrix).toarray()
