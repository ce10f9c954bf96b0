"""Files as people have them, made small: python -m pytest tests/reading/test_field.py

The writers in the field that the readers are held to: anndata 0.6 (compound tables) to 0.12, SeuratDisk, sceasy and
zellkonverter (both through anndata), MuData, Cell Ranger 1-2 (a group a genome) and 3-9 (features with types and
genomes), STARsolo and GEO's bare matrices (matrix.mtx and two tables), kallisto-bustools, alevin-fry, Parse, velocyto
and loompy (.loom), featureCounts and HTSeq (tables), spreadsheets and R's write.csv2.
"""

import gzip

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import HUMAN, MOUSE, TYPES, draw
from scipy.io import mmwrite
from scipy.sparse import csr_matrix, hstack

from reading import names
from reading.cells import Unreadable, format_of, of_anndata, read
from reading.source import open_source

COUNTS, KINDS = draw(0)
CELLS = [f"cell{i}" for i in range(COUNTS.shape[0])]
LABELS = np.asarray(KINDS, dtype=object)
CODES = np.array([TYPES.index(kind) for kind in LABELS])


def adata(**how) -> ad.AnnData:
    obs = pd.DataFrame({"cell_type": LABELS.astype(str)}, index=CELLS)
    return ad.AnnData(COUNTS.astype(np.float32), obs=obs, var=pd.DataFrame(index=HUMAN), **how)


def same(cells, genes=HUMAN):
    assert list(cells.genes) == list(genes)
    np.testing.assert_array_equal(cells.counts.toarray(), COUNTS.toarray())


# -- categories -----------------------------------------------------------------------------------
def test_levels_that_seuratdisk_keeps_apart_from_the_codes_are_the_labels(tmp_path):
    path = tmp_path / "a.h5ad"
    adata().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file["obs/cell_type"]
        file["obs/cell_type"] = CODES.astype(np.int32)
        file["obs"].create_group("__categories")["cell_type"] = np.array(TYPES, dtype="S")
    assert list(read(path, label_key="cell_type").labels) == list(LABELS)


def test_a_code_that_is_no_category_is_no_label(tmp_path):
    path = tmp_path / "a.h5ad"
    adata().write_h5ad(path)
    codes = CODES.astype(np.int32).copy()
    codes[:2] = -1, 99
    with h5py.File(path, "r+") as file:
        del file["obs/cell_type"]
        file["obs/cell_type"] = codes
        file["obs"].create_group("__categories")["cell_type"] = np.array(TYPES, dtype="S")
    assert list(read(path, label_key="cell_type").labels[:3]) == ["", "", LABELS[2]]


def test_tables_of_records_as_before_anndata_0_7(tmp_path):
    path = tmp_path / "a.h5ad"
    with h5py.File(path, "w") as file:
        for key, values in (("data", COUNTS.data), ("indices", COUNTS.indices), ("indptr", COUNTS.indptr)):
            file[f"X/{key}"] = values
        file["X"].attrs["h5sparse_format"], file["X"].attrs["h5sparse_shape"] = "csr", np.array(COUNTS.shape)
        var = np.zeros(len(HUMAN), dtype=[("index", "S20")])
        var["index"] = HUMAN
        obs = np.zeros(len(CELLS), dtype=[("index", "S20"), ("cell_type", "i1")])
        obs["index"], obs["cell_type"] = CELLS, CODES
        file["var"], file["obs"] = var, obs
        file["uns/cell_type_categories"] = np.array(TYPES, dtype="S")
    cells = read(path, label_key="cell_type")
    same(cells)
    assert list(cells.labels) == list(LABELS)


# -- features that are no genes ------------------------------------------------------------------------
@pytest.mark.parametrize("where", ["X", "raw"])
def test_antibodies_are_no_genes_and_do_not_take_a_genes_place(tmp_path, where):
    path = tmp_path / "a.h5ad"
    more = csr_matrix(np.full((len(CELLS), 2), 500, np.float32))
    var = pd.DataFrame(
        {"feature_types": ["Antibody Capture"] * 2 + ["Gene Expression"] * 12},
        index=["CD19_TotalSeqB", "ADT_x", *HUMAN],
    )
    whole = ad.AnnData(hstack([more, COUNTS]).tocsr().astype(np.float32), adata().obs, var)
    if where == "raw":
        whole.raw = whole.copy()
    whole.write_h5ad(path)
    cells = read(path, use_raw=where == "raw")
    same(cells)
    assert "2 features that are not genes left out (Antibody Capture)" in cells.note
    same(of_anndata(whole, "a")["X" if where == "X" else ".raw"])


