"""Every format in, the same cells out; every broken file a sentence. Run: pytest tests/reading/test_cells.py"""

import gzip
import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.io import mmwrite
from scipy.sparse import csc_matrix, csr_matrix, random

from reading.cells import format_of, matrices, open_rows, read
from reading.names import as_labels, ensembl_ids, gene_symbols, kind_of_names, species_from_case

GENES = [
    "ACTB",
    "GAPDH",
    "CD3E",
    "CD19",
    "MS4A1",
    "RPL3",
    "RPS6",
    "MT-CO1",
    "IL7R",
    "KRT18",
    "SLC2A1",
    "ZNF10",
]
IDS = [f"ENSG{i:011d}" for i in range(12)]
BARCODES = [
    "".join("ACGT"[(i // 4**k) % 4] for k in range(12)) + "-1" for i in range(0, 40 * 97, 97)
]  # forty of them, all different
TYPES = np.array(["T cell", "B cell", "", "Zelle-ä"] * 10, dtype=object)


@pytest.fixture
def counts():
    values = random(40, 12, density=0.4, format="csr", random_state=0)
    values.data = np.ceil(values.data * 9)
    return values.astype(np.float32)


def same(cells, counts, genes=GENES, names=BARCODES):
    np.testing.assert_array_equal(cells.counts.toarray(), counts.toarray())
    assert cells.counts.dtype == np.float32 and cells.counts.indices.dtype == np.int32
    assert cells.counts.has_canonical_format and isinstance(cells.counts, csr_matrix)
    assert cells.genes == list(genes) and cells.cells == list(names)


def write_cellblast(path, counts, genes=GENES, cells=BARCODES, obs=None, dense=False, **parts):
    with h5py.File(path, "w") as file:
        if dense:
            file["exprs"] = counts.toarray()
        else:
            stored = {
                "data": counts.data,
                "indices": counts.indices,
                "indptr": counts.indptr,
                "shape": counts.shape,
            }
            for key, value in (stored | parts).items():
                if value is not None:
                    file[f"exprs/{key}"] = value
        file["var_names"] = np.array(genes, dtype="S")
        file["obs_names"] = np.array(cells, dtype="S")
        for key, value in ({} if obs is None else obs).items():
            file[f"obs/{key}"] = value
    return path


def write_h5ad(path, X, obs=None, var=None, raw=None, **more):
    obs = pd.DataFrame(obs or {}, index=BARCODES[: X.shape[0]])
    adata = anndata.AnnData(X=X, obs=obs, var=pd.DataFrame(var or {}, index=GENES[: X.shape[1]]), **more)
    if raw is not None:
        adata.raw = raw
    adata.write_h5ad(path)
    return path


# -- Cell BLAST


@pytest.mark.parametrize("dense", [False, True])
def test_a_cell_blast_file_gives_counts_genes_cells_and_labels(tmp_path, counts, dense):
    obs = {"cell_ontology_class": [t.encode() for t in TYPES], "organ": np.array(["x"] * 40, dtype="S")}
    cells = read(write_cellblast(tmp_path / "Baron.h5", counts, obs=obs, dense=dense))
    same(cells, counts)
    assert cells.name == "Baron" and cells.labels.tolist() == TYPES.tolist()
    assert cells.columns == ["cell_ontology_class", "organ"]


def test_no_label_column_is_none_and_another_one_can_be_named(tmp_path, counts):
    path = write_cellblast(tmp_path / "a.h5", counts, obs={"cluster": np.arange(40)})
    assert read(path).labels is None and read(path, label_key="nothing").labels is None
    assert read(path, label_key="cluster").labels[:3].tolist() == ["0", "1", "2"]


def test_every_spelling_of_no_label_is_empty():
    missing = ["T", "", None, np.nan, "nan", "NA", "None", b"B", 3.0, pd.NA, " T "]
    assert as_labels(np.array(missing, dtype=object)).tolist() == [*("T", "", "", "", "", "", "", "B", "3", "", "T")]


def test_unsorted_indices_duplicates_and_stored_zeros_are_put_right(tmp_path):
    path = write_cellblast(
        tmp_path / "a.h5",
        csr_matrix((2, 12)),
        cells=["c1", "c2"],
        data=np.array([1, 2, 3, 0], dtype=np.int64),
        indices=np.array([5, 1, 5, 0], dtype=np.int64),
        indptr=np.array([0, 3, 4]),
    )
    cells = read(path)
    assert cells.counts.has_canonical_format and cells.counts.nnz == 2
    assert cells.counts[0, 5] == 4 and cells.counts[0, 1] == 2


BROKEN = {
    "indptr that is too short": ({"indptr": np.arange(5)}, "indptr has 5 entries.*needs 41"),
    "indptr that falls": ({"indptr": np.r_[0, np.full(39, 9), 3]}, "indptr does not fit"),
    "indices beyond the genes": ({"indices": "beyond"}, "indices run from .* 12 genes"),
    "indices below zero": ({"indices": "below"}, "indices run from -1"),
    "fewer indices than values": ({"indices": np.zeros(3, int)}, "values but 3 indices"),
    "a missing part": ({"indices": None}, "no 'indices'"),
    "NaN": ({"data": "nan"}, "NaN or infinite"),
    "infinite values": ({"data": "inf"}, "NaN or infinite"),
    "negative values": ({"data": "minus"}, "negative values"),
    "words for numbers": ({"data": np.array([b"a"] * 5)}, "not numbers"),
    "another number of genes": ({"shape": (40, 13)}, "12 gene names .* 13 genes"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_matrix_is_refused_with_dataset_file_and_remedy(tmp_path, counts, what):
    parts, message = BROKEN[what]
    spoil = {"beyond": 12, "below": -1, "nan": np.nan, "inf": np.inf, "minus": -2}
    for key, value in parts.items():
        if isinstance(value, str):
            array = getattr(counts, key).copy()
            array[3] = spoil[value]
            parts = {key: array}
    path = write_cellblast(tmp_path / "Bad.h5", counts, **parts)
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"Bad ({path})") and ";" in str(caught.value)
    if what == "negative values":  # by rows they are let through: the detector says what they are
        with open_rows(path) as rows:
            assert rows.sample().data.min() == -2
        return
    with pytest.raises(ValueError, match=message), open_rows(path) as rows:
        list(rows.blocks(7))


def test_lengths_of_names_must_fit(tmp_path, counts):
    with pytest.raises(ValueError, match="39 cell names .* 40 cells"):
        read(write_cellblast(tmp_path / "a.h5", counts, cells=BARCODES[:39]))
    with pytest.raises(ValueError, match="11 gene names"):
        read(write_cellblast(tmp_path / "b.h5", counts, genes=GENES[:11]))
    with pytest.raises(ValueError, match="column 'cell_type' has 39 values for 40 cells"):
        read(write_cellblast(tmp_path / "c.h5", counts, obs={"cell_type": np.zeros(39)}))


def test_no_cells_and_no_genes_are_refused(tmp_path):
    empty = csr_matrix((0, 12), dtype=np.float32)
    with pytest.raises(ValueError, match="0 cells x 12 genes"):
        read(write_cellblast(tmp_path / "a.h5", empty, cells=np.zeros(0, "S1")))
    with pytest.raises(ValueError, match="40 cells x 0 genes"):
        read(write_cellblast(tmp_path / "b.h5", csr_matrix((40, 0)), genes=np.zeros(0, "S1"), dense=True))


def test_files_that_are_no_hdf5_say_what_they_seem_to_be(tmp_path, counts):
    good = write_cellblast(tmp_path / "good.h5", counts).read_bytes()
    for name, content, words in (
        ("text.h5", b"hello" * 99, "not an HDF5 file"),
        ("empty.h5", b"", "it is empty"),
        ("page.h5ad", b"<!DOCTYPE html><html>404", "web page"),
        ("packed.h5", gzip.compress(good), "gunzip"),
        ("cut.h5", good[: len(good) // 2], "truncated"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=words):
            read(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="nowhere.h5.*check the spelling"):
        read(tmp_path / "nowhere.h5")


def test_missing_exprs_says_what_the_file_holds(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["expression"] = [1]
    with pytest.raises(ValueError, match="no 'exprs'.*holds expression"):
        read(tmp_path / "a.h5")


def test_a_damaged_chunk_is_a_sentence(tmp_path, counts):
    path = tmp_path / "a.h5"
    write_cellblast(path, counts)
    with h5py.File(path, "a") as file:
        data = file["exprs/data"][...]
        del file["exprs/data"]
        file.create_dataset("exprs/data", data=data, compression="gzip", fletcher32=True)
        at = file["exprs/data"].id.get_chunk_info(0).byte_offset
    spoiled = bytearray(path.read_bytes())
    spoiled[at + 4] ^= 0xFF
    path.write_bytes(spoiled)
    with pytest.raises(ValueError, match="cannot be read as cells .*fetch or write it again"):
        read(path)


# -- .h5ad


@pytest.mark.parametrize("kind", [csr_matrix, csc_matrix, lambda m: m.toarray(), lambda m: m.astype(np.int64)])
def test_an_h5ad_of_any_storage_is_the_same(tmp_path, counts, kind):
    types = pd.Categorical([t or None for t in TYPES])
    path = write_h5ad(tmp_path / "a.h5ad", kind(counts), {"cell_type": types, "batch": np.arange(40)})
    cells = read(path)
    same(cells, counts)
    assert cells.labels.tolist() == TYPES.tolist() and cells.columns == ["cell_type", "batch"]


def test_layers_and_raw_are_read_when_asked_for(tmp_path, counts):
    full = anndata.AnnData(X=counts * 2, obs=pd.DataFrame(index=BARCODES), var=pd.DataFrame(index=GENES))
    z = counts.toarray()[:, :5] - 1
    path = write_h5ad(tmp_path / "a.h5ad", z, raw=full, layers={"counts": counts[:, :5], "x": z})
    same(read(path, layer="counts"), counts[:, :5], GENES[:5])
    same(read(path, use_raw=True), counts * 2)
    assert list(matrices(path)) == [".raw", "layers['counts']", "layers['x']", "X"]
    for words, which in matrices(path).items():
        with open_rows(path, **which) as rows:
            assert rows.note.startswith(words) and rows.n_genes == (12 if words == ".raw" else 5)
    with pytest.raises(ValueError, match=r"negative.*use .raw or layers\['counts'\]"):
        read(path)
    with pytest.raises(ValueError, match="no layer 'spliced'.*use .raw or layers"):
        read(path, layer="spliced")
    with pytest.raises(ValueError, match="only .h5ad files have layers"):
        read(write_cellblast(tmp_path / "b.h5", counts), layer="counts")


def test_an_h5ad_without_x_or_raw_says_so(tmp_path, counts):
    path = write_h5ad(tmp_path / "a.h5ad", counts)
    with pytest.raises(ValueError, match="no .raw; use X"):
        read(path, use_raw=True)
    adata = anndata.AnnData(obs=pd.DataFrame(index=BARCODES), var=pd.DataFrame(index=GENES))
    adata.write_h5ad(tmp_path / "b.h5ad")
    with pytest.raises(ValueError, match="no X"):
        read(tmp_path / "b.h5ad")


def test_symbols_are_found_beside_ensembl_ids(tmp_path, counts):
    adata = anndata.AnnData(counts, pd.DataFrame(index=BARCODES), pd.DataFrame(index=[f"{i}.3" for i in IDS]))
    adata.write_h5ad(tmp_path / "ids.h5ad")
    assert read(tmp_path / "ids.h5ad").genes == IDS
    adata.var["feature_name"] = pd.Categorical([*GENES[:11], None])
    adata.write_h5ad(tmp_path / "both.h5ad")
    cells = read(tmp_path / "both.h5ad")
    assert cells.genes == [*GENES[:11], IDS[11]] and "feature_name" in cells.note


def test_layouts_of_old_anndata_still_open(tmp_path, counts):
    with h5py.File(tmp_path / "old.h5ad", "w") as file:  # before 0.7: tables of records, categories in uns
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", counts.shape
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(counts, key)
        codes = np.arange(40, dtype=np.int8) % 3 - 1
        file["obs"] = np.rec.fromarrays([np.array(BARCODES, "S"), codes], names="index,cell_type")
        file["var"] = np.rec.fromarrays([np.array(GENES, "S")], names="index")
        file["uns/cell_type_categories"] = np.array(["T", "B"], dtype="S")
    cells = read(tmp_path / "old.h5ad")
    same(cells, counts)
    assert cells.labels[:4].tolist() == ["", "T", "B", ""]
    with h5py.File(write_h5ad(tmp_path / "mid.h5ad", counts), "a") as file:  # 0.7: categories beside the columns
        del file["obs"].attrs["encoding-type"], file["obs"].attrs["encoding-version"]
        file["obs/__categories/cell_type"] = np.array(["T", "B"], dtype="S")
        file["obs/cell_type"] = codes
        file["obs/cell_type"].attrs["categories"] = file["obs/__categories/cell_type"].ref
    assert read(tmp_path / "mid.h5ad").labels[:4].tolist() == ["", "T", "B", ""]


# -- numpy


def test_a_numpy_folder_is_read_without_unpickling(tmp_path, counts):
    np.save(tmp_path / "feature.npy", counts.toarray().astype(np.int64))
    with pytest.raises(ValueError, match="no gene_list.npy"):
        read(tmp_path)
    np.save(tmp_path / "gene_list.npy", np.array(GENES, dtype="S"))
    assert read(tmp_path).labels is None
    np.save(tmp_path / "label.npy", TYPES.astype(str))
    cells = read(tmp_path)
    same(cells, counts, names=[f"cell_{i}" for i in range(40)])
    assert cells.labels.tolist() == TYPES.tolist() and cells.name == tmp_path.name
    np.save(tmp_path / "label.npy", TYPES)
    with pytest.raises(ValueError, match=r"label.npy holds Python objects.*astype\(str\)"):
        read(tmp_path)
    np.save(tmp_path / "feature.npy", np.array(counts, dtype=object))
    with pytest.raises(ValueError, match="feature.npy holds Python objects"):
        read(tmp_path)
    np.save(tmp_path / "feature.npy", np.zeros(5))
    with pytest.raises(ValueError, match="not a table of numbers"):
        read(tmp_path)
    (tmp_path / "feature.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match="not a whole .npy file"):
        read(tmp_path)


# -- 10x


def write_10x(path, counts, group, names):
    by_cell = csc_matrix(counts.T)
    with h5py.File(path, "a") as file:
        for key in ("data", "indices", "indptr"):
            file[f"{group}/{key}"] = getattr(by_cell, key)
        file[f"{group}/shape"] = by_cell.shape
        file[f"{group}/barcodes"] = np.array(BARCODES, dtype="S")
        for key, value in names.items():
            file[f"{group}/{key}"] = np.array(value, dtype="S")
    return path


def test_a_10x_file_of_either_version_is_the_same(tmp_path, counts):
    old = write_10x(tmp_path / "v2.h5", counts, "GRCh38", {"genes": IDS, "gene_names": GENES})
    same(read(old), counts)
    features = {"features/id": IDS, "features/name": GENES, "features/feature_type": ["Gene Expression"] * 12}
    same(read(write_10x(tmp_path / "v3.h5", counts, "matrix", features)), counts)
    write_10x(old, counts.multiply(counts > 8), "mm10", {"genes": IDS, "gene_names": GENES})
    both = read(old)
    same(both, counts)
    assert "GRCh38, mm10" in both.note


def test_antibodies_are_left_out(tmp_path, counts):
    types = ["Gene Expression"] * 10 + ["Antibody Capture"] * 2
    features = {"features/id": IDS, "features/name": GENES, "features/feature_type": types}
    path = write_10x(tmp_path / "v3.h5", counts, "matrix", features)
    same(read(path), counts[:, :10], GENES[:10])
    with open_rows(path) as rows:
        assert rows.streamed and rows.rows(3, 9).shape == (6, 10)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("table", ["genes.tsv", "features.tsv"])
def test_a_10x_folder_of_either_version_is_the_same(tmp_path, counts, table, packed):
    write_mtx(tmp_path, counts, table, packed)
    same(read(tmp_path), counts)
    same(read(next(tmp_path.glob("matrix.mtx*"))), counts)


def write_mtx(folder, counts, table="features.tsv", packed=True, kinds=None):
    mmwrite(folder / "matrix.mtx", counts.T.astype(int))
    rows = [f"{i}\t{g}\t{k}" for i, g, k in zip(IDS, GENES, kinds or ["Gene Expression"] * 12, strict=True)]
    if table == "genes.tsv":
        rows = [row.rsplit("\t", 1)[0] for row in rows]
    (folder / table).write_text("\n".join(rows) + "\n")
    (folder / "barcodes.tsv").write_text("\n".join(BARCODES) + "\n")
    for path in list(folder.iterdir()) if packed else ():
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def test_a_10x_folder_that_lacks_or_mixes_files_is_refused(tmp_path, counts):
    write_mtx(tmp_path, counts, packed=False, kinds=["Gene Expression"] * 11 + ["CRISPR Guide Capture"])
    same(read(tmp_path), counts[:, :11], GENES[:11])
    (tmp_path / "barcodes.tsv").write_text("\n".join(BARCODES[:30]))
    with pytest.raises(ValueError, match="12 features and 30 barcodes"):
        read(tmp_path)
    (tmp_path / "barcodes.tsv").unlink()
    with pytest.raises(ValueError, match="no barcodes.tsv"):
        read(tmp_path)
    write_mtx(tmp_path, counts, packed=False)
    whole = (tmp_path / "matrix.mtx").read_text()
    (tmp_path / "matrix.mtx").write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole Matrix Market file"):
        read(tmp_path)


# -- tables


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "txt"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_table_is_read_in_either_orientation(tmp_path, counts, ending, turned):
    frame = pd.DataFrame(counts.toarray(), index=BARCODES, columns=GENES)
    path = tmp_path / f"a.{ending}"
    (frame.T if turned else frame).to_csv(path, sep="," if "csv" in ending else "\t")
    cells = read(path)
    same(cells, counts)
    assert cells.name == "a" and ("genes x cells" if turned else "cells x genes") in cells.note


def test_tables_as_r_writes_them_and_with_words_in_columns(tmp_path, counts):
    frame = pd.DataFrame(counts.toarray(), index=BARCODES, columns=GENES)
    lines = frame.T.to_csv(sep=" ", quoting=2).splitlines()
    (tmp_path / "r.txt").write_text("\n".join([lines[0].removeprefix('"" '), *lines[1:]]) + "\n")
    same(read(tmp_path / "r.txt"), counts)
    frame.assign(cell_type=TYPES).to_csv(tmp_path / "labelled.csv")
    cells = read(tmp_path / "labelled.csv")
    same(cells, counts)
    assert cells.labels.tolist() == TYPES.tolist()
    turned = frame.T.set_axis(IDS)
    turned.insert(0, "gene_name", GENES)
    turned.to_csv(tmp_path / "ids.csv")
    same(read(tmp_path / "ids.csv"), counts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        (",ACTB,CD3E\n", "one row"),
        (",ACTB,CD3E\nc1,1,2\nc2,x,2\n", "not a whole table of numbers"),
        (",ACTB,CD3E\nc1,1,2\nc2,,2\n", "NaN or infinite"),
        (",ACTB,CD3E\nc1,1,-2\n", "negative"),
        (",ACTB,CD3E,IL7R\nc1,1\n", "the first row has 4 fields"),
        (",ACTB,CD3E\nc1,a,b\n", "no numbers"),
        (",ACTB,CD3E\nc1,1,2\nc2,1,2,3,4\n", "not a whole table"),
    ],
)
def test_a_broken_table_is_a_sentence(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.csv")


def test_a_cut_gzip_table_is_a_sentence(tmp_path, counts):
    frame = pd.DataFrame(random(400, 300, density=0.5, random_state=0).toarray())
    packed = gzip.compress(frame.to_csv().encode())
    (tmp_path / "a.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"^a \("):
        read(tmp_path / "a.csv.gz")


# -- loom


def test_a_loom_file_needs_no_further_library(tmp_path, counts):
    with h5py.File(tmp_path / "a.loom", "w") as file:
        file["matrix"] = counts.T.toarray()
        file["row_attrs/Accession"], file["row_attrs/Gene"] = IDS, GENES
        file["col_attrs/CellID"], file["col_attrs/cell_type"] = BARCODES, [str(t) for t in TYPES]
    cells = read(tmp_path / "a.loom")
    same(cells, counts)
    assert cells.labels.tolist() == TYPES.tolist() and format_of(tmp_path / "a.loom") == "loom"
    with open_rows(tmp_path / "a.loom") as rows:
        assert (rows.rows(5, 9) != counts[5:9]).nnz == 0
    with h5py.File(tmp_path / "a.loom", "a") as file:
        del file["row_attrs/Accession"], file["row_attrs/Gene"]
    with pytest.raises(ValueError, match="no gene names among row_attrs"):
        read(tmp_path / "a.loom")


# -- by rows


@pytest.mark.parametrize("kind", [csr_matrix, csc_matrix, lambda m: m.toarray()])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_blocks_on_top_of_each_other_are_the_whole(tmp_path, counts, kind, compression):
    adata = anndata.AnnData(kind(counts), pd.DataFrame({"cell_type": TYPES}, BARCODES), pd.DataFrame(index=GENES))
    adata.write_h5ad(tmp_path / "a.h5ad", compression=compression)
    with open_rows(tmp_path / "a.h5ad") as rows:
        assert (rows.n_cells, rows.n_genes, rows.genes, rows.cells) == (40, 12, GENES, BARCODES)
        assert rows.obs["cell_type"].tolist() == TYPES.tolist() == rows.labels().tolist()
        assert rows.streamed == (kind is not csc_matrix) and ("read whole" in rows.note) != rows.streamed
        starts, blocks = zip(*rows.blocks(7), strict=True)
        assert starts == (0, 7, 14, 21, 28, 35) and blocks[-1].shape == (5, 12)
        np.testing.assert_array_equal(np.vstack([b.toarray() for b in blocks]), counts.toarray())
        assert rows.sample(20).shape == (20, 12) and rows.sample(500).shape == (40, 12)
        assert rows.labels("nothing") is None


def test_other_formats_give_blocks_too(tmp_path, counts):
    pd.DataFrame(counts.toarray(), BARCODES, GENES).assign(cell_type=TYPES).to_csv(tmp_path / "a.csv")
    with open_rows(tmp_path / "a.csv") as rows:
        assert not rows.streamed and sum(block.shape[0] for _, block in rows.blocks(9)) == 40
        assert rows.labels().tolist() == TYPES.tolist() == rows.labels("cell_type").tolist()
        assert as_labels(rows.obs["cell_type"]).tolist() == TYPES.tolist() and rows.labels("x") is None


def test_an_error_of_the_caller_stays_the_callers(tmp_path, counts):
    with pytest.raises(ValueError, match="^mine$"), open_rows(write_h5ad(tmp_path / "a.h5ad", counts)):
        raise ValueError("mine")


def test_a_matrix_by_genes_too_large_to_turn_says_how_to_turn_it(tmp_path, counts, monkeypatch):
    path = write_h5ad(tmp_path / "a.h5ad", csc_matrix(counts))
    monkeypatch.setattr("reading.cells.WHOLE_BYTES", 100)
    with open_rows(path) as rows, pytest.raises(ValueError, match=r"by genes \(CSC\).*tocsr\(\)"):
        next(rows.blocks())


def test_dense_blocks_end_at_chunks_and_large_ones_are_split(tmp_path, counts, monkeypatch):
    monkeypatch.setattr("reading.matrix.BLOCK_BYTES", 12 * 4 * 7)
    with h5py.File(write_cellblast(tmp_path / "a.h5", counts, dense=True), "a") as file:
        del file["exprs"]
        file.create_dataset("exprs", data=counts.toarray(), chunks=(5, 12), compression="gzip")
    same(read(tmp_path / "a.h5"), counts)


def test_pieces_of_a_converted_column_fit_together(tmp_path, counts, monkeypatch):
    monkeypatch.setattr("reading.matrix.PIECE", 10)
    path = write_cellblast(tmp_path / "a.h5", counts, data=counts.data.astype(np.float64))
    same(read(path), counts)
    with open_rows(path) as rows:
        assert (rows.rows(13, 31) != counts[13:31]).nnz == 0


# -- names


def test_kinds_of_names_are_told():
    assert kind_of_names(GENES) == "symbol" and kind_of_names(["Actb", "Gm1", "0610005C13Rik"]) == "symbol"
    assert kind_of_names([f"{i}.12" for i in IDS]) == "ensembl_human"
    assert kind_of_names([i.replace("ENSG", "ENSMUSG") for i in IDS]) == "ensembl_mouse"
    assert kind_of_names(["7157", "672", "675"]) == "entrez"
    for other in (
        ["0", "1", "2"],
        ["ILMN_1", "ILMN_2"],
        ["200_s_at", "201_at"],
        ["gene_1", "gene_2"],
        [],
        ["", ""],
    ):
        assert kind_of_names(other) == "probe/other"


def test_species_is_told_from_the_case():
    assert species_from_case([*GENES, "C9orf72"]) == ("human", 1.0)
    assert species_from_case(["Actb", "Trp53", "0610005C13Rik", "H2-K1"])[0] == "mouse"
    assert species_from_case(IDS)[0] == "human" and species_from_case(["1", "2"]) == ("human", 0.5)


def test_symbols_are_taken_from_where_they_are():
    assert gene_symbols(GENES, {"gene_name": GENES[::-1]}) == (GENES, "var_names")
    assert gene_symbols(IDS, {"n_cells": list(range(12)), "Gene_Name": GENES})[0] == GENES
    assert gene_symbols([f"{i}_{g}" for i, g in zip(IDS, GENES, strict=True)])[0] == GENES
    assert gene_symbols([f"{g}_{i}" for i, g in zip(IDS, GENES, strict=True)])[0] == GENES
    assert gene_symbols([f"GRCh38_{g}" for g in GENES])[0] == GENES
    assert gene_symbols([f"{i}.1" for i in IDS], {"gene_name": IDS}) == (IDS, "var_names (human Ensembl ids)")


def test_ensembl_ids_are_found_beside_symbols():
    versions = [f"{i}.1" for i in IDS]
    assert ensembl_ids(versions) == ensembl_ids(GENES, {"n_cells": range(12), "gene_ids": versions}) == IDS
    assert ensembl_ids(GENES, {"gene_ids": GENES}) == []


def test_warnings_of_libraries_do_not_reach_the_reader(tmp_path, counts):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(write_cellblast(tmp_path / "a.h5", counts))
