"""The annotate command and its Python form on small worlds.  python -m pytest tests/test_annotate.py"""

import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

import annotate
import flags
from annotation import labeller, outcome, road, wishes
from reading import source as q
from reading.cells import Cells, RowBlocks, layout_of

GENES = [f"{letter}{word}{i}" for i in range(20) for letter in "ABCDE" for word in ("CD", "TF", "KL")]  # 300
TYPES = ("B cell", "T cell", "Mono")
QUICK = ["--no-umap", "--no-report", "--offline"]


def world(seed: int = 0, cells: int = 40, *, genes=GENES, depth: float = 1.0, types=TYPES) -> ad.AnnData:
    """Counts of a few well-separated types, `cells` of each; the same types in every world."""
    base = np.random.default_rng(99)
    means = base.gamma(0.5, 1.0, (1, len(GENES))) * np.exp(base.normal(0, 1.2, (len(TYPES), len(GENES))))
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(types)), cells)
    counts = rng.poisson(depth * means[[TYPES.index(name) for name in types]][truth]).astype(np.float32)
    obs = pd.DataFrame({"cell_type": np.array(types)[truth]}, index=[f"cell{i}" for i in range(len(truth))])
    return ad.AnnData(csr_matrix(counts), obs=obs, var=pd.DataFrame(index=list(genes)))


def few(adata: ad.AnnData, each: int = 8) -> ad.AnnData:
    """The same with `each` labels a type, the others Unknown; the truth is kept."""
    adata = adata.copy()
    adata.obs["truth"] = adata.obs["cell_type"].to_numpy()
    place = adata.obs.groupby("truth").cumcount().to_numpy()
    adata.obs["cell_type"] = pd.Categorical(np.where(place < each, adata.obs["truth"], "Unknown"))
    return adata


@pytest.fixture
def files(tmp_path):
    few(world()).write_h5ad(tmp_path / "few.h5ad")
    world(1, depth=2.5).write_h5ad(tmp_path / "atlas.h5ad")
    return tmp_path


def run(*words) -> int:
    return annotate.main([str(word) for word in words] + QUICK)


def same(adata: ad.AnnData) -> float:
    return float((adata.obs["truth"].astype(str) == adata.obs["scpretrain_cell_type"].astype(str)).mean())


def test_a_few_labels_label_the_rest_and_known_labels_are_kept(files):
    before = (files / "few.h5ad").read_bytes()
    out = files / "out.h5ad"
    assert run("--query", files / "few.h5ad", "--label_key", "cell_type", "--unlabeled", "Unknown", "--out", out) == 0
    assert (files / "few.h5ad").read_bytes() == before
    found, old = ad.read_h5ad(out), ad.read_h5ad(files / "few.h5ad")
    assert same(found) > 0.97
    known = (old.obs["cell_type"] != "Unknown").to_numpy()
    kept = found.obs["scpretrain_cell_type"].astype(str)[known] == old.obs["cell_type"].astype(str)[known]
    assert kept.all() and (found.obs["scpretrain_confidence"][known] == 1).all()
    assert (found.X != old.X).nnz == 0 and list(found.obs["truth"]) == list(old.obs["truth"])
    assert set(found.obs) - set(old.obs) == {
        f"scpretrain_{name}"
        for name in ("cell_type", "confidence", "second_choice", "cell_call", "known", "cluster", "cluster_type",
                     "vote_share", "vote_entropy", "mixed")
    }  # fmt: skip
    assert found.obsm["X_scpretrain"].shape[0] == 120 and np.isfinite(found.obsm["X_scpretrain"]).all()
    assert {"versions", "recipe", "genes", "seed", "command"} <= set(found.uns["scpretrain"])
    table = pd.read_csv(files / "out.csv", index_col=0)
    assert list(table.index) == list(found.obs_names)
    assert list(table["cell_type"]) == list(found.obs["scpretrain_cell_type"])


def test_a_reference_of_another_depth_labels_a_query_without_labels(files):
    cells = world(2, depth=0.7)
    cells.obs["truth"] = cells.obs.pop("cell_type")
    cells.write_h5ad(files / "cells.h5ad")
    out = files / "out.h5ad"
    line = ["--query", files / "cells.h5ad", "--reference", files / "atlas.h5ad", "--label_key", "cell_type"]
    assert run(*line, "--out", out) == 0
    assert same(ad.read_h5ad(out)) > 0.95


def test_types_the_reference_lacks_and_genes_it_lacks_are_warned_of(files, capsys):
    world(3, 80, types=TYPES[:2])[:, :100].copy().write_h5ad(files / "two.h5ad")
    out = files / "out.h5ad"
    line = ["--query", files / "few.h5ad", "--reference", files / "two.h5ad", "--label_key", "cell_type", "--out", out]
    assert run(*line) == 0
    said = capsys.readouterr().out
    assert "look like none of the references' types" in said and "100 of its 100 human gene symbols" in said
    assert run(*line[:-1], files / "b.h5ad", "--unknown") == 0
    assert "look like none" not in capsys.readouterr().out


def other_organ(seed: int = 0, cells: int = 120) -> ad.AnnData:
    """Counts of the same genes in types that share nothing with TYPES."""
    base = np.random.default_rng(7)
    means = base.gamma(0.5, 1.0, (1, len(GENES))) * np.exp(base.normal(0, 1.2, (3, len(GENES))))
    counts = np.random.default_rng(seed).poisson(means[np.arange(cells) % 3]).astype(np.float32)
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(cells)])
    return ad.AnnData(csr_matrix(counts), obs=obs, var=pd.DataFrame(index=GENES))


