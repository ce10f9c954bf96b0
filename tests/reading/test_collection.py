"""Batches from zarr stores by annbatch: run with `python -m pytest tests/reading/test_collection.py` (Python 3.12)."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix, vstack

from reading.matrix import Unreadable

pytest.importorskip("annbatch", reason="annbatch is optional and needs Python 3.12")
anndata = pytest.importorskip("anndata")
pd = pytest.importorskip("pandas")

from reading import collection  # noqa: E402


def store(folder, name, cells, genes=12, seed=0, kind=csr_matrix):
    rng = np.random.default_rng(seed)
    values = csr_matrix(rng.poisson(0.6, (cells, genes)).astype(np.float32))
    var = pd.DataFrame(index=[f"Gene{g}" for g in range(genes)])
    anndata.AnnData(kind(values), var=var).write_zarr(folder / name)
    return folder / name, values


@pytest.fixture
def stores(tmp_path):
    return [store(tmp_path, f"{i}.zarr", cells, seed=i) for i, cells in enumerate((40, 25))]


def test_cells_come_in_the_order_asked_for_across_stores(stores, monkeypatch):
    monkeypatch.setattr(collection, "PRELOADED", 20)
    whole = vstack([values for _, values in stores], format="csr")
    order = np.random.default_rng(3).permutation(65)
    found = list(collection.Collection([path for path, _ in stores]).in_order(order, 8))
    assert [batch.shape[0] for batch in found] == [8] * 8 + [1]
    np.testing.assert_array_equal(vstack(found).toarray(), whole[order].toarray())


def test_shuffled_batches_hold_every_cell_once_and_say_which(stores):
    cells = collection.Collection([path for path, _ in stores])
    whole = vstack([values for _, values in stores], format="csr").toarray()
    assert cells.shape == whole.shape and len(cells) == 65
    batches = list(cells.shuffled(16, seed=1))
    rows = np.concatenate([index for _, index in batches])
    assert sorted(rows) == list(range(65)) and list(rows) != sorted(rows)
    for values, index in batches:
        np.testing.assert_array_equal(values.toarray(), whole[index])


def test_a_store_without_the_matrix_with_other_genes_or_by_genes_is_refused_by_name(tmp_path, stores):
    first, _ = stores[0]
    with pytest.raises(Unreadable, match="0.zarr: no CSR matrix at layers/counts"):
        collection.Collection([first], "layers/counts")
    other, _ = store(tmp_path, "other.zarr", 5, genes=11)
    with pytest.raises(Unreadable, match="other.zarr: its genes are not those of .*0.zarr"):
        collection.Collection([first, other])
    from scipy.sparse import csc_matrix

    by_genes, _ = store(tmp_path, "csc.zarr", 5, kind=csc_matrix)
    with pytest.raises(Unreadable, match="csc.zarr: X is stored by genes"):
        collection.Collection([by_genes])
