"""One small file as each program writes it, through the reader that both main.py and annotate.py use.

Writers, beside those that test_field.py lists. h5ad: anndata 0.7 (levels linked from the codes), nullable strings of
pandas, CELLxGENE (ids as index, feature_name as a category, unused types), zellkonverter (no X, a layer stored by
genes), sceasy (types as text). 10x .h5: Cell Ranger 3 on, CellBender (further groups). matrix.mtx: STARsolo (two
columns, not compressed), Cell Ranger, GEO (a prefix before every name). .loom: loompy, scanpy (var_names, obs_names).
"""

import gzip

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import HUMAN, TYPES, draw
from scipy.io import mmwrite

import data_loader as data
from reading.cells import read
from reading.source import open_source
from simulate import write_cellblast

pytestmark = pytest.mark.filterwarnings("ignore")  # of the versions of zarr

COUNTS, KINDS = draw(0)
CELLS = [f"cell{i}" for i in range(COUNTS.shape[0])]
IDS = [f"ENSG{i:011d}" for i in range(1, 13)]
CODES = np.array([TYPES.index(kind) for kind in KINDS])


def write(path, **obs):
    anndata.AnnData(COUNTS, obs=pd.DataFrame(obs, index=CELLS), var=pd.DataFrame(index=HUMAN)).write_h5ad(path)
    return path


def anndata_0_7(path):
    write(path)
    with h5py.File(path, "r+") as file:
        obs = file["obs"]
        obs["__categories/cell_type"] = np.array(TYPES, dtype=object)
        obs["cell_type"] = CODES.astype(np.int8)
        obs["cell_type"].attrs["categories"] = obs["__categories/cell_type"].ref
        obs.attrs["column-order"] = np.array(["cell_type"], dtype=h5py.string_dtype())
    return path


def nullable_strings(path):
    with anndata.settings.override(allow_write_nullable_strings=True):
        return write(path, cell_type=pd.array(list(KINDS), dtype="string"))


def cellxgene(path):
    var = pd.DataFrame({"feature_name": pd.Categorical(HUMAN), "feature_is_filtered": False}, index=IDS)
    obs = pd.DataFrame({"cell_type": pd.Categorical(KINDS, categories=[*TYPES, "unused"])}, index=CELLS)
    anndata.AnnData(COUNTS, obs=obs, var=var).write_h5ad(path)
    return path


def zellkonverter(path):
    obs = pd.DataFrame({"cell_type": np.asarray(KINDS, dtype=object)}, index=CELLS)
    one = anndata.AnnData(None, obs=obs, var=pd.DataFrame(index=HUMAN), layers={"counts": COUNTS.tocsc()})
    one.write_h5ad(path)
    return path


H5AD = [anndata_0_7, nullable_strings, cellxgene, zellkonverter]


@pytest.mark.parametrize("writer", H5AD)
def test_types_and_counts_of_an_h5ad_whoever_wrote_it(tmp_path, writer):
    with open_source(writer(tmp_path / "a.h5ad"), {}) as source:
        assert list(source.labels("cell_type")) == list(KINDS)
        assert source.rows.genes == HUMAN and source.values.kind == "counts"
        np.testing.assert_array_equal(source.take(np.arange(40)).toarray(), COUNTS.toarray())


def mtx(folder, prefix="", features=2, zipped=True):
    folder.mkdir()
    end, opener = (".gz", gzip.open) if zipped else ("", open)
    rows = [[one, name, "Gene Expression"][:features] for one, name in zip(IDS, HUMAN, strict=True)]
    with opener(folder / f"{prefix}matrix.mtx{end}", "wb") as file:
        mmwrite(file, COUNTS.T.astype(int), field="integer")
    for name, lines in (("features.tsv", rows), ("barcodes.tsv", [[cell] for cell in CELLS])):
        with opener(folder / f"{prefix}{name}{end}", "wt") as file:
            file.writelines("\t".join(line) + "\n" for line in lines)
    return folder