def test_a_foreign_query_is_told_first_and_no_label_of_it_is_sure(files, capsys):
    other_organ().write_h5ad(files / "far.h5ad")
    out = files / "out.h5ad"
    line = ["--query", files / "far.h5ad", "--reference", files / "atlas.h5ad", "--label_key", "cell_type"]
    assert run(*line, "--out", out) == 0
    assert "not of the references' world" in capsys.readouterr().out
    assert "not of the references' world" in ad.read_h5ad(out).uns["scpretrain"]["warnings"][0]
    assert ad.read_h5ad(out).obs["scpretrain_confidence"].max() <= 0.5 + 1e-6
    assert run(*line, "--out", out, "--unknown") == 0
    found = ad.read_h5ad(out).obs
    assert (found["scpretrain_cell_type"] == "Unknown").all()
    assert found["scpretrain_unknown_group"].astype(str).str.match(r"Unknown \d").all()


def test_half_of_a_dataset_labels_the_other_without_alarm(files, capsys):
    atlas = world(1, 80)
    atlas[::2].copy().write_h5ad(files / "one.h5ad")
    atlas[1::2].copy().write_h5ad(files / "two.h5ad")
    out = files / "out.h5ad"
    line = ["--query", files / "one.h5ad", "--reference", files / "two.h5ad", "--label_key", "cell_type", "--out", out]
    assert annotate.main([*map(str, line), "--unknown", "--no-umap"]) == 0
    assert (ad.read_h5ad(out).obs["scpretrain_cell_type"] == "Unknown").mean() < 0.12
    assert "about 5 % are expected" in out.with_suffix(".html").read_text()
    assert run(*line) == 0
    assert "world" not in capsys.readouterr().out


def test_few_shared_genes_are_warned_of_where_fewest_are(files, capsys):
    one, two = world(1), world(2)
    one.var_names = [f"X{name}" if i > 60 else name for i, name in enumerate(one.var_names)]
    one.write_h5ad(files / "one.h5ad")
    two[:, :200].copy().write_h5ad(files / "two.h5ad")
    line = ["--query", files / "one.h5ad", "--reference", files / "two.h5ad", "--label_key", "cell_type"]
    assert run(*line, "--out", files / "out.h5ad") == 0
    said = capsys.readouterr().out
    assert "warning: two: only 61 of its 200 genes (30%)" in said and "warning: one: only" not in said


def test_two_references_bring_the_types_of_both(files):
    world(3, types=TYPES[:2]).write_h5ad(files / "one.h5ad")
    world(4, types=TYPES[1:]).write_h5ad(files / "two.h5ad")
    out = files / "out.h5ad"
    line = ["--query", files / "few.h5ad", "--reference", files / "one.h5ad", files / "two.h5ad"]
    assert run(*line, "--label_key", "cell_type", "--out", out) == 0
    assert same(ad.read_h5ad(out)) > 0.9


@pytest.mark.parametrize("which", ["query", "reference"])
def test_a_file_with_ids_only_takes_the_symbols_of_the_other_file(files, which, capsys):
    query, reference = world(2), world(1)
    query.obs["truth"] = query.obs.pop("cell_type")
    ids = [f"ENSG{i:011}" for i in range(query.n_vars)]
    bare, both = (query, reference) if which == "query" else (reference, query)
    bare.var_names = [f"{one}.3" for one in ids]
    both.var["gene_ids"] = ids
    query.write_h5ad(files / "cells.h5ad")
    reference.write_h5ad(files / "labelled.h5ad")
    line = ["--query", files / "cells.h5ad", "--reference", files / "labelled.h5ad", "--label_key", "cell_type"]
    assert run(*line, "--out", files / "out.h5ad") == 0
    assert f"the symbols of {len(ids):,} of its {len(ids):,} Ensembl ids" in capsys.readouterr().out
    found = ad.read_h5ad(files / "out.h5ad")
    assert same(found) > 0.95 and list(found.var_names) == list(query.var_names)


def test_embed_only_gives_the_embedding_and_no_labels(files):
    assert run("--query", files / "few.h5ad", "--out", files / "out.h5ad", "--embed_only") == 0
    found = ad.read_h5ad(files / "out.h5ad")
    assert not [name for name in found.obs if name.startswith("scpretrain")]
    assert found.obsm["X_scpretrain"].shape[0] == 120


def test_the_stored_embedding_is_that_of_the_cells_alone_also_beside_references(files):
    assert run("--query", files / "few.h5ad", "--out", files / "alone.h5ad", "--embed_only") == 0
    line = ["--query", files / "few.h5ad", "--reference", files / "atlas.h5ad", "--label_key", "cell_type"]
    assert run(*line, "--out", files / "beside.h5ad") == 0
    alone, beside = (ad.read_h5ad(files / name).obsm["X_scpretrain"] for name in ("alone.h5ad", "beside.h5ad"))
    np.testing.assert_allclose(alone, beside, rtol=1e-4, atol=1e-4)


def test_the_same_command_twice_gives_the_same_cells(files):
    line = ["--query", files / "few.h5ad", "--label_key", "cell_type", "--unlabeled", "Unknown", "--unknown"]
    assert run(*line, "--out", files / "a.h5ad") == run(*line, "--out", files / "b.h5ad") == 0
    assert (files / "a.csv").read_text() == (files / "b.csv").read_text()


def test_a_type_nobody_labelled_becomes_unknown(files):
    cells = few(world(5, 80), 30)
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str).where(cells.obs["truth"] != "Mono", "Unknown")
    cells.write_h5ad(files / "new.h5ad")
    line = ["--query", files / "new.h5ad", "--label_key", "cell_type", "--unlabeled", "Unknown"]
    assert run(*line, "--out", files / "out.h5ad", "--unknown", "0.05") == 0
    found = ad.read_h5ad(files / "out.h5ad").obs
    unknown = found["scpretrain_cell_type"] == "Unknown"
    new = found["truth"] == "Mono"
    assert unknown[new].mean() > 0.8 and unknown[~new].mean() < 0.15


def test_blocks_give_what_the_whole_gives(files, monkeypatch):
    line = ["--query", files / "few.h5ad", "--label_key", "cell_type", "--unlabeled", "Unknown"]
    assert run(*line, "--out", files / "a.h5ad") == 0
    monkeypatch.setattr(outcome, "BLOCK", 7)
    assert run(*line, "--out", files / "b.h5ad") == 0
    a, b = ad.read_h5ad(files / "a.h5ad"), ad.read_h5ad(files / "b.h5ad")
    assert list(a.obs["scpretrain_cell_type"]) == list(b.obs["scpretrain_cell_type"])
    np.testing.assert_allclose(a.obsm["X_scpretrain"], b.obsm["X_scpretrain"], rtol=1e-4, atol=1e-4)


