"""A cells x genes matrix inside an open HDF5 file, read whole or by rows as a checked csr_matrix."""

from __future__ import annotations

from collections.abc import Iterator

import h5py
import numpy as np
from scipy.sparse import csc_matrix, csr_matrix

BLOCK_BYTES = 32 << 20  # dense rows in memory at once; larger blocks are no faster
PIECE = 4 << 20  # entries converted at once, so that no second copy of a whole column of numbers exists


class Unreadable(ValueError):
    """A file that cannot be used as a dataset; the sentence names the dataset, the file and the remedy."""


class Matrix:
    """One matrix in an HDF5 file: CSR or CSC group or dense dataset; transposed if it is genes x cells there.

    node: group with data, indices, indptr (and shape, as a dataset or an attribute) or a 2-D dataset. where:
    "NAME (PATH)", begins every error. shape (N, G): used where the file does not state one. layout 'csr' and
    'dense' can be read by rows; 'csc' only whole, because its rows are scattered over the file.
    """

    def __init__(self, node, where: str, *, transposed: bool = False, shape: tuple[int, int] | None = None):
        self.node, self.where, self.transposed = node, where, transposed
        self.what = node.name.lstrip("/")
        if isinstance(node, h5py.Dataset):
            if node.ndim != 2:
                raise Unreadable(f"{where}: {self.what} has {node.ndim} dimensions instead of 2; {REWRITE}")
            _numbers(node, where)
            self.layout = "dense"
            self.shape = tuple(int(n) for n in (node.shape[::-1] if transposed else node.shape))
            self.indptr = None
            return
        for part in ("data", "indices", "indptr"):
            if part not in node:
                raise Unreadable(f"{where}: {self.what} holds no {part!r}, so it is not a sparse matrix; {REWRITE}")
        _numbers(node["data"], where)
        stated = _stated_shape(node)
        if stated is None and shape is None:
            raise Unreadable(f"{where}: {self.what} does not say its shape; {REWRITE}")
        rows_stored = _is_csr(node) != transposed  # CSC of genes x cells is CSR of cells x genes
        if stated is not None and transposed:
            stated = stated[::-1]
        self.layout = "csr" if rows_stored else "csc"
        self.shape = stated or shape
        self.indptr = self._checked_indptr()

    @property
    def entries(self) -> int:
        """Stored entries of a sparse layout, all entries of a dense one."""
        return self.shape[0] * self.shape[1] if self.indptr is None else int(self.indptr[-1])

    def _checked_indptr(self) -> np.ndarray:
        node, what = self.node, self.what
        major = self.shape[0] if self.layout == "csr" else self.shape[1]
        indptr = node["indptr"][...].astype(np.int64, copy=False)
        stored, indices = node["data"].shape[0], node["indices"].shape[0]
        if len(indptr) != major + 1:
            raise Unreadable(
                f"{self.where}: {what}/indptr has {len(indptr):,} entries, a matrix of {self.shape[0]:,} "
                "cells x "
                f"{self.shape[1]:,} genes needs {major + 1:,}; {REWRITE}"
            )
        if stored != indices:
            raise Unreadable(f"{self.where}: {what} has {stored:,} values but {indices:,} indices; {REWRITE}")
        if indptr[0] != 0 or indptr[-1] != stored or (np.diff(indptr) < 0).any():
            raise Unreadable(
                f"{self.where}: {what}/indptr does not fit the {stored:,} values (it must rise from 0 to "
                "that number; "
                f"it goes from {indptr[0]:,} to {indptr[-1]:,}); {REWRITE}"
            )
        return indptr

    def rows(self, start: int, stop: int) -> csr_matrix:  # (stop - start, G)
        """Rows start..stop as a canonical csr_matrix (sorted, float32); NaN and inf are refused."""
        if self.layout == "csc":
            raise Unreadable(f"{self.where}: {self.what} is stored by genes (CSC) and cannot be read by rows; {AS_CSR}")
        if self.layout == "dense":
            step = self.dense_step()
            if stop - start > step:
                return stack((self.rows(a, min(a + step, stop)) for a in range(start, stop, step)), self.shape[1])
            block = self.node[:, start:stop].T if self.transposed else self.node[start:stop]  # (stop - start, G)
            return self._canonical(sparse(block))
        first, last = int(self.indptr[start]), int(self.indptr[stop])
        indptr = self.indptr[start : stop + 1] - first
        return self._canonical(self._sparse(first, last, indptr, csr_matrix, (stop - start, self.shape[1])))

    def whole(self) -> csr_matrix:  # (N, G)
        """The whole matrix as a canonical csr_matrix."""
        if self.layout == "csc":
            matrix = self._sparse(0, self.entries, self.indptr, csc_matrix, self.shape)
            return self._canonical(matrix.tocsr())
        return self.rows(0, self.shape[0])

    def dense_step(self) -> int:
        """Rows of a dense matrix that fill one block, in whole HDF5 chunks: none is decompressed twice."""
        step = max(1, BLOCK_BYTES // (4 * max(1, self.shape[1])))
        if self.node.chunks:
            chunk = self.node.chunks[1 if self.transposed else 0]
            step = max(1, step // chunk) * chunk
        return step

    def _sparse(self, first: int, last: int, indptr: np.ndarray, kind, shape):
        minor = shape[1] if kind is csr_matrix else shape[0]
        data = _slice(self.node["data"], first, last, np.float32)
        wide = max(minor, last - first) > np.iinfo(np.int32).max
        indices = _slice(self.node["indices"], first, last, np.int64 if wide else np.int32)
        if len(indices) and (indices.min() < 0 or indices.max() >= minor):
            raise Unreadable(
                f"{self.where}: {self.what}/indices run from {indices.min():,} to {indices.max():,}, but "
                "there are "
                f"{minor:,} {'genes' if kind is csr_matrix else 'cells'}; {REWRITE}"
            )
        return kind((data, indices, indptr.astype(indices.dtype, copy=False)), shape=shape, copy=False)

    def _canonical(self, counts: csr_matrix) -> csr_matrix:
        return canonical(counts, self.where, self.what)


REWRITE = "the file is damaged or was written by something else: fetch or write it again"
AS_CSR = "write it by cells: adata.X = adata.X.tocsr(); adata.write_h5ad('by_cells.h5ad')"


def canonical(counts: csr_matrix, where: str, what: str) -> csr_matrix:
    """counts in place: sorted, duplicates summed, stored zeros dropped if needed; NaN and inf refused."""
    if counts.nnz:
        total = float(counts.data.min()) + float(counts.data.max())  # NaN and inf both survive this sum
        if not np.isfinite(total):
            bad = int(np.count_nonzero(~np.isfinite(counts.data)))
            raise Unreadable(
                f"{where}: {what} holds {bad:,} values that are NaN or infinite; supply the matrix before "
                "the step that "
                "made them (the counts), or set them to 0 if they mean 'not seen'"
            )
    if not counts.has_canonical_format:
        counts.sum_duplicates()
    if np.count_nonzero(counts.data) != counts.nnz:
        counts.eliminate_zeros()
    return counts


def sparse(block: np.ndarray) -> csr_matrix:  # (N, G)
    """A dense (N, G) block as csr float32; several times faster than scipy, which goes through coo."""
    block = np.ascontiguousarray(block, dtype=np.float32)
    filled = block != 0
    lengths = np.count_nonzero(filled, axis=1)
    places = np.flatnonzero(filled)  # (nnz,) in row-major order
    indptr = np.concatenate(([0], lengths.cumsum())).astype(np.int32)
    columns = (places - np.repeat(np.arange(len(block)) * block.shape[1], lengths)).astype(np.int32)
    return csr_matrix((block.ravel()[places], columns, indptr), shape=block.shape, copy=False)


def refuse_negative(counts: csr_matrix, where: str, what: str, remedy: str = "") -> None:
    """Raise Unreadable where counts (N, G) holds a negative value."""
    if counts.nnz and counts.data.min() < 0:
        raise Unreadable(
            f"{where}: {what} holds negative values (smallest {counts.data.min():.3g}), so it is scaled or "
            f"centred and the counts cannot be had from it; "
            f"{remedy or 'supply the counts or the log-normalised values instead'}"
        )


def stack(blocks: Iterator[csr_matrix], n_genes: int) -> csr_matrix:  # (sum of rows, G)
    """Row blocks on top of each other; at most one and a half times the result is in memory."""
    data, indices, lengths = [], [], [np.zeros(1, np.int64)]
    for block in blocks:
        data.append(block.data)
        indices.append(block.indices)
        lengths.append(np.diff(block.indptr))
    indptr = np.concatenate(lengths).cumsum()
    joined = np.concatenate(data) if data else np.zeros(0, np.float32)
    data.clear()
    columns = np.concatenate(indices) if indices else np.zeros(0, np.int32)
    if indptr[-1] <= np.iinfo(np.int32).max:
        indptr = indptr.astype(np.int32)
    counts = csr_matrix((joined, columns, indptr), shape=(len(indptr) - 1, n_genes), copy=False)
    counts.has_canonical_format = True
    return counts


def _slice(dataset: h5py.Dataset, first: int, last: int, dtype) -> np.ndarray:  # (last - first,)
    out = np.empty(last - first, dtype)
    if dataset.dtype == out.dtype:
        if len(out):
            dataset.read_direct(out, np.s_[first:last])
        return out
    chunk = dataset.chunks[0] if dataset.chunks else 1
    piece = max(1, PIECE // chunk) * chunk
    at = first
    while at < last:  # numpy converts several times faster than HDF5 does
        to = min(last, (at // piece + 1) * piece)
        out[at - first : to - first] = dataset[at:to]
        at = to
    return out


def _numbers(dataset: h5py.Dataset, where: str) -> None:
    if dataset.dtype.kind not in "iufb":
        raise Unreadable(f"{where}: {dataset.name.lstrip('/')} holds {dataset.dtype}, not numbers; {REWRITE}")


def _stated_shape(node) -> tuple[int, int] | None:
    stated = node["shape"][...] if "shape" in node else node.attrs.get("shape", node.attrs.get("h5sparse_shape"))
    if stated is None or len(stated) != 2:
        return None
    return int(stated[0]), int(stated[1])


def _is_csr(node) -> bool:
    """Whether the group is stored by its rows; Cell BLAST says nothing and means yes, 10x means no."""
    word = node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", ""))
    word = word.decode() if isinstance(word, bytes) else str(word)
    if not word and "barcodes" in node:
        return False
    return not word.startswith("csc")