def cell_ranger_3(path):
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["data"], group["indices"], group["indptr"] = COUNTS.data.astype(int), COUNTS.indices, COUNTS.indptr
        group["shape"], group["barcodes"] = COUNTS.shape[::-1], np.array(CELLS, dtype="S")
        features = {"id": IDS, "name": HUMAN, "feature_type": ["Gene Expression"] * 12, "genome": ["GRCh38"] * 12}
        for key, values in features.items():
            group[f"features/{key}"] = np.array(values, dtype="S")
    return path


def cellbender(path):
    cell_ranger_3(path)
    with h5py.File(path, "r+") as file:
        file["droplet_latents/cell_probability"] = np.ones(40)
        file["metadata/learning_curve_train_elbo"] = np.ones(3)
    return path


def loom(path, gene="Gene", cell="CellID"):
    with h5py.File(path, "w") as file:
        file["matrix"] = COUNTS.T.toarray()
        file[f"row_attrs/{gene}"], file[f"col_attrs/{cell}"] = np.array(HUMAN, dtype="S"), np.array(CELLS, dtype="S")
        file["col_attrs/cell_type"] = np.array(KINDS, dtype="S")
        file["col_attrs/X_pca"] = np.zeros((40, 2))
    return path


def table(path):
    pd.DataFrame(COUNTS.T.toarray().astype(int), index=HUMAN, columns=CELLS).to_csv(path, sep="\t")
    return path


def h5mu(path):
    one = anndata.AnnData(COUNTS, obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=HUMAN))
    with h5py.File(path, "w") as file:
        anndata.io.write_elem(file, "mod/rna", one)
        anndata.io.write_elem(file, "obs", one.obs)
    return path


def zarr(path):
    anndata.AnnData(COUNTS, obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=HUMAN)).write_zarr(path)
    return path


def cellblast(path):
    write_cellblast(path, COUNTS, HUMAN, CELLS, {"cell_ontology_class": KINDS})
    return path


FILES = {
    "MuData": lambda at: h5mu(at / "a.h5mu"),
    "spatialdata's zarr": lambda at: zarr(at / "a.zarr"),
    "Cell BLAST": lambda at: cellblast(at / "a.h5"),
    "STARsolo": lambda at: mtx(at / "a", features=2, zipped=False),
    "Cell Ranger's folder": lambda at: mtx(at / "a", features=3),
    "GEO's bare matrices": lambda at: mtx(at / "a", prefix="GSM123_sample1_"),
    "Cell Ranger 3": lambda at: cell_ranger_3(at / "a.h5"),
    "CellBender": lambda at: cellbender(at / "a.h5"),
    "loompy": lambda at: loom(at / "a.loom"),
    "scanpy's loom": lambda at: loom(at / "a.loom", "var_names", "obs_names"),
    "a table": lambda at: table(at / "a.tsv"),
    "h5ad": lambda at: write(at / "a.h5ad", cell_type=list(KINDS)),
}


@pytest.mark.parametrize("writer", sorted(FILES))
def test_each_file_gives_both_doors_the_same_cells(tmp_path, writer):
    path = FILES[writer](tmp_path)
    cells = read(path)
    assert cells.genes == HUMAN and cells.cells == CELLS
    np.testing.assert_array_equal(cells.counts.toarray(), COUNTS.toarray())
    with open_source(path, {}) as source:  # annotate.py
        np.testing.assert_array_equal(source.take(np.arange(40)).toarray(), COUNTS.toarray())
        assert source.species == "human" and sorted(source.genes) == sorted(HUMAN)
    [entry] = data.own_entries(None, path, None)  # main.py --ann_input
    [named] = data.gene_names([entry], {})
    assert named.entry.species == "human" and named.genes == HUMAN
    np.testing.assert_array_equal(data.load(entry).counts.toarray(), COUNTS.toarray())