def test_a_sample_is_learnt_from_where_there_are_many_cells(files, monkeypatch):
    monkeypatch.setattr(labeller, "FIT", 90)
    line = ["--query", files / "few.h5ad", "--label_key", "cell_type", "--unlabeled", "Unknown", "--unknown"]
    assert run(*line, "--out", files / "out.h5ad") == 0
    found = ad.read_h5ad(files / "out.h5ad")
    assert found.uns["scpretrain"]["cells_learnt_from"] == 90 and same(found) > 0.9


def test_suggested_cells_are_cells_without_a_label(files):
    line = ["--query", files / "few.h5ad", "--label_key", "cell_type", "--unlabeled", "Unknown", "--suggest", 6]
    assert run(*line, "--out", files / "out.h5ad") == 0
    table = pd.read_csv(files / "out.suggest.csv")
    old = ad.read_h5ad(files / "few.h5ad").obs["cell_type"]
    assert len(set(table["cell"])) == 6 and (old[table["cell"]] == "Unknown").all()


def test_empty_cells_are_kept_and_unknown(files):
    cells = ad.read_h5ad(files / "few.h5ad")
    values = cells.X.toarray()
    values[[30, 70]] = 0
    cells.X = csr_matrix(values)
    cells.write_h5ad(files / "empty.h5ad")
    line = ["--query", files / "empty.h5ad", "--label_key", "cell_type", "--unlabeled", "Unknown"]
    assert run(*line, "--out", files / "out.h5ad") == 0
    found = ad.read_h5ad(files / "out.h5ad")
    assert list(found.obs["scpretrain_cell_type"].iloc[[30, 70]]) == ["Unknown"] * 2 and found.n_obs == 120


def test_a_query_of_one_cell_is_labelled_from_a_reference(files):
    world(6)[:1].copy().write_h5ad(files / "one.h5ad")
    line = ["--query", files / "one.h5ad", "--reference", files / "atlas.h5ad", "--label_key", "cell_type"]
    assert run(*line, "--out", files / "out.h5ad", "--umap") == 0
    assert list(ad.read_h5ad(files / "out.h5ad").obs["scpretrain_cell_type"]) == ["B cell"]


@pytest.mark.parametrize("kind", ["csv", "cellblast", "10x"])
def test_other_formats_come_out_as_h5ad(files, kind):
    cells = world(7, 20)
    path = files / {"csv": "cells.csv", "cellblast": "cells.h5", "10x": "cells10x.h5"}[kind]
    if kind == "csv":
        cells.to_df().to_csv(path)
    else:
        text = lambda names: np.array([str(name) for name in names], dtype="S")  # noqa: E731
        with h5py.File(path, "w") as file:
            group = file.create_group("exprs" if kind == "cellblast" else "matrix")
            for name in ("data", "indices", "indptr"):
                group[name] = getattr(cells.X, name)
            if kind == "cellblast":
                group["shape"] = cells.shape
                file["var_names"], file["obs_names"] = text(cells.var_names), text(cells.obs_names)
                file.create_group("obs")["cell_ontology_class"] = text(cells.obs["cell_type"])
            else:
                group["shape"], group["barcodes"] = cells.shape[::-1], text(cells.obs_names)
                features = group.create_group("features")
                features["id"], features["name"] = text([f"ENSG{i:011}" for i in range(300)]), text(cells.var_names)
                features["feature_type"] = text(["Gene Expression"] * 300)
    line = ["--query", path, "--reference", files / "atlas.h5ad", "--label_key", "cell_type", "--out", files / "o.h5ad"]
    assert run(*line) == 0
    found = ad.read_h5ad(files / "o.h5ad")
    assert (found.X != cells.X).nnz == 0 and list(found.var_names) == GENES
    assert (found.obs["scpretrain_cell_type"].astype(str).to_numpy() == cells.obs["cell_type"].to_numpy()).mean() > 0.9


def test_log_values_and_raw_counts_get_the_same_labels(files):
    cells = ad.read_h5ad(files / "few.h5ad")
    total = cells.X.sum(axis=1)
    cells.X = csr_matrix(np.log1p(cells.X.toarray() / np.asarray(total) * 1e4))
    cells.write_h5ad(files / "log.h5ad")
    line = ["--label_key", "cell_type", "--unlabeled", "Unknown"]
    for name in ("few", "log"):
        assert run("--query", files / f"{name}.h5ad", *line, "--out", files / f"{name}_out.h5ad") == 0
    one, two = (ad.read_h5ad(files / f"{name}_out.h5ad").obs["scpretrain_cell_type"] for name in ("few", "log"))
    assert (one.astype(str) == two.astype(str)).mean() > 0.97


def test_the_kinds_of_values_are_those_that_can_be_read():
    assert set(flags.VALUES) == set(q.normalize.NAMED)
    assert flags.EXPLORED == wishes.GROUPS


# -- from nothing to labels ----------------------------------------------------------------
def explored(files, *words):
    """An unlabelled file, explored into 6 groups: the table of cells."""
    cells = world(3)
    cells.obs["truth"] = cells.obs.pop("cell_type")
    cells.write_h5ad(files / "cells.h5ad")
    assert run("--query", files / "cells.h5ad", "--out", files / "explored.h5ad", "--explore", 6, *words) == 0
    return pd.read_csv(files / "explored.csv", index_col=0).assign(truth=cells.obs["truth"])


def name_groups(files, table, column="group", text="# groups: explored.csv\n"):
    """The file of labels that a perfect namer saves from the page."""
    kind = table.groupby("group")["truth"].agg(lambda truth: truth.value_counts().index[0])
    if column == "cell":
        kind = table["group"].map(kind)
    (files / "explored.labels.csv").write_text(text + kind.rename("cell_type").to_csv(index_label=column))
    return files / "explored.labels.csv"


