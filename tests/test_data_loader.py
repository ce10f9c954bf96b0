"""The catalogue, fetching, shared genes, splits: run with `python -m pytest tests/test_data_loader.py`."""

import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import HUMAN, MOUSE, SHARED, draw, write_catalogue, write_dataset, write_orthologs
from scipy.sparse import csr_matrix

import data_loader as data
from files import Cache, fingerprint
from reading import align, catalogue
from reading.cells import Cells
from voice import heard


@pytest.fixture(autouse=True)
def spoken():
    """What is said is printed, as in a command."""
    with heard():
        yield


def names_of(entries):
    return [entry.name for entry in entries]


# -- the catalogue


def test_the_public_catalogue_has_the_66_published_names():
    entries = catalogue.read_catalogue(Path(data.__file__).parent / "dataset")
    assert len(entries) == 66 and sum(entry.labelled for entry in entries) == 59
    assert {entry.species for entry in entries} == {"human", "mouse"}


def test_a_folders_own_catalogue_is_the_catalogue(corpus):
    write_dataset(corpus / "Not_Listed.h5", 8, MOUSE)
    entries = catalogue.read_catalogue(corpus)
    assert names_of(entries) == ["Human_C", "Human_D", "Mouse_A", "Mouse_B"]
    assert [entry.species for entry in entries] == ["human", "human", "mouse", "mouse"]
    assert [entry.labelled for entry in entries] == [True, False, True, True]
    assert entries[2].path == corpus / "Mouse_A.h5"


def test_the_order_of_lines_in_a_catalogue_does_not_matter(corpus):
    before = catalogue.read_catalogue(corpus)
    first, *lines = (corpus / "datasets.csv").read_text().splitlines()
    (corpus / "datasets.csv").write_text("\n".join([first, *lines[::-1]]))
    assert catalogue.read_catalogue(corpus) == before


def test_without_a_catalogue_it_is_every_file_and_h5_comes_before_h5ad(corpus):
    (corpus / "datasets.csv").unlink()
    (corpus / "Mouse_A.h5ad").write_bytes(b"")
    (corpus / "Extra.h5ad").write_bytes(b"")
    entries = catalogue.read_catalogue(corpus)
    assert names_of(entries) == ["Extra", "Human_C", "Human_D", "Mouse_A", "Mouse_B"]
    assert entries[3].path.name == "Mouse_A.h5" and {entry.species for entry in entries} == {""}


def test_datasets_restrict_exclude_leaves_out_and_species_overrides(corpus):
    assert names_of(catalogue.read_catalogue(corpus, datasets=["Mouse_A", "Human_C"])) == ["Human_C", "Mouse_A"]
    assert names_of(catalogue.read_catalogue(corpus, exclude=["Human_D", "Mouse_A"])) == ["Human_C", "Mouse_B"]
    assert {entry.species for entry in catalogue.read_catalogue(corpus, species="mouse")} == {"mouse"}
    with pytest.raises(ValueError, match="leave no dataset"):
        catalogue.read_catalogue(corpus, datasets=["Mouse_A"], exclude=["Mouse_A"])


@pytest.mark.parametrize("flag", ["datasets", "exclude"])
def test_an_unknown_name_is_refused_with_the_nearest_one(corpus, flag):
    with pytest.raises(ValueError, match="no dataset is called 'Mouse_a' in .*datasets.csv; did you mean Mouse_A"):
        catalogue.read_catalogue(corpus, **{flag: ["Mouse_a"]})
    with pytest.raises(ValueError, match="'Zzz'.*there are Human_C, Human_D, Mouse_A"):
        catalogue.read_catalogue(corpus, **{flag: ["Zzz"]})


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("a", "rat", "yes")], "line 2 .a.: species must be human or mouse.*'rat'"),
        ([("a", "mouse", "maybe")], "labelled yes or no.*'maybe'"),
        ([("../a", "mouse", "yes")], "'../a' cannot be the name"),
        ([("", "mouse", "yes")], "cannot be the name"),
        ([("a", "mouse", "yes"), ("a", "human", "no")], "lists a twice"),
        ([("a",)], "species must be"),
        ([], "no dataset"),
    ],
)
def test_a_broken_catalogue_says_where(tmp_path, rows, words):
    write_catalogue(tmp_path, rows)
    with pytest.raises(ValueError, match=words):
        catalogue.read_catalogue(tmp_path)


