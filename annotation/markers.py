"""The genes that set each type apart, and how every type expresses given genes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import csc_matrix, csr_matrix

from annotation.report.annotation import NUMBERS

TOP = 10  # genes listed of each type
LEAST_CELLS = 3  # inside and outside a type, to speak of its genes
LEAST_INSIDE, MOST_OUTSIDE = 0.2, 0.3  # shares of the cells inside and outside a type that express a specific gene
LEAST_FOLD = 1.0  # log2: twice as much
SURE = 2.0  # standard deviations above chance; ties make the true ones smaller
AT_ONCE = 5_000_000  # entries that are sorted at once: 200 MB


def marker_genes(
    log_counts: csr_matrix,
    genes: Sequence[str],
    types: Sequence[str] | np.ndarray,
    top: int = TOP,
    *,
    skip: Iterable[str] = ("",),
) -> pd.DataFrame:
    """The genes that set each type apart from all other cells, specific ones only.

    log_counts : csr (n, G), natural log1p of counts per 10,000; types : (n,) names.
    Returns a row per type and gene, best first: type, gene, mean_in, mean_out (of log_counts), detected_in,
    detected_out (shares of cells with the gene), log2_fold_change, score.

    The score is Wilcoxon's rank sum (1945) in standard deviations. Listed are genes that a fifth of the
    type's cells express, at most 30 % of the others, and twice as much; a type may have none. The fold change is
    that of the means of counts per 10,000. Types in `skip` or of under 3 cells are left out.
    """
    log_counts, names, code = _by_type(log_counts, genes, types)
    size = np.bincount(code, minlength=len(names))[:, None]  # (L, 1)
    others = len(code) - size
    wanted = [
        k for k, name in enumerate(names) if name not in set(skip) and min(size[k, 0], others[k, 0]) >= LEAST_CELLS
    ]
    inside, outside = np.maximum(size, 1), np.maximum(others, 1)
    number = _sums(_with_data(log_counts, log_counts.data > 0), code, len(names))  # (L, G) cells
    detected, beyond = number / inside, (number.sum(axis=0) - number) / outside
    linear = _sums(_with_data(log_counts, np.expm1(log_counts.data)), code, len(names))
    fold = np.log2((linear / inside + 0.01) / ((linear.sum(axis=0) - linear) / outside + 0.01))
    fit = (detected >= LEAST_INSIDE) & (beyond <= MOST_OUTSIDE) & (fold >= LEAST_FOLD)
    columns = np.flatnonzero(fit[wanted].any(axis=0)) if wanted else np.zeros(0, int)
    fit, detected, beyond, fold = (values[:, columns] for values in (fit, detected, beyond, fold))  # (L, C)
    score, total = (made(log_counts[:, columns], code, len(names)) for made in (rank_sums, _sums))  # (L, C)
    mean_in, mean_out = total / inside, (total.sum(axis=0) - total) / outside

    rows = []
    for k in wanted:
        mine = np.flatnonzero(fit[k] & (score[k] >= SURE))
        for i in mine[np.argsort(-score[k, mine], kind="stable")][:top]:
            numbers = (values[k, i] for values in (mean_in, mean_out, detected, beyond, fold, score))
            rows.append((names[k], str(genes[columns[i]]), *numbers))
    return pd.DataFrame(rows, columns=["type", "gene", *NUMBERS])


def rank_sums(x: csr_matrix, code: np.ndarray, n_types: int) -> np.ndarray:
    """How far the rank sum of each type is above chance, in standard deviations, for every gene: (L, G).

    x : csr (n, G), nothing below 0; code : (n,) types. Zeros are one tie that is never written out. As by scanpy's
    default, the deviation is that without ties: else a gene of few cells goes before one that all of the type express.
    """
    x = csc_matrix(x)
    x.eliminate_zeros()
    n_genes, size = x.shape[1], np.bincount(code, minlength=n_types).astype(float)[:, None]  # (L, 1)
    found = np.zeros((n_types, n_genes))
    first = 0
    while first < n_genes:
        last = max(first + 1, int(np.searchsorted(x.indptr, x.indptr[first] + AT_ONCE, side="right")) - 1)
        found[:, first:last] = _rank_sums(x[:, first:last], code, size)
        first = last
    return found


def _rank_sums(x: csc_matrix, code: np.ndarray, size: np.ndarray) -> np.ndarray:
    """`rank_sums` of a block of genes (n, B), sorted in one go."""
    n, n_genes = x.shape
    gene = np.repeat(np.arange(n_genes), np.diff(x.indptr))
    order = np.lexsort((x.data, gene))
    gene, value, kind = gene[order], x.data[order], code[x.indices[order]]
    zeros = n - np.diff(x.indptr).astype(float)  # (B,)
    new = np.ones(len(value), dtype=bool)  # the first entry of a tie
    new[1:] = (gene[1:] != gene[:-1]) | (value[1:] != value[:-1])
    starts = np.flatnonzero(new)
    length = np.diff(np.append(starts, len(value))).astype(float)
    before = starts - x.indptr[gene[starts]]  # smaller entries of the gene, zeros aside
    rank = np.repeat(zeros[gene[starts]] + before + (length + 1) / 2, length.astype(int))  # (entries,)
    cell = kind * n_genes + gene
    sums = np.bincount(cell, weights=rank, minlength=len(size) * n_genes).reshape(len(size), n_genes)
    number = np.bincount(cell, minlength=len(size) * n_genes).reshape(len(size), n_genes)
    sums += (size - number) * (zeros + 1) / 2
    variance = size * (n - size) * (n + 1) / 12  # (L, 1)
    return (sums - size * (n + 1) / 2) / np.sqrt(np.maximum(variance, 1e-12))


def informative(log_counts: csr_matrix, genes: Sequence[str], markers: Sequence[str], most: int) -> np.ndarray:
    """Columns of the most telling genes, those first: the markers, then what varies more than genes as abundant."""
    place = {str(gene): g for g, gene in reversed(list(enumerate(genes)))}
    listed = [place[gene] for gene in dict.fromkeys(markers) if gene in place]
    mean = np.asarray(log_counts.mean(axis=0), dtype=np.float64).ravel()
    square = np.asarray(_with_data(log_counts, log_counts.data.astype(np.float64) ** 2).mean(axis=0)).ravel()
    cells = np.bincount(log_counts.indices[log_counts.data > 0], minlength=len(genes))
    excess = np.full(len(genes), -np.inf)
    seen = np.flatnonzero(cells >= LEAST_CELLS)
    bins = max(1, min(20, len(seen) // 20))
    for rows in np.array_split(seen[np.argsort(mean[seen], kind="stable")], bins):  # genes that are equally abundant
        variance = square[rows] - mean[rows] ** 2
        excess[rows] = variance - (np.median(variance) if len(rows) else 0)
    others = np.argsort(-excess, kind="stable")[: len(seen)]
    return np.array(list(dict.fromkeys([*listed, *others.tolist()]))[:most], dtype=int)


def marker_dots(
    log_counts: csr_matrix,
    genes: Sequence[str],
    types: Sequence[str] | np.ndarray,
    wanted: Sequence[str],
    *,
    skip: Iterable[str] = ("",),
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