def test_explore_gives_groups_their_genes_and_what_to_type_next(files, capsys):
    table = explored(files)
    said = capsys.readouterr().out
    assert "adjusted Rand index" in said and "group 1: " in said
    found = ad.read_h5ad(files / "explored.h5ad")
    assert set(table["group"]) == set(range(1, 7)) and table.groupby("group")["truth"].nunique().max() == 1
    assert list(found.obs["scpretrain_group"].astype(str)) == list(table["group"].astype(str))
    assert [name for name in found.obs if name.startswith("scpretrain")] == ["scpretrain_group"]
    genes = pd.read_csv(files / "explored.markers.csv")
    assert list(genes.columns[:2]) == ["group", "gene"] and len(found.uns["scpretrain"]["groups"]) == 6


@pytest.mark.parametrize("column", ["group", "cell"])
def test_the_groups_are_named_and_the_second_command_labels_every_cell(files, column):
    labels = name_groups(files, explored(files), column)
    for query in ("cells.h5ad", "explored.h5ad"):
        out = files / "annotated.h5ad"
        assert run("--query", files / query, "--labels", labels, "--out", out) == 0
        found = ad.read_h5ad(out)
        assert same(found) == 1 and found.obs["scpretrain_known"].all()


def test_labels_of_a_few_cells_in_a_file_label_the_rest(files):
    table = explored(files)
    some = table.groupby("truth", observed=True).head(5)["truth"]
    some.rename("cell_type").to_csv(files / "labels.csv", index_label="cell")
    line = ["--query", files / "cells.h5ad", "--labels", files / "labels.csv", "--out", files / "out.h5ad"]
    assert run(*line) == 0
    found = ad.read_h5ad(files / "out.h5ad")
    assert same(found) > 0.97 and found.obs["scpretrain_known"].sum() == 15


def test_the_file_of_labels_goes_before_the_column(files, capsys):
    cells = ad.read_h5ad(files / "few.h5ad")
    (files / "labels.csv").write_text("cell,cell_type\ncell0,T cell\ncell1,B cell\ncell999,Mono\n")
    line = ["--query", files / "few.h5ad", "--label_key", "cell_type", "--unlabeled", "Unknown"]
    assert run(*line, "--labels", files / "labels.csv", "--out", files / "out.h5ad") == 0
    said = capsys.readouterr().out
    assert "differ in 1 cells" in said and "1 is not in few (cell999)" in said
    found = ad.read_h5ad(files / "out.h5ad").obs
    assert found["scpretrain_cell_type"].iloc[0] == "T cell" and cells.obs["cell_type"].iloc[0] == "B cell"


def marker_file(files, *more):
    """The five genes that set each type of the world apart most, and rows of types that are not there."""
    x, types = world(0).X.toarray(), np.repeat(np.arange(3), 40)
    means = np.stack([x[types == k].mean(axis=0) for k in range(3)])
    rows = ["type,gene", *more]
    for k, name in enumerate(TYPES):
        others = np.delete(means, k, axis=0).max(axis=0)
        rows += [f"{name},{GENES[g]}" for g in np.argsort(-(means[k] - others) / (others + 0.5))[:5]]
    (files / "markers.csv").write_text("\n".join(rows) + "\n")
    return files / "markers.csv"


def test_marker_genes_alone_label_cells_and_a_type_that_is_not_there_is_left_out(files, capsys):
    explored(files)
    capsys.readouterr()
    markers = marker_file(files, f"Ghost,{GENES[7]}", "Ghost,NOSUCHGENE")
    out = files / "out.h5ad"
    assert run("--query", files / "cells.h5ad", "--markers", markers, "--out", out) == 0
    found, said = ad.read_h5ad(out), capsys.readouterr().out
    assert same(found) > 0.95 and not found.obs["scpretrain_known"].any()
    assert "not measured: NOSUCHGENE" in said
    assert "Ghost" not in set(found.obs["scpretrain_cell_type"]) and "surely of type Ghost" in said


def test_marker_genes_propose_names_for_groups(files):
    explored(files)
    line = ["--query", files / "cells.h5ad", "--explore", 3, "--markers", marker_file(files)]
    assert run(*line, "--out", files / "out.h5ad") == 0
    table = ad.read_h5ad(files / "out.h5ad").uns["scpretrain"]["groups"]
    assert set(table["proposed"]) == set(TYPES)


@pytest.mark.parametrize(
    "flag, text, words",
    [
        ("labels", "", "it is empty"),
        ("labels", "name,kind\na,T\n", "its columns are name, kind"),
        ("labels", "cell,cell_type\ncell0,T\ncell1,T\n", "only one cell type, 'T'"),
        ("labels", "cell,cell_type\ncell0,T\ncell1,unknown\n", "--unlabeled"),
        ("labels", "group,cell_type\n1,T\n47,B\n", "there is no group 47"),
        ("labels", "cell,cell_type\nx,T\ny,B\n", "none of its 2 cells"),
        ("markers", "type,gene\nT,ENSG1\nB,ENSG2\n", "none of its 2 genes"),
        ("markers", "type,gene\nT,CD3D\n", "only one type"),
    ],
)
def test_tables_that_cannot_be_used_are_one_clear_line(files, capsys, flag, text, words):
    explored(files)
    (files / "table.csv").write_text(text)
    before = sorted(files.iterdir())
    line = ["--query", files / "explored.h5ad", f"--{flag}", files / "table.csv", "--out", files / "out.h5ad"]
    assert run(*line) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and words in error and "table.csv" in error
    assert sorted(files.iterdir()) == before