def test_peaks_are_told_by_their_names_where_no_column_says_so():
    peaks = [f"chr{i}:{i}00-{i}50" for i in range(1, 20)]
    keep, words = names.features_that_are_genes([*HUMAN, *peaks])
    assert list(keep) == list(range(12)) and "19 features" in words


# -- two genomes -----------------------------------------------------------------------------------
def barnyard() -> tuple[csr_matrix, csr_matrix]:
    """Counts of human and of mouse genes; the last ten cells are of the mouse."""
    human, mouse = COUNTS.toarray().copy(), COUNTS.toarray().copy()
    human[-10:] //= 50
    mouse[:-10] //= 50
    return csr_matrix(human), csr_matrix(mouse)


def write_barnyard(path, version: int) -> None:
    human, mouse = barnyard()
    with h5py.File(path, "w") as file:
        if version == 2:
            for genome, x, genes in (("hg19", human, HUMAN), ("mm10", mouse, MOUSE)):
                group = file.create_group(genome)
                group["data"], group["indices"], group["indptr"] = x.data.astype(np.int32), x.indices, x.indptr
                group["shape"] = np.array([len(genes), len(CELLS)])
                group["barcodes"] = np.array(CELLS, dtype="S")
                group["genes"] = group["gene_names"] = np.array(genes, dtype="S")
            return
        both = hstack([human, mouse]).tocsr()
        group = file.create_group("matrix")
        group["data"], group["indices"], group["indptr"] = both.data.astype(np.int32), both.indices, both.indptr
        group["shape"], group["barcodes"] = np.array([24, len(CELLS)]), np.array(CELLS, dtype="S")
        found = [f"GRCh38_{gene}" for gene in HUMAN] + [f"mm10___{gene}" for gene in MOUSE]
        group["features/id"] = group["features/name"] = np.array(found, dtype="S")
        group["features/feature_type"] = np.array(["Gene Expression"] * 24, dtype="S")
        group["features/genome"] = np.array(["GRCh38"] * 12 + ["mm10"] * 12, dtype="S")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    "species, genes, others", [("human", HUMAN, slice(-10, None)), ("mouse", MOUSE, slice(0, -10))]
)
def test_of_two_genomes_that_of_the_species_is_read_and_cells_of_the_other_are_empty(
    tmp_path, version, species, genes, others
):
    path = tmp_path / "a.h5"
    write_barnyard(path, version)
    cells = read(path, genome=species)
    assert list(cells.genes) == genes
    sums = np.asarray(cells.counts.sum(axis=1)).ravel()
    assert not sums[others].any() and np.delete(sums, np.arange(len(CELLS))[others]).all()
    assert cells.foreign == len(range(*others.indices(len(CELLS))))


def test_a_reference_chooses_the_genome_and_the_other_cells_are_warned_of(tmp_path):
    write_barnyard(tmp_path / "query.h5", 2)
    mouse = adata()
    mouse.var_names = MOUSE
    mouse.write_h5ad(tmp_path / "ref.h5ad")
    with open_source(tmp_path / "ref.h5ad", {}) as reference:
        with open_source(tmp_path / "query.h5", {}, like=[reference]) as query:
            assert query.species == "mouse"
            assert any("30 of 40 cells have most of their counts in the other genome" in w for w in query.warnings)


@pytest.mark.parametrize("prefix", ["GRCh38_", "GRCh38premrna-", "hg19_", "GRCh38______", "hg38-"])
def test_a_genome_before_every_name_is_taken_off_however_it_is_spelt(prefix):
    assert names.gene_symbols([prefix + gene for gene in HUMAN])[0] == HUMAN


def test_symbols_that_look_like_genomes_stay():
    genes = ["HLA-A", "MT-CO1", "MMP9", "MM10", "HGF", "HG-1", *HUMAN]
    assert names.gene_symbols(genes)[0] == genes


# -- labels that mean none ---------------------------------------------------------------------------
WORDS = ["unassigned", "Unknown", "NA", "nan", "ambiguous", "Doublet", "Unclassified", "-", "?", "Low quality"]


def test_labels_that_say_there_is_none_are_no_types_and_a_warning_proposes_the_flag(tmp_path):
    path = tmp_path / "a.h5ad"
    one = adata()
    labels = LABELS.astype(object).copy()
    labels[: len(WORDS)] = WORDS
    one.obs["cell_type"] = pd.Categorical(labels, categories=[*TYPES, *WORDS, "never used"])
    one.write_h5ad(path)
    with open_source(path, {}) as source:
        found = source.labels("cell_type")
        assert set(found) == {*TYPES, ""} and not found[: len(WORDS)].any()
        [warning] = [sentence for sentence in source.warnings if "taken for no label" in sentence]
        assert "--unlabeled unassigned Unknown ambiguous Doublet Unclassified - '?' 'Low quality'" in warning
    with open_source(path, {}) as source:
        source.labels("cell_type", WORDS)
        assert not [sentence for sentence in source.warnings if "taken for no label" in sentence]