def test_a_catalogue_without_its_columns_and_an_empty_folder_say_what_is_needed(tmp_path):
    with pytest.raises(ValueError, match="neither a datasets.csv nor any .h5"):
        catalogue.read_catalogue(tmp_path)
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        catalogue.read_catalogue(tmp_path / "nowhere")
    (tmp_path / "datasets.csv").write_text("name,species\na,mouse\n")
    with pytest.raises(ValueError, match="lacks the column labelled; it needs name,species,labelled"):
        catalogue.read_catalogue(tmp_path)
    (tmp_path / "datasets.csv").write_text("\ufeffname,species,labelled\n a , Mouse, YES\n", encoding="utf-8")
    assert catalogue.read_catalogue(tmp_path) == [data.Entry("a", "mouse", True)]


def test_own_datasets_are_named_like_their_folder_or_file(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "yours.v2.h5ad").write_bytes(b"")
    entries = catalogue.own_entries(tmp_path / "mine", tmp_path / "yours.v2.h5ad", None)
    assert names_of(entries) == ["mine", "yours.v2"] and entries[0].species == ""
    assert catalogue.own_entries(None, None, "mouse") == []
    with pytest.raises(FileNotFoundError, match="there is no .*nothing.*--np_input"):
        catalogue.own_entries(tmp_path / "nothing", None, None)


# -- fetching