@pytest.mark.parametrize(
    "words, said",
    [
        (["--explore", "--unknown"], "leave --unknown out"),
        (["--explore", "--probabilities"], "leave --probabilities out"),
        (["--explore", "-3"], "--explore: must be at least 1"),
        (["--explore", "0"], "--explore: must be at least 1"),
        (["--explore", "--embed_only"], "leave one of them out"),
        (["--explore", "--reference", "atlas.h5ad"], "leave --reference out"),
    ],
)
def test_explore_refuses_what_needs_labels(files, capsys, words, said):
    words = [files / word if word.endswith("h5ad") else word for word in words]
    with pytest.raises(SystemExit) as end:
        run("--query", files / "few.h5ad", "--out", files / "out.h5ad", *words)
    assert end.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["--explore", "--embed_only"])
def test_a_column_that_is_not_there_is_refused_also_where_no_label_is_learnt_from(files, capsys, mode):
    line = ["--query", files / "few.h5ad", "--out", files / "out.h5ad", mode, "--label_key"]
    assert run(*line, "nothere") == 2
    assert "no column 'nothere'" in capsys.readouterr().err and not (files / "out.h5ad").exists()
    assert run(*line, "cell_type") == 0


def test_markers_that_are_not_measured_are_told_before_anything_is_learnt(files, capsys):
    (files / "markers.csv").write_text("type,gene\nT,NOSUCH1\nB,NOSUCH2\n")
    line = ["--query", files / "few.h5ad", "--out", files / "out.h5ad", "--markers", files / "markers.csv"]
    for words in ([], ["--explore"]):
        assert run(*line, *words) == 2
        said = capsys.readouterr()
        assert "none of its 2 genes" in said.err and "pre-training" not in said.out


def test_files_of_an_earlier_run_beside_the_output_are_pointed_out(files, capsys):
    line = ["--query", files / "few.h5ad", "--label_key", "cell_type", "--out", files / "out.h5ad"]
    assert run(*line, "--suggest", 2) == 0
    assert "earlier run" not in capsys.readouterr().out
    assert run(*line) == 0
    assert "warning: out.suggest.csv beside it: of an earlier run" in capsys.readouterr().out


def test_the_screen_shows_forty_groups_at_most_and_counts_the_rest(files, capsys, monkeypatch):
    monkeypatch.setattr("annotation.page.GROUPS_SAID", 2)
    explored(files)
    said = capsys.readouterr().out
    assert "group 2: " in said and "group 3: " not in said and "and 4 smaller groups" in said


def test_beside_explore_each_suggested_cell_is_told_with_its_group(files):
    table = explored(files, "--suggest", 5)
    suggested = pd.read_csv(files / "explored.suggest.csv", index_col="cell")
    assert list(suggested["group"]) == list(table["group"][suggested.index]) and suggested["alike"].is_unique


def test_a_folder_of_orthologs_that_is_not_there_is_refused(files, capsys):
    line = ["--query", files / "few.h5ad", "--out", files / "out.h5ad", "--embed_only", "--data_dir", files / "nodir"]
    assert run(*line) == 2
    assert "nodir is not a folder" in capsys.readouterr().err


def test_all_probabilities_are_written_on_request(files):
    line = ["--query", files / "few.h5ad", "--label_key", "cell_type", "--unlabeled", "Unknown", "--probabilities"]
    assert run(*line, "--out", files / "out.h5ad") == 0
    found, table = ad.read_h5ad(files / "out.h5ad"), pd.read_csv(files / "out.probabilities.csv", index_col=0)
    assert list(table.columns) == sorted(TYPES) and list(table.index) == list(found.obs_names)
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(table, found.obsm["scpretrain_probabilities"], atol=1e-4)
    likeliest = np.array(table.columns)[table.to_numpy().argmax(axis=1)]
    assert list(likeliest) == list(found.obs["scpretrain_cell_call"].astype(str))


def test_unknown_has_no_confidence_and_markers_of_its_own(files):
    cells = few(world(5, 80), 30)
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str).where(cells.obs["truth"] != "Mono", "Unknown")
    cells.write_h5ad(files / "new.h5ad")
    line = ["--query", files / "new.h5ad", "--label_key", "cell_type", "--unlabeled", "Unknown"]
    assert run(*line, "--out", files / "out.h5ad", "--unknown", "0.05") == 0
    found = ad.read_h5ad(files / "out.h5ad")
    unknown = (found.obs["scpretrain_cell_type"] == "Unknown").to_numpy()
    assert unknown.any() and (found.obs["scpretrain_confidence"].isna() == unknown).all()
    table = pd.read_csv(files / "out.markers.csv")
    assert set(table["type"]) == {"B cell", "T cell", "Unknown"} and (table["detected_out"] <= 0.3).all()
    assert list(found.uns["scpretrain"]["markers"]["gene"]) == list(table["gene"])


def test_unknown_cells_of_two_kinds_are_groups_with_markers_of_their_own(files, capsys):
    cells = few(world(5, 80), 30)
    kept = cells.obs["truth"].astype(str) == "B cell"
    other = other_organ(3, 80)
    other.obs["cell_type"], other.obs["truth"] = "Unknown", [f"new {i % 3}" for i in range(80)]
    mono = cells[cells.obs["truth"].astype(str) == "Mono"].copy()
    mono.obs["cell_type"] = "Unknown"
    t = cells[cells.obs["truth"].astype(str) == "T cell"].copy()
    other = other[[i for i in range(80) if i % 3 == 0]]
    mixed = ad.concat([cells[kept.to_numpy()], t, mono, other], index_unique="-", keys=list("abcd"))
    mixed.write_h5ad(files / "new.h5ad")
    line = ["--query", files / "new.h5ad", "--label_key", "cell_type", "--unlabeled", "Unknown"]
    assert run(*line, "--out", files / "out.h5ad", "--unknown", "0.05") == 0
    found = ad.read_h5ad(files / "out.h5ad").obs
    named = found["scpretrain_unknown_group"].astype(object).fillna("")
    both = pd.crosstab(found["truth"], named)
    assert both.loc["Mono", "Unknown 1":].idxmax() != both.loc["new 0", "Unknown 1":].idxmax()
    table = pd.read_csv(files / "out.markers.csv")
    assert {"Unknown", "Unknown 1", "Unknown 2"} <= set(table["type"])
    assert "Unknown cells in groups: Unknown 1: " in capsys.readouterr().out


