"""Cells in CSR on a device; they become dense for the rows of a batch, here and nowhere else."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class Share:
    """What one of several processes holds of a batch of all tasks: `places` (B',) of its rows in the batch.

    `sizes` are the rows of each task in the whole batch.
    """

    sizes: Sequence[int]
    places: torch.Tensor


def part(matrix: csr_matrix, rows: slice) -> csr_matrix:
    """Some rows of a matrix (N, G) that follow each other; the values stay where they are, mapped ones on disk."""
    first, last, _ = rows.indices(matrix.shape[0])
    if (first, last) == (0, matrix.shape[0]):
        return matrix
    begin, end = matrix.indptr[first], matrix.indptr[last]
    found = csr_matrix((last - first, matrix.shape[1]), dtype=matrix.dtype)
    found.data, found.indices = matrix.data[begin:end], matrix.indices[begin:end]
    found.indptr = matrix.indptr[first : last + 1] - begin
    return found


class SparseRows:
    """A csr matrix (N, G) whose three arrays went to `device` once; `rows[index]` is a dense (B, G) tensor there.

    On the CPU the arrays are the matrix's own, memory-mapped ones too: nothing is copied. With `log1p=True` the
    batches hold log(1 + value), which keeps zeros zero.
    """

    def __init__(self, counts: csr_matrix, device: torch.device | str = "cpu", *, log1p: bool = False):
        self.shape = counts.shape
        self.device = torch.device(device)
        self.log1p = log1p
        self.lengths = np.diff(counts.indptr)  # (N,) stored values of each row, on the host
        # scipy gathers rows in a third of torch's time; of two kinds of indices it would first make one, of all cells
        alike = counts.dtype == np.float32 and counts.indptr.dtype == counts.indices.dtype
        self._here = counts if alike and self.device.type == "cpu" else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # we only ever read
            self._start = torch.from_numpy(counts.indptr.astype(np.int64)).to(self.device)
            self._columns = torch.from_numpy(np.asarray(counts.indices)).to(self.device)
            self._values = torch.from_numpy(np.asarray(counts.data)).to(self.device)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: torch.Tensor | slice) -> torch.Tensor:
        entries = None
        if isinstance(rows, slice):
            entries = int(self.lengths[rows].sum())
            rows = torch.arange(*rows.indices(len(self)), device=self.device)
        return self.fill(rows, torch.empty(len(rows), self.shape[1], device=self.device), entries)

    def fill(self, rows: torch.Tensor, out: torch.Tensor, entries: int | None = None) -> torch.Tensor:
        """Write the cells `rows` (B,) into `out` (B, G), a slice of a larger batch for instance.

        `entries` is the number of their stored values; told that, the host need not wait for a GPU to count them.
        """
        if self._here is not None:
            taken = self._here[rows.numpy()]
            if self.log1p:
                torch.from_numpy(taken.data).log1p_()
            taken.toarray(out=out.numpy())
            return out
        out.zero_()
        rows = rows.to(self.device)
        start = self._start[rows]
        length = self._start[rows + 1] - start
        count = int(length.sum()) if entries is None else entries
        first = torch.cumsum(length, 0) - length  # where each row's entries begin in this batch
        entry = torch.arange(count, device=self.device)
        entry += torch.repeat_interleave(start - first, length, output_size=count)
        row = torch.arange(len(rows), device=self.device) * self.shape[1]
        place = torch.repeat_interleave(row, length, output_size=count)
        place += self._columns[entry]
        values = self._values[entry]
        out.view(-1)[place] = torch.log1p(values) if self.log1p else values
        return out
