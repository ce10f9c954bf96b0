"""Sparse rows against toarray: run with `python -m pytest tests/stages/test_batch.py`."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix, random

from stages.batch import SparseRows


@pytest.fixture
def counts():
    values = random(40, 12, density=0.3, format="csr", dtype=np.float32, random_state=0)
    values.data = np.ceil(values.data * 9)
    return csr_matrix(values.multiply(np.arange(40)[:, None] % 7 > 0))  # rows 0, 7, ... are empty


@pytest.mark.parametrize("log1p", [False, True])
def test_rows_are_those_of_the_dense_matrix(counts, log1p):
    dense = np.log1p(counts.toarray()) if log1p else counts.toarray()
    rows = SparseRows(counts, log1p=log1p)
    for index in ([3, 0, 39, 3], [7], list(range(40)), []):
        taken = rows[torch.tensor(index, dtype=torch.int64)]
        assert taken.shape == (len(index), 12) and taken.dtype == torch.float32
        np.testing.assert_allclose(taken.numpy(), dense[index], rtol=1e-6)


def test_slices_are_those_of_the_dense_matrix(counts):
    rows = SparseRows(counts)
    assert len(rows) == 40 and rows.shape == (40, 12)
    for part in (slice(0, 7), slice(35, 99), slice(None), slice(5, 5), slice(0, 40, 9)):
        np.testing.assert_array_equal(rows[part].numpy(), counts.toarray()[part])


def test_filling_a_part_of_a_batch_overwrites_it_and_nothing_else(counts):
    batch = torch.full((9, 12), 5.0)
    first, second, third = batch.split([2, 4, 3])
    SparseRows(counts).fill(torch.tensor([1, 7, 2, 39]), second)
    np.testing.assert_array_equal(second.numpy(), counts.toarray()[[1, 7, 2, 39]])
    assert (first == 5).all() and (third == 5).all()


def test_a_memory_mapped_matrix_is_read_where_it_lies(counts, tmp_path):
    mapped = csr_matrix(counts.shape, dtype=np.float32)
    for part in ("data", "indices", "indptr"):
        np.save(tmp_path / f"{part}.npy", getattr(counts, part))
        setattr(mapped, part, np.load(tmp_path / f"{part}.npy", mmap_mode="r"))
    np.testing.assert_array_equal(SparseRows(mapped)[:].numpy(), counts.toarray())


def test_a_matrix_without_entries_gives_zeros():
    assert SparseRows(csr_matrix((5, 3), dtype=np.float32))[:].eq(0).all()