def test_a_type_of_too_few_reference_cells_is_warned_of(files, capsys):
    atlas = world(1, 80)
    atlas[[i for i in range(atlas.n_obs) if i < 163]].copy().write_h5ad(files / "thin.h5ad")
    line = ["--query", files / "few.h5ad", "--reference", files / "thin.h5ad", "--label_key", "cell_type"]
    assert run(*line, "--out", files / "out.h5ad") == 0
    assert "under 10 labelled cells of Mono (3): too few" in capsys.readouterr().out
    line[3] = files / "atlas.h5ad"
    assert run(*line, "--out", files / "out.h5ad") == 0
    assert "too few to know" not in capsys.readouterr().out


def test_batches_of_a_reference_are_held_out_whole_and_a_wrong_column_is_told(files, capsys, monkeypatch):
    atlas = world(1, 80)
    atlas.obs["donor"] = np.where(np.arange(atlas.n_obs) % 3 == 0, "d1", "d2")
    atlas.write_h5ad(files / "two.h5ad")
    seen, held_out = [], road.held_out
    monkeypatch.setattr(road, "held_out", lambda p, e, labels, batch, *rest: seen.append(batch) or held_out(
        p, e, labels, batch, *rest))  # fmt: skip
    line = ["--query", files / "few.h5ad", "--reference", files / "two.h5ad", "--label_key", "cell_type"]
    line += ["--out", files / "out.h5ad", "--no-umap", "--no-report"]
    assert annotate.main([*map(str, line), "--batch_key", "donor", "--unknown"]) == 0
    assert {name.split()[-1] for name in seen[0]} == {"d1", "d2"}
    assert annotate.main([*map(str, line), "--batch_key", "dnor"]) == 2
    assert "no column 'dnor' to take batches from" in capsys.readouterr().err


@pytest.mark.parametrize("most", [90, 20_000])
def test_the_page_is_handed_groups_genes_and_the_next_command(files, monkeypatch, most):
    monkeypatch.setattr(labeller, "FIT", most)  # of fewer cells: the others' values are read again
    handed = []
    monkeypatch.setattr(annotate.report, "write_report", lambda path, page: handed.append(page) or path.touch())
    explored(files)  # makes cells.h5ad
    words = ["--query", files / "cells.h5ad", "--out", files / "explored.h5ad", "--explore", 5, "--species", "human"]
    assert annotate.main([str(word) for word in [*words, "--offline", "--no-umap"]]) == 0
    page, cells = handed[0], ad.read_h5ad(files / "cells.h5ad")
    table = pd.read_csv(files / "explored.csv", index_col=0)
    assert list(page.group) == list(table["group"]) and page.groups["n"].sum() == 120 and not page.called
    assert all(set(look) <= set(table.index[table["group"] == k]) for k, look in zip(
        page.groups["group"], page.groups["suggested"], strict=True))  # fmt: skip
    assert [set(gene) for gene in page.groups["genes"][0]] == [{"gene", "inside", "outside"}] * 5
    names, values = page.genes
    expected = np.log1p(cells.X.toarray() / cells.X.sum(axis=1) * 1e4)[:, [GENES.index(name) for name in names]]
    np.testing.assert_allclose(values.toarray(), expected, rtol=1e-5)
    assert (page.save_as, page.groups_file) == ("explored.labels.csv", "explored.csv")
    line = f"python annotate.py --query {files}/cells.h5ad --labels {{labels}} --out {files}/annotated.h5ad"
    assert page.next_command == f"{line} --species human --offline"


# -- what goes wrong ----------------------------------------------------------------
def spoil(files, change) -> "ad.AnnData":
    cells = ad.read_h5ad(files / "few.h5ad")
    cells = change(cells) or cells
    cells.write_h5ad(files / "bad.h5ad")
    return files / "bad.h5ad"


def set_labels(values):
    def change(cells):
        cells.obs["cell_type"] = values(cells)

    return change  # fmt: skip


def negative(cells):
    cells.X = csr_matrix(cells.X.toarray() - 1)


def nan(cells):
    cells.X.data[3] = np.nan


def twice(cells):
    cells.obs_names = ["cell0", "cell0", *cells.obs_names[2:]]


def same_gene(cells):
    cells.var_names = [GENES[0], GENES[0], *GENES[2:]]


def no_gene_name(cells):
    cells.var_names = ["", *GENES[1:]]


def drop_column(cells):
    del cells.obs["cell_type"]


@pytest.mark.parametrize(
    "change, words",
    [
        (drop_column, "truth"),  # the candidates are listed
        (set_labels(lambda c: ["B cell"] * c.n_obs), "only one cell type"),
        (set_labels(lambda c: ["Unknown"] * c.n_obs), "no cell is left with a label"),
        (set_labels(lambda c: np.where(np.arange(c.n_obs) % 2, "unknown", "B cell")), "only one cell type"),
        (twice, "obs_names_make_unique"),
        (same_gene, "var_names_make_unique"),
        (no_gene_name, "empty gene name"),
        (negative, "negative"),
        (nan, "NaN"),
    ],
)
def test_bad_input_is_one_clear_line_and_nothing_is_written(files, capsys, change, words):
    path = spoil(files, change)
    line = ["--query", path, "--label_key", "cell_type", "--unlabeled", "Unknown", "--out", files / "out.h5ad"]
    before = sorted(files.iterdir())
    assert run(*line) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and words in error and "bad" in error
    assert sorted(files.iterdir()) == before


@pytest.mark.parametrize(
    "out, words",
    [("few.h5ad", "would overwrite"), ("out.csv", "must end in .h5ad"), ("closed/out.h5ad", "cannot be written")],
)
def test_an_output_that_cannot_be_is_refused_first(files, capsys, out, words):
    (files / "closed").mkdir(mode=0o500)
    before = (files / "few.h5ad").read_bytes()
    line = ["--query", files / "few.h5ad", "--label_key", "cell_type", "--unlabeled", "Unknown", "--out", files / out]
    assert run(*line) == 2
    assert words in capsys.readouterr().err and (files / "few.h5ad").read_bytes() == before


