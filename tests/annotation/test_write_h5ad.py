"""New fields in a file of the oldest layout. Run: pytest tests/annotation/test_write_h5ad.py"""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from annotation import write_h5ad

CELLS, GENES = [b"c1", b"c2", b"c3", b"c4"], [b"Actb", b"Cd19", b"Rpl3"]
VALUES = np.arange(12, dtype=np.float32).reshape(4, 3)

pytestmark = pytest.mark.filterwarnings("ignore")  # anndata warns of the old layout, which is what is tested


@pytest.fixture
def old(tmp_path):
    """As anndata 0.6 wrote it: tables of records, codes whose levels lie in uns, h5sparse's words for a matrix."""
    obs = np.zeros(4, dtype=[("index", "S2"), ("kind", "i1"), ("age", "i1"), ("depth", "<f4"), ("plate", "S3")])
    obs["index"], obs["kind"], obs["depth"], obs["plate"] = CELLS, [1, -1, 0, 1], [1.5, 2, 3, 4], b"P1"
    var = np.zeros(3, dtype=[("index", "S4"), ("n_cells", "<i8")])
    var["index"], var["n_cells"] = GENES, [3, 4, 4]
    obsm = np.zeros(4, dtype=[("X_pca", "<f4", (2,)), ("X_umap", "<f8", (2,))])
    obsm["X_pca"] = VALUES[:, :2]
    with h5py.File(tmp_path / "old.h5ad", "w") as file:
        file["X"], file["obs"], file["var"], file["raw.var"], file["obsm"] = VALUES, obs, var, var, obsm
        raw = file.create_group("raw.X")
        raw.attrs["h5sparse_format"], raw.attrs["h5sparse_shape"] = "csr", np.array([4, 3])
        filled = np.nonzero(VALUES)
        raw["data"], raw["indices"], raw["indptr"] = VALUES[filled], filled[1], np.array([0, 2, 5, 8, 11])
        file["uns/kind_categories"], file["uns/age_categories"] = np.array([b"B cell", b"T cell"]), np.array([b"3m"])
        file["uns/title"] = "a title"
    return tmp_path / "old.h5ad"


def add(path):
    with h5py.File(path, "r+") as file:
        write_h5ad.embedding(file, "X_new", (4, 3))[...] = VALUES
        write_h5ad.add_fields(file, {"new": np.arange(4)}, {"X_map": VALUES[:, :2]}, {"ours": {"seed": 0}})
    return anndata.read_h5ad(path)


def test_fields_are_added_to_a_file_of_anndata_0_6_and_the_others_are_kept(old):
    found = add(old)
    assert list(found.obs) == ["kind", "age", "depth", "plate", "new"]
    assert found.obs_names.tolist() == ["c1", "c2", "c3", "c4"]
    assert found.obs["kind"].astype(object).fillna("none").tolist() == ["T cell", "none", "B cell", "T cell"]
    assert found.obs["age"].tolist() == ["3m"] * 4 and found.obs["plate"].tolist() == ["P1"] * 4
    np.testing.assert_array_equal(found.obs["depth"], np.array([1.5, 2, 3, 4], np.float32))
    assert found.var["n_cells"].tolist() == found.raw.var["n_cells"].tolist() == [3, 4, 4]
    np.testing.assert_array_equal(found.X, VALUES)
    np.testing.assert_array_equal(found.raw.X.toarray(), VALUES)
    assert set(found.obsm) == {"X_pca", "X_umap", "X_new", "X_map"} and found.uns["title"] == "a title"
    np.testing.assert_array_equal(found.obsm["X_pca"], VALUES[:, :2])
    np.testing.assert_array_equal(found.obsm["X_new"], VALUES)


def test_anndata_writes_the_turned_file_again(old, tmp_path):
    add(old).write_h5ad(tmp_path / "again.h5ad")
    again = anndata.read_h5ad(tmp_path / "again.h5ad")
    assert isinstance(again.obs["kind"].dtype, pd.CategoricalDtype) and again.obsm["X_map"].shape == (4, 2)


def test_codes_without_a_level_become_no_value_instead_of_an_error(old):
    with h5py.File(old, "r+") as file:
        records = file["obs"][...]
        records["kind"] = [7, 0, 1, -1]
        file["obs"][...] = records
    kinds = add(old).obs["kind"].astype(object)
    assert kinds.fillna("none").tolist() == ["none", "B cell", "T cell", "none"]


def test_a_file_of_today_keeps_its_layout(tmp_path):
    path = tmp_path / "today.h5ad"
    obs = pd.DataFrame({"kind": pd.Categorical(["a", "b", "a", "b"])}, index=["c1", "c2", "c3", "c4"])
    anndata.AnnData(VALUES, obs=obs, obsm={"X_pca": VALUES[:, :2]}, uns={"kind_categories": "mine"}).write_h5ad(path)
    with h5py.File(path) as file:
        before = file["obs/kind/codes"][...]
    with h5py.File(path, "r+") as file:
        write_h5ad.embedding(file, "X_new", (4, 3))
        write_h5ad.add_fields(file, {"new": np.arange(4)}, {}, {})
        assert file["uns/kind_categories"][()] == b"mine" and set(file["obsm"]) == {"X_pca", "X_new"}
        np.testing.assert_array_equal(file["obs/kind/codes"][...], before)