def test_a_type_whose_name_only_begins_like_one_of_these_words_is_a_type():
    assert names.no_types(["Unknown T-like", "mixed phenotype", "NA1 neuron", "B cell"]) == []


# -- loom ---------------------------------------------------------------------------------------
def test_a_loom_with_doubled_names_is_read_by_accession(tmp_path):
    path = tmp_path / "a.loom"
    ids = [f"ENSG{i:011d}" for i in range(12)]
    with h5py.File(path, "w") as file:
        file["matrix"] = COUNTS.T.toarray()
        file["row_attrs/Gene"] = np.array([HUMAN[0], HUMAN[0], *HUMAN[2:]], dtype="S")
        file["row_attrs/Accession"] = np.array(ids, dtype="S")
        file["col_attrs/CellID"] = np.array(CELLS, dtype="S")
    cells = read(path)
    assert cells.ids == ids and cells.doubled and cells.genes[:3] == [HUMAN[0], HUMAN[0], HUMAN[2]]
    with open_source(path, {}) as source:
        assert len(source.genes) == 11 and any("doubled" in sentence for sentence in source.warnings)


# -- tables -------------------------------------------------------------------------------------
def frame() -> pd.DataFrame:
    return pd.DataFrame(COUNTS.toarray().astype(int), index=CELLS, columns=HUMAN)


def test_columns_about_genes_are_no_cells_and_lines_of_comment_are_skipped(tmp_path):
    path, table = tmp_path / "counts.txt", frame().T
    for at, (name, values) in enumerate((("Chr", "chr1"), ("Start", 5), ("End", 9), ("Strand", "+"), ("Length", 4))):
        table.insert(at, name, values)
    with path.open("w") as file:
        file.write("# Program:featureCounts v2.0.1\n")
        table.to_csv(file, sep="\t", index_label="Geneid")
    cells = read(path)
    same(cells)
    assert cells.cells == CELLS and "Chr, Start, End, Strand, Length are no cells and left out" in cells.note


def test_columns_about_cells_are_no_genes_but_can_be_labels(tmp_path):
    path, table = tmp_path / "a.csv", frame()
    for at, name in enumerate(("n_genes", "n_counts", "percent_mito", "leiden")):
        table.insert(at, name, CODES)
    table.to_csv(path)
    cells = read(path, label_key="leiden")
    same(cells)
    assert list(cells.labels) == [str(kind) for kind in CODES]
    assert "n_genes, n_counts, percent_mito, leiden are no genes and left out" in cells.note


def test_rows_that_htseq_adds_are_no_genes(tmp_path):
    table = frame().T
    table.loc["__no_feature"] = 10_000
    table.loc["__ambiguous"] = 500
    table.to_csv(tmp_path / "a.tsv", sep="\t")
    same(read(tmp_path / "a.tsv"))


def test_semicolons_and_decimal_commas(tmp_path):
    values = frame().T / 4
    values.to_csv(tmp_path / "a.csv", sep=";", decimal=",")
    cells = read(tmp_path / "a.csv")
    np.testing.assert_allclose(cells.counts.toarray(), COUNTS.toarray() / 4)


def test_genes_that_a_spreadsheet_made_dates_of_are_named_and_left_out(tmp_path):
    table = frame().T
    table.index = ["1-Mar", "1-Mar", "2-Sep", *HUMAN[3:]]
    table.to_csv(tmp_path / "a.csv")
    with open_source(tmp_path / "a.csv", {}) as source:
        assert source.genes == [gene.upper() for gene in HUMAN[3:]]
        [warning] = [sentence for sentence in source.warnings if "spreadsheet" in sentence]
        assert "1-Mar was MARCH1 or MARC1" in warning and "2-Sep was SEPT2" in warning


# -- other containers -------------------------------------------------------------------------------
def write_h5mu(path, modalities) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["encoding-type"] = "MuData"
        for name in modalities:
            part = path.with_suffix(f".{name}.h5ad")
            adata().write_h5ad(part)
            with h5py.File(part) as one:
                one.copy(one["/"], file.require_group("mod"), name)