def test_a_reference_without_common_genes_is_named(files, capsys):
    world(8, genes=[f"ENSMUSG{i:011}" for i in range(300)]).write_h5ad(files / "mouse.h5ad")
    line = ["--query", files / "few.h5ad", "--reference", files / "mouse.h5ad", "--label_key", "cell_type"]
    assert run(*line, "--out", files / "out.h5ad") == 2
    error = capsys.readouterr().err
    assert "no gene in common" in error and "mouse Ensembl ids" in error and not (files / "out.h5ad").exists()


def test_labels_may_be_numbers_categories_unicode_or_missing(files):
    cells = ad.read_h5ad(files / "few.h5ad")
    names = {"B cell": "Zelle-β", "T cell": "细胞 T", "Mono": "φαγ 🦠"}
    cells.obs["cell_type"] = pd.Categorical([names.get(label) for label in cells.obs["cell_type"]])
    cells.obs["number"] = pd.Series(cells.obs["truth"]).map({"B cell": 1.0, "T cell": 2.0, "Mono": 3.0}).to_numpy()
    cells.obs.loc[cells.obs["cell_type"].isna(), "number"] = np.nan
    cells.obs_names = [f"Zellé{i}" for i in range(cells.n_obs)]
    cells.write_h5ad(files / "names.h5ad")
    for key, types in (("cell_type", set(names.values())), ("number", {"1", "2", "3"})):
        assert run("--query", files / "names.h5ad", "--label_key", key, "--out", files / "out.h5ad") == 0
        found = ad.read_h5ad(files / "out.h5ad").obs
        assert set(found["scpretrain_cell_type"]) == types


def test_force_goes_on_with_doubled_genes(files):
    path = spoil(files, same_gene)
    line = ["--query", path, "--label_key", "cell_type", "--unlabeled", "Unknown", "--out", files / "out.h5ad"]
    assert run(*line, "--force") == 0


@pytest.mark.parametrize("where", ["index", "column", "part"])
def test_doubled_symbols_are_usual_beside_ids_only_and_no_name_of_a_layer_changes_that(files, capsys, where):
    cells, symbols = ad.read_h5ad(files / "few.h5ad"), [GENES[0], GENES[0], *GENES[2:]]
    ids = [f"ENSG{i:011}" for i in range(len(GENES))]
    if where == "column":
        cells.var_names, cells.var["gene_symbols"] = ids, symbols
    else:
        cells.var_names = symbols if where == "index" else [f"{a}_{b}" for a, b in zip(ids, symbols, strict=True)]
    cells.layers["10x mtx var column"] = cells.X
    del cells.X
    cells.write_h5ad(files / "in.h5ad")
    line = ["--query", files / "in.h5ad", "--label_key", "cell_type", "--unlabeled", "Unknown"]
    assert run(*line, "--out", files / "out.h5ad") == (2 if where == "index" else 0)
    said = capsys.readouterr()
    assert f"1 doubled gene names ({GENES[0]} ...)" in said.out + said.err


# -- from Python ----------------------------------------------------------------
def test_the_function_does_what_the_command_does_and_leaves_its_argument_alone(files):
    cells = ad.read_h5ad(files / "few.h5ad")
    columns = list(cells.obs)
    found = annotate.annotate(cells, label_key="cell_type", unlabeled="Unknown", umap=False, verbose=False)
    assert list(cells.obs) == columns and not cells.obsm
    line = ["--query", files / "few.h5ad", "--label_key", "cell_type", "--unlabeled", "Unknown"]
    assert run(*line, "--out", files / "out.h5ad") == 0
    other = ad.read_h5ad(files / "out.h5ad")
    assert list(found.obs["scpretrain_cell_type"]) == list(other.obs["scpretrain_cell_type"])
    np.testing.assert_allclose(found.obsm["X_scpretrain"], other.obsm["X_scpretrain"], rtol=1e-5, atol=1e-5)
    found.write_h5ad(files / "again.h5ad")


def test_the_function_takes_references(files):
    found = annotate.annotate(few(world(9)), [world(10), world(11)], label_key="cell_type", umap=False, verbose=False)
    assert same(found) > 0.95


def test_a_backed_file_is_annotated_in_memory_and_stays_as_it_is(files):
    before = (files / "few.h5ad").read_bytes()
    cells = ad.read_h5ad(files / "few.h5ad", backed="r")
    found = annotate.annotate(cells, label_key="cell_type", unlabeled="Unknown", umap=False, verbose=False)
    cells.file.close()
    assert same(found) > 0.97 and not found.isbacked and (files / "few.h5ad").read_bytes() == before


def test_what_cannot_be_copied_is_found_out_before_anything_is_learnt(monkeypatch):
    def refuse(self):
        raise ValueError("no copy")

    monkeypatch.setattr(ad.AnnData, "copy", refuse)
    monkeypatch.setattr(annotate, "annotate_cells", lambda *_: pytest.fail("it had begun to work"))
    with pytest.raises(ValueError, match="no copy"):
        annotate.annotate(world(), label_key="cell_type", verbose=False)


def test_the_function_is_silent_on_request_even_of_libraries(files, capfd):
    alone = world(6)[:1].copy()  # scikit-learn warns of one sample
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        annotate.annotate(alone, world(1), label_key="cell_type", verbose=False)
        annotate.annotate(few(world()), label_key="cell_type", unlabeled="Unknown", verbose=False)
    said = capfd.readouterr()
    assert not caught and (said.out, said.err) == ("", "")


def test_the_function_writes_the_page_too(files):
    annotate.annotate(
        few(world()), label_key="cell_type", unlabeled="Unknown", umap=False, verbose=False, report=files / "page.html"
    )
    page = (files / "page.html").read_text()
    assert "<title>page" in page and "T cell" in page