@pytest.fixture
def site(tmp_path):
    """A server of files under tmp_path/site; `site.asked` lists the paths."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            server.asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    server.asked, server.folder, server.url = [], folder, f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def publish(site, name, source):
    (site.folder / name).mkdir()
    shutil.copy(source, site.folder / name / f"{name}{source.suffix}")


def test_what_is_missing_is_fetched_and_what_cannot_be_had_is_in_a_table(corpus, site, capsys):
    for name in ("Mouse_A", "Human_C"):
        publish(site, name, corpus / f"{name}.h5")
        (corpus / f"{name}.h5").unlink()
    (corpus / "Human_D.h5").unlink()
    (site.folder / "Human_D").mkdir()
    (site.folder / "Human_D" / "Human_D.h5").write_text("<html>we have moved</html>")
    counts, types = draw(5)
    cells = pd.DataFrame({"cell_type": types}, index=[f"c{i}" for i in range(40)])
    new = anndata.AnnData(counts, cells, pd.DataFrame(index=MOUSE))
    new.write_h5ad(site.folder.parent / "New.h5ad")
    publish(site, "New", site.folder.parent / "New.h5ad")
    rows = [("Mouse_A", "mouse", "yes"), ("Mouse_B", "mouse", "yes"), ("Human_C", "human", "yes")]
    rows += [("Human_D", "human", "no"), ("New", "mouse", "yes"), ("Gone", "mouse", "yes")]
    write_catalogue(corpus, rows)

    found = catalogue.obtain(catalogue.read_catalogue(corpus), corpus, base_url=site.url + "/", offline=False)
    assert names_of(found) == ["Human_C", "Mouse_A", "Mouse_B", "New"]
    assert all(entry.path.exists() for entry in found) and found[3].path.suffix == ".h5ad"
    np.testing.assert_array_equal(data.load(found[3]).counts.toarray(), counts.toarray())
    table = capsys.readouterr().out.split("2 of 6 datasets are not there:\n")[1].splitlines()
    assert len(table) == 2
    assert table[0].split()[0] == "Gone" and "404" in table[0] and "--exclude" in table[0]
    assert table[1].split()[0] == "Human_D" and "web page" in table[1] and "--exclude" in table[1]
    assert not list(corpus.glob("*.part*")) and not any("Mouse_B" in path for path in site.asked)
    assert not (corpus / "Human_D.h5").exists()


@pytest.mark.parametrize("suffix", [".h5", ".h5ad"])
def test_another_file_under_a_known_name_is_reported_and_not_used(corpus, site, capsys, suffix):
    publish(site, "Mouse_A", corpus / "Mouse_A.h5")
    (corpus / "Mouse_A.h5").unlink()
    entries = catalogue.read_catalogue(corpus)
    assert len(catalogue.obtain(entries, corpus, base_url=site.url, offline=False)) == 4
    assert (corpus / "checksums.csv").read_text().splitlines()[1].startswith("Mouse_A.h5,")
    (corpus / "Mouse_A.h5").unlink()
    assert len(catalogue.obtain(entries, corpus, base_url=site.url, offline=False)) == 4  # the same once more

    (corpus / "Mouse_A.h5").unlink()
    (site.folder / "Mouse_A" / "Mouse_A.h5").unlink()
    if suffix == ".h5":
        shutil.copy(corpus / "Mouse_B.h5", site.folder / "Mouse_A" / "Mouse_A.h5")
    else:
        anndata.AnnData(draw(5)[0], var=pd.DataFrame(index=MOUSE)).write_h5ad(site.folder / "Mouse_A" / "Mouse_A.h5ad")
    found = catalogue.obtain(entries, corpus, base_url=site.url, offline=False)
    assert names_of(found) == ["Human_C", "Human_D", "Mouse_B"]
    said = capsys.readouterr().out
    assert "has changed since it was first fetched" in said and "take its line out of" in said
    assert not list(corpus.glob("Mouse_A.h5*"))


def test_offline_touches_no_network_and_goes_on_with_what_is_there(corpus, site, capsys):
    (corpus / "Mouse_A.h5").unlink()
    found = catalogue.obtain(catalogue.read_catalogue(corpus), corpus, base_url=site.url, offline=True)
    assert names_of(found) == ["Human_C", "Human_D", "Mouse_B"] and site.asked == []
    table = capsys.readouterr().out
    assert "1 of 4 datasets are not there" in table and "put Mouse_A.h5 into" in table


def test_with_nothing_there_the_run_ends_and_nothing_missing_asks_nobody(corpus, site):
    catalogue.obtain(catalogue.read_catalogue(corpus), corpus, base_url=site.url, offline=False)
    assert site.asked == []
    for path in corpus.glob("*.h5"):
        path.unlink()
    for offline in (True, False):
        with pytest.raises(ValueError, match="none of the 4 datasets is in"):
            catalogue.obtain(catalogue.read_catalogue(corpus), corpus, base_url=site.url, offline=offline)


def test_into_a_read_only_folder_nothing_is_fetched(corpus, site):
    (corpus / "Mouse_A.h5").unlink()
    corpus.chmod(0o555)
    with pytest.raises(ValueError, match="Mouse_A.*is read-only; use --offline"):
        catalogue.obtain(catalogue.read_catalogue(corpus), corpus, base_url=site.url, offline=False)
    corpus.chmod(0o755)
    assert site.asked == []


def test_the_ortholog_table_is_looked_for_in_the_folder_then_in_the_projects_then_fetched(
    corpus, site, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(catalogue, "HERE", tmp_path / "project")
    (tmp_path / "project" / "dataset").mkdir(parents=True)
    expected = {human: mouse.upper() for human, mouse in zip(HUMAN, MOUSE, strict=True)}
    assert catalogue.orthologs(corpus, offline=True) == expected
    (corpus / align.ORTHOLOG_FILE).rename(site.folder / "table.csv")
    write_orthologs(tmp_path / "project" / "dataset", {"TP53": "Trp53"})
    assert catalogue.orthologs(corpus, offline=True) == {"TP53": "TRP53"}
    (tmp_path / "project" / "dataset" / align.ORTHOLOG_FILE).unlink()
    assert catalogue.orthologs(corpus, offline=True) == {}
    assert "no ortholog table (--offline was asked for)" in caplog.text
    monkeypatch.setattr(align, "ORTHOLOG_URL", f"{site.url}/none.csv")
    assert catalogue.orthologs(corpus, offline=False) == {}
    assert "404" in caplog.text
    monkeypatch.setattr(align, "ORTHOLOG_URL", f"{site.url}/table.csv")
    assert catalogue.orthologs(corpus, offline=False) == expected
    assert (corpus / align.ORTHOLOG_FILE).exists()


# -- genes


def test_species_are_told_from_the_case_of_the_symbols(corpus, capsys):
    (corpus / "datasets.csv").unlink()
    named = data.gene_names(catalogue.read_catalogue(corpus), catalogue.orthologs(corpus, offline=True))
    assert [names.entry.species for names in named] == ["human", "human", "mouse", "mouse"]
    said = capsys.readouterr().out
    assert "Human_C: taken as human" in said and "--species overrides" in said
    assert all(sorted(names.genes) == SHARED for names in named)


def test_without_the_table_the_unmatched_human_genes_are_counted(corpus, caplog):
    data.gene_names(catalogue.read_catalogue(corpus), {})
    assert "without the ortholog table 1 of 12 human genes match no mouse gene" in caplog.text


def entry_with(genes, path="a.h5", name="Baron"):
    return data.Names(data.Entry(name, "human", True, Path(path)), genes)


def test_overlap_is_said_in_numbers_low_is_a_warning_and_none_an_error(capsys):
    data.report_overlap(entry_with(SHARED[:9]), SHARED, "the corpus")
    assert capsys.readouterr().out == "Baron: 9 of 12 genes of the corpus present (75%), human\n"
    data.report_overlap(entry_with(SHARED[:2]), SHARED, "the corpus")
    assert "warning: Baron has under 50%" in capsys.readouterr().out
    ids = [f"ENSG{number:011d}" for number in range(12)]
    with pytest.raises(ValueError, match="Baron .a.h5.: none of its genes.*ensembl_human.*--exclude Baron"):
        data.report_overlap(entry_with(ids), SHARED, "the corpus")


# -- aligned matrices and their cache


def named_and_aligned(folder, cache, genes=SHARED, table=None, **values):
    table = catalogue.orthologs(folder, offline=True) if table is None else table
    named = data.gene_names(catalogue.read_catalogue(folder, datasets=["Human_C"]), table)
    return data.aligned(named[0], genes, cache, fingerprint(genes), **values)


def test_an_aligned_dataset_has_the_vocabularys_columns(corpus):
    matrix = named_and_aligned(corpus, Cache(None))
    cells = data.load(catalogue.read_catalogue(corpus, datasets=["Human_C"])[0])
    spelled = {human: mouse.upper() for human, mouse in zip(HUMAN, MOUSE, strict=True)}
    columns = [[spelled[gene] for gene in cells.genes].index(gene) for gene in SHARED]
    np.testing.assert_array_equal(matrix.toarray(), cells.counts.toarray()[:, columns])


@pytest.mark.parametrize("change", ["nothing", "file", "time", "genes", "table", "species", "recipe"])
def test_a_stale_cache_entry_is_never_used(corpus, change, monkeypatch):
    cache = Cache(corpus / "cache")
    named_and_aligned(corpus, cache)
    genes, values, path = SHARED, {}, corpus / "Human_C.h5"
    if change == "file":
        write_dataset(path, 77, HUMAN)
    elif change == "time":
        os.utime(path, ns=(1, 1))
    elif change == "genes":
        genes = SHARED[:7]
    elif change == "table":
        values = {"table": {"TP53": "CD19"}}
    elif change == "species":
        write_catalogue(corpus, [("Human_C", "mouse", "yes")])
    elif change == "recipe":
        values = {"recipe": "doubled", "normalise": lambda counts: counts * 2}
    loads, load = [], data.load
    monkeypatch.setattr(data, "load", lambda *args, **more: loads.append(1) or load(*args, **more))
    cached = named_and_aligned(corpus, cache, genes, **values).toarray()
    assert len(loads) == (change != "nothing")
    np.testing.assert_array_equal(cached, named_and_aligned(corpus, Cache(None), genes, **values).toarray())


@pytest.mark.parametrize("normalise", [None, data.log_normalised], ids=["counts", "log"])
def test_a_large_dataset_is_aligned_by_blocks_and_holds_what_the_whole_would(corpus, tmp_path, monkeypatch, normalise):
    write_dataset(corpus / "Human_C.h5", 4500, HUMAN)
    whole = named_and_aligned(corpus, Cache(tmp_path / "whole"), normalise=normalise)
    monkeypatch.setattr(data, "WHOLE_UP_TO", 100)
    monkeypatch.setattr(data, "load", lambda *_, **__: pytest.fail("read whole"))
    blocks = named_and_aligned(corpus, Cache(tmp_path / "blocks"), normalise=normalise)
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(blocks, part), getattr(whole, part))
    assert blocks.shape == whole.shape


def test_a_negative_value_in_any_block_of_a_large_dataset_is_refused(corpus, monkeypatch):
    write_dataset(corpus / "Human_C.h5", 4500, HUMAN)
    with h5py.File(corpus / "Human_C.h5", "r+") as file:
        file["exprs/data"][-1] = -3
    monkeypatch.setattr(data, "WHOLE_UP_TO", 100)
    with pytest.raises(ValueError, match="Human_C.*holds negative values .smallest -3"):
        named_and_aligned(corpus, Cache(None), normalise=data.log_normalised)


def test_a_read_only_folder_works_without_a_cache_or_with_one_elsewhere(corpus, tmp_path, capsys):
    corpus.chmod(0o555)
    try:
        assert data.cache_in(corpus, None).folder is None
        assert "is read-only: nothing is cached (--cache_dir" in capsys.readouterr().out
        assert data.cache_in(corpus, tmp_path / "elsewhere").folder == tmp_path / "elsewhere"
        with pytest.raises(ValueError, match="--cache_dir .* cannot be written"):
            data.cache_in(tmp_path, corpus / "x")
    finally:
        corpus.chmod(0o755)
    assert data.cache_in(corpus, None).folder == corpus / "cache"


# -- labels and splits


def cells_with(labels, columns=("batch",)):
    labels = None if labels is None else np.array(labels, dtype=object)
    return Cells("Baron", Path("a.h5"), draw(0)[0], HUMAN, [], labels, list(columns))


def test_types_are_numbered_in_sorted_order_and_unlabelled_cells_left_out():
    types = data.cell_types(cells_with(["T", "", "B", "T", ""]))
    assert types.classes == ["B", "T"] and types.rows.tolist() == [0, 2, 3] and types.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("labels", "key", "words"),
    [
        (None, None, "no column cell_ontology_class or cell_type.*it has batch. Name one with --label_key"),
        (None, "kind", "no column 'kind'"),
        (["T", "T"], None, "only one cell type, 'T'"),
        (["", ""], None, "no cell with a label"),
    ],
)
def test_without_two_types_a_dataset_cannot_be_learnt(labels, key, words):
    with pytest.raises(ValueError, match=words) as caught:
        data.cell_types(cells_with(labels), label_key=key)
    assert "Baron (a.h5)" in str(caught.value) and "--exclude Baron" in str(caught.value)


@pytest.mark.parametrize(
    ("cells", "sizes"),
    [
        (870, (522, 87, 261)),
        (1667, (1000, 166, 501)),
        (15_209, (1000, 1000, 13_209)),
        (90, (54, 9, 27)),
        (3, (1, 0, 2)),
    ],
)
def test_a_split_has_the_published_sizes_and_every_cell_once(cells, sizes):
    parts = data.split(cells, seed=0)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == sizes
    assert sorted(np.concatenate([parts.train, parts.validation, parts.test])) == list(range(cells))


def test_a_split_depends_on_its_seed_alone():
    first, again, other = (data.split(90, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.train, again.train)
    assert not np.array_equal(first.train, other.train)


def test_too_few_cells_to_split_is_an_error():
    for cells, share in ((1, 0.6), (2, 0.4)):
        with pytest.raises(ValueError, match="too few to split"):
            data.split(cells, seed=0, per_train=share)


def test_types_that_are_hardly_in_the_split_are_said(capsys):
    types = data.Types(np.arange(6), np.array([0, 0, 1, 1, 2, 2]), ["A", "B", "C"])
    data.report_rare_types("Baron", types, data.Split(np.array([0, 1, 2]), np.array([5]), np.array([3, 4])))
    said = capsys.readouterr().out
    assert "fewer than 2 training cells of B, C" in said and "no test cell of A" in said


# -- every format through the door of the corpus


def test_a_folder_without_a_catalogue_is_searched_for_every_file_of_cells_but_not_for_tables(corpus):
    (corpus / "datasets.csv").unlink()
    for name in ("A.h5mu", "B.loom", "some_table.csv"):
        (corpus / name).write_bytes(b"")
    (corpus / "C.zarr").mkdir()
    found = names_of(catalogue.read_catalogue(corpus))
    assert found == ["A", "B", "C", "Human_C", "Human_D", "Mouse_A", "Mouse_B"]


def test_a_catalogue_may_list_tables(corpus):
    pd.DataFrame(draw(5)[0].toarray(), index=[f"cell{i}" for i in range(40)], columns=MOUSE).to_csv(corpus / "T.csv")
    write_catalogue(corpus, [("T", "mouse", "no")])
    [entry] = catalogue.read_catalogue(corpus)
    assert entry.path == corpus / "T.csv"
    np.testing.assert_array_equal(data.load(entry).counts.toarray(), draw(5)[0].toarray())


def test_a_label_that_looks_like_none_is_named_and_stays_a_type_as_published(caplog):
    labels = np.array(["T cell", "unassigned", "B cell", ""], dtype=object)
    cells = Cells("A", Path("A.h5"), draw(0)[0][:4], HUMAN, list("abcd"), labels)
    assert data.cell_types(cells).classes == ["B cell", "T cell", "unassigned"]
    assert "1 cells are labelled 'unassigned'" in caplog.text


def test_a_change_deep_in_a_zarr_store_makes_its_cached_matrix_anew(tmp_path):
    chunk = tmp_path / "a.zarr" / "X" / "data" / "0"
    chunk.parent.mkdir(parents=True)
    chunk.write_bytes(b"one")
    before = data.stamp_of(tmp_path / "a.zarr")
    chunk.write_bytes(b"other")
    assert data.stamp_of(tmp_path / "a.zarr") != before


def test_the_layer_that_is_asked_for_is_taken_of_a_zarr_store_too(tmp_path):
    x = csr_matrix(np.arange(24, dtype=np.float32).reshape(2, 12))
    var = pd.DataFrame(index=HUMAN)
    anndata.AnnData(x, layers={"counts": 3 * x}, var=var).write_zarr(tmp_path / "a.zarr")
    entry = catalogue.Entry("a", "human", True, tmp_path / "a.zarr")
    np.testing.assert_array_equal(data.load(entry, layer="counts").counts.toarray(), 3 * x.toarray())
    np.testing.assert_array_equal(data.load(entry).counts.toarray(), x.toarray())


@pytest.mark.parametrize("species, genes", [("human", HUMAN), ("mouse", MOUSE)])
def test_of_two_genomes_the_one_of_the_catalogues_species_is_read(tmp_path, species, genes):
    path, counts = tmp_path / "a.h5", draw(0)[0]
    with h5py.File(path, "w") as file:
        for genome, symbols in (("hg19", HUMAN), ("mm10", MOUSE)):
            group = file.create_group(genome)
            group["data"], group["indices"], group["indptr"] = counts.data, counts.indices, counts.indptr
            group["shape"], group["barcodes"] = np.array([12, counts.shape[0]]), np.arange(counts.shape[0]).astype("S")
            group["genes"] = group["gene_names"] = np.array(symbols, dtype="S")
    entry = catalogue.Entry("a", species, True, path)
    assert data.load(entry).genes == genes
    [names] = data.gene_names([entry], {})
    assert names.entry.species == species and len([gene for gene in names.genes if gene]) == 12