def test_an_h5mu_is_read_by_its_modality_of_genes_or_the_one_asked_for(tmp_path):
    write_h5mu(tmp_path / "a.h5mu", ["prot", "rna"])
    cells = read(tmp_path / "a.h5mu", label_key="cell_type")
    same(cells)
    assert cells.note.startswith("modality rna") and list(cells.labels) == list(LABELS)
    assert read(tmp_path / "a.h5mu", modality="prot").note.startswith("modality prot")
    with pytest.raises(Unreadable, match="no modality 'atac'.*prot, rna"):
        read(tmp_path / "a.h5mu", modality="atac")
    write_h5mu(tmp_path / "b.h5mu", ["x", "y"])
    with pytest.raises(Unreadable, match="--modality: x, y"):
        read(tmp_path / "b.h5mu")


def test_a_zarr_store_is_read(tmp_path):
    adata(layers={"counts": COUNTS.astype(np.float32)}).write_zarr(tmp_path / "a.zarr")
    assert format_of(tmp_path / "a.zarr") == "zarr"
    same(read(tmp_path / "a.zarr", label_key="cell_type"))
    with open_source(tmp_path / "a.zarr", {}) as source:
        assert source.matrix == "layers['counts']" and len(source) == len(CELLS)


def write_lines(path, lines) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize(
    "matrix, genes, cells",
    [
        ("cells_x_genes.mtx", "cells_x_genes.genes.txt", "cells_x_genes.barcodes.txt"),
        ("quants_mat.mtx", "quants_mat_cols.txt", "quants_mat_rows.txt"),
        ("matrix.mtx", "features.tsv", "barcodes.tsv"),
        ("GSM1_matrix.mtx", "GSM1_genes.tsv", "GSM1_barcodes.tsv"),
    ],
)
def test_folders_of_other_counters(tmp_path, matrix, genes, cells):
    mmwrite(tmp_path / matrix, COUNTS)
    write_lines(tmp_path / genes, HUMAN)
    write_lines(tmp_path / cells, CELLS)
    same(read(tmp_path))


def test_kallistos_names_stand_beside_its_ids(tmp_path):
    mmwrite(tmp_path / "cells_x_genes.mtx", COUNTS)
    write_lines(tmp_path / "cells_x_genes.genes.txt", [f"ENSG{i:011d}.1" for i in range(12)])
    write_lines(tmp_path / "cells_x_genes.genes.names.txt", HUMAN)
    write_lines(tmp_path / "cells_x_genes.barcodes.txt", CELLS)
    same(read(tmp_path))


@pytest.mark.parametrize(
    "name, words",
    [
        ("a.rds", "R file.*zellkonverter.*anndataR"),
        ("a.RData", "R file"),
        ("a.tar.gz", "archive.*tar -xf"),
        ("a.zip", "unzip"),
        ("a.h5ad.gz", "gunzip"),
        ("a.bam", "reads, not counts"),
    ],
)
def test_what_is_no_file_of_cells_is_said_with_the_way_out(tmp_path, name, words):
    (tmp_path / name).write_bytes(gzip.compress(b"whatever"))
    with pytest.raises(Unreadable, match=f"{name}.*{words}"):
        read(tmp_path / name)


def test_an_address_and_an_empty_file_and_a_folder_of_other_things(tmp_path):
    from pathlib import Path

    with pytest.raises(Unreadable, match="an address; download"):
        read(Path("https://example.org/a.h5ad"))
    (tmp_path / "a.h5ad").write_bytes(b"")
    with pytest.raises(Unreadable, match="it is empty"):
        read(tmp_path / "a.h5ad")
    with pytest.raises(Unreadable, match="a folder without a matrix"):
        read(tmp_path)


# -- species ------------------------------------------------------------------------------------
def test_ids_of_another_species_are_refused_and_its_symbols_warned_of(tmp_path):
    one = adata()
    one.var_names = [f"ENSDARG{i:011d}" for i in range(12)]
    one.write_h5ad(tmp_path / "fish.h5ad")
    with pytest.raises(ValueError, match="zebrafish.*orthologs"):
        with open_source(tmp_path / "fish.h5ad", {}):
            pass
    one.var_names = [gene.lower() for gene in HUMAN]
    one.write_h5ad(tmp_path / "small.h5ad")
    with open_source(tmp_path / "small.h5ad", {}) as source:
        assert any("small letters" in sentence for sentence in source.warnings)


# -- in memory -----------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["csr_array", "csc_matrix", "csc_array", "coo_array"])
def test_every_kind_of_sparse_matrix_in_memory(kind):
    import scipy.sparse

    one = adata()
    matrix = getattr(scipy.sparse, kind)(COUNTS.astype(np.float32))
    one = ad.AnnData(matrix if not kind.startswith("coo") else matrix.tocsr(), one.obs, one.var)
    same(of_anndata(one, "a")["X"])