@pytest.mark.parametrize(
    "wish, words",
    [
        ({"unknown": 1.5}, "share of cells"),
        ({"suggest": -1}, "^`suggest` must not be negative"),
        ({"embed_only": True, "reference": [1]}, "leave `reference` out"),
        ({"labels": pd.Series({"cell0": "B cell"}), "reference": [1]}, "leave `reference` out"),
    ],
)
def test_the_function_refuses_what_the_command_refuses(wish, words):
    if "reference" in wish:
        wish = wish | {"reference": world(1)}
    with pytest.raises(ValueError, match=words):
        annotate.annotate(few(world()), verbose=False, **wish)


def test_the_function_explores_and_takes_labels_from_a_table_or_a_dict(files):
    cells = world(3)
    cells.obs["truth"] = cells.obs.pop("cell_type")
    found = annotate.annotate(cells, explore=6, umap=False, verbose=False)
    assert found.obs["scpretrain_group"].nunique() == 6
    labels = found.obs["truth"].groupby(found.obs["truth"], observed=True).head(4)
    named = annotate.annotate(cells, labels=labels, umap=False, verbose=False)
    assert same(named) > 0.97 and named.obs["scpretrain_known"].sum() == 12
    kinds = found.obs.groupby("scpretrain_group", observed=True)["truth"].agg(lambda truth: truth.mode()[0])
    named = annotate.annotate(found, labels={int(group): kind for group, kind in kinds.items()}, verbose=False)
    assert same(named) == 1


def test_the_function_names_a_missing_file_and_asks_for_no_orthologs_of_one_species(tmp_path, capsys):
    for what in ("labels", "markers"):
        with pytest.raises(
            FileNotFoundError, match=f"nothere.csv, a table of {what.replace('markers', 'marker genes')}"
        ):
            annotate.annotate(few(world()), **{what: tmp_path / "nothere.csv"})
    annotate.annotate(few(world()), embed_only=True, umap=False, data_dir=tmp_path)
    assert "ortholog" not in capsys.readouterr().out


# -- gene names, by property ----------------------------------------------------------------
symbols = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-", min_size=2, max_size=8).map(lambda word: "G" + word)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(symbols, min_size=1, max_size=30, unique=True), st.data())
def test_genes_match_whatever_their_order_and_case(genes, data):
    table = {gene: f"M{gene}" for gene in genes[::3]}
    mixed = data.draw(st.permutations(genes))
    spelled = [gene.lower() if data.draw(st.booleans()) else gene for gene in mixed]
    one, two = (decided(names, table) for names in (genes, spelled))
    assert set(one.genes) == set(two.genes) == {table.get(gene, gene) for gene in genes}
    assert len(two.genes) == len(two.columns) == len(genes)
    assert [table.get(two.rows.genes[c].upper(), two.rows.genes[c].upper()) for c in two.columns] == two.genes


def decided(genes, table) -> q.Source:
    counts = csr_matrix(np.ones((2, len(genes)), np.float32))
    cells = Cells("d", annotate.Path("d"), counts, list(genes), ["a", "b"])
    rows = RowBlocks("d", annotate.Path("d"), layout_of(cells))
    return q.decide(rows, "X", q.normalize.Values("counts"), table, species="human")


def test_the_report_lies_beside_the_output_and_a_former_one_is_left_alone_without_it(files):
    line = ["--query", files / "few.h5ad", "--label_key", "cell_type", "--unlabeled", "Unknown", "--offline"]
    words = [str(word) for word in [*line, "--out", files / "out.h5ad", "--no-umap"]]
    assert annotate.main(words) == 0
    page = (files / "out.html").read_text()
    assert "T cell" in page and "annotate.py" in page
    assert annotate.main([*words, "--no-report"]) == 0
    assert (files / "out.html").read_text() == page


def test_what_the_page_doubts_is_said_on_the_screen_and_in_uns_too(files, capsys, monkeypatch):
    monkeypatch.setattr("annotation.report.sections.LOW", 1.1)  # no type is sure enough
    line = ["--query", files / "few.h5ad", "--label_key", "cell_type", "--unlabeled", "Unknown", "--no-umap"]
    assert run(*line, "--out", files / "out.h5ad") == 0
    assert "warning: 3 of 3 types have a median confidence under 1.1" in capsys.readouterr().out
    warnings = ad.read_h5ad(files / "out.h5ad").uns["scpretrain"]["warnings"]
    assert any("median confidence under 1.1" in sentence for sentence in warnings)


@pytest.mark.parametrize("column", ["group", "cell", "cell and group"])
def test_a_cell_that_the_name_of_its_group_does_not_fit_is_called_by_its_genes(files, column, capsys):
    table = explored(files)
    astray = table.index[table["truth"] == TYPES[0]][:3]
    table.loc[astray, "group"] = table["group"][table["truth"] == TYPES[1]].iloc[0]
    table[["group"]].to_csv(files / "explored.csv", index_label="cell")
    kind = table.groupby("group")["truth"].agg(lambda truth: truth.value_counts().index[0])
    named = pd.DataFrame({"cell_type": table["group"].map(kind), "group": table["group"]})
    if column == "group":
        kind.rename("cell_type").to_csv(files / "l.csv", index_label="group")
        (files / "l.csv").write_text("# groups: explored.csv\n" + (files / "l.csv").read_text())
    else:
        named[["cell_type", "group"] if "and" in column else ["cell_type"]].to_csv(files / "l.csv", index_label="cell")
    assert run("--query", files / "cells.h5ad", "--labels", files / "l.csv", "--out", files / "out.h5ad") == 0
    found = ad.read_h5ad(files / "out.h5ad").obs.loc[astray]
    if column == "cell":  # every cell was named by itself: that is kept
        assert (found["scpretrain_cell_type"] == TYPES[1]).all() and found["scpretrain_known"].all()
    else:
        assert (found["scpretrain_cell_type"] == TYPES[0]).all() and not found["scpretrain_known"].any()
        assert "3 of 120 cells of named groups" in capsys.readouterr().out
