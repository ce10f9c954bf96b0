"""A labeller kept in a file, shards and their merge.  python -m pytest tests/test_annotate_kept.py"""

import shutil

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from test_annotate import GENES, TYPES, few, run, same, world

import annotate
from annotation import keep, outcome, saved, shards

FEW = ["--label_key", "cell_type", "--unlabeled", "Unknown"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(outcome, "BLOCK", 16)


@pytest.fixture
def files(tmp_path):
    few(world()).write_h5ad(tmp_path / "few.h5ad")
    world(1, depth=2.5).write_h5ad(tmp_path / "atlas.h5ad")
    return tmp_path


def ways(files) -> dict[str, list]:
    """Command lines without --out, by what tells the types."""
    query = ["--query", files / "few.h5ad"]
    atlas = ["--reference", files / "atlas.h5ad", "--label_key", "cell_type"]
    pd.DataFrame({"type": np.repeat(TYPES, 2), "gene": top_genes()}).to_csv(files / "markers.csv", index=False)
    return {
        "own labels": [*query, *FEW],
        "own labels and unknown": [*query, *FEW, "--unknown", "--suggest", "3", "--probabilities"],
        "references": [*query, *atlas],
        "references and unknown": [*query, *atlas, "--unknown"],
        "markers": [*query, "--markers", files / "markers.csv", "--no-consensus"],
    }  # fmt: skip


def full(*words) -> int:
    """The command with map and page."""
    return annotate.main([str(word) for word in (*words, "--offline")])


WAYS = ("own labels", "own labels and unknown", "references", "references and unknown", "markers")


def top_genes() -> list[str]:
    """Two genes of each type, from a deep world."""
    cells = world(50, 60)
    means = np.stack(
        [np.asarray(cells.X[(cells.obs["cell_type"] == name).to_numpy()].mean(axis=0)).ravel() for name in TYPES]
    )
    apart = means - np.sort(means, axis=0)[-2]
    return [GENES[gene] for row in apart for gene in np.argsort(-row)[:2]]


def assert_same(one, other) -> None:
    """Two annotations are the same to the last bit, but for the command and how to reproduce it."""
    a, b = ad.read_h5ad(one), ad.read_h5ad(other)
    pd.testing.assert_frame_equal(a.obs, b.obs, check_exact=True)
    assert set(a.obsm) == set(b.obsm)
    for name in a.obsm:
        np.testing.assert_array_equal(a.obsm[name], b.obsm[name])
    assert_alike(a.uns["scpretrain"], b.uns["scpretrain"])
    beside = {path.name.removeprefix(one.stem) for path in one.parent.glob(f"{one.stem}.*csv")}
    assert beside == {path.name.removeprefix(other.stem) for path in other.parent.glob(f"{other.stem}.*csv")}
    for end in beside:
        assert one.with_name(one.stem + end).read_bytes() == other.with_name(other.stem + end).read_bytes()


def assert_alike(one, other) -> None:
    if isinstance(one, dict):
        assert set(one) == set(other)
        for name in set(one) - {"command"}:
            assert_alike(one[name], other[name])
    elif isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    else:
        np.testing.assert_array_equal(one, other)


def refusal(capsys, *words) -> str:
    """What the command says when it refuses."""
    assert run(*words) == 2
    return capsys.readouterr().err


# -- the same cells ----------------------------------------------------------------
@pytest.mark.parametrize("way", WAYS)
def test_a_kept_labeller_labels_the_query_it_was_learnt_on_bit_for_bit(files, way):
    line = ways(files)[way]
    assert run(*line, "--out", files / "one.h5ad", "--save_labeller", files / "kept.labeller") == 0
    asked = [word for word in line if word in ("--suggest", "3", "--probabilities", "--no-consensus")]
    line = ["--query", files / "few.h5ad", "--labeller", files / "kept.labeller", *asked]
    assert run(*line, "--out", files / "two.h5ad") == 0
    assert_same(files / "one.h5ad", files / "two.h5ad")


@pytest.mark.parametrize("way", WAYS)
def test_shards_merged_are_the_same_as_one_run(files, way):
    line = ways(files)[way]
    drawn = [] if way == "references" else ["--no-umap"]  # a map takes seconds
    assert full(*line, *drawn, "--out", files / "one.h5ad") == 0
    for i in (1, 2, 3):
        assert full(*line, *drawn, "--out", files / "two.h5ad", "--shard", f"{i}/3") == 0
    assert not (files / "two.h5ad").exists()
    assert full(*line, *drawn, "--out", files / "two.h5ad", "--merge") == 0
    assert_same(files / "one.h5ad", files / "two.h5ad")
    assert (files / "two.html").exists()


def test_a_query_of_which_only_some_cells_are_learnt_from_is_merged_alike(files, monkeypatch):
    monkeypatch.setattr(annotate.keep.learn, "FIT", 60)
    monkeypatch.setattr(outcome, "FIT", 60)
    line = ways(files)["own labels and unknown"]
    assert full(*line, "--save_labeller", files / "kept.labeller") == 0
    assert sorted(path.suffix for path in files.iterdir()) == [".csv", ".h5ad", ".h5ad", ".labeller"]
    assert full(*line, "--out", files / "one.h5ad") == 0
    line = ["--query", files / "few.h5ad", "--labeller", files / "kept.labeller", "--suggest", "3", "--probabilities"]
    parts = [shards.path_of(files / "two.h5ad", (i, 2)) for i in (1, 2)]
    for i in (1, 2):
        assert full(*line, "--out", files / "two.h5ad", "--shard", f"{i}/2") == 0
    assert full(*line, "--out", files / "two.h5ad", "--merge", *parts[::-1]) == 0
    assert_same(files / "one.h5ad", files / "two.h5ad")


@pytest.mark.parametrize("kind", ("csv", "zarr"))
def test_queries_of_other_formats_are_sharded_too(files, kind):
    cells = world(2)
    query = files / f"cells.{kind}"
    cells.to_df().to_csv(query) if kind == "csv" else cells.write_zarr(query)
    line = ["--query", query, "--reference", files / "atlas.h5ad", "--label_key", "cell_type"]
    assert run(*line, "--out", files / "one.h5ad", "--save_labeller", files / "kept.labeller") == 0
    line = ["--query", query, "--labeller", files / "kept.labeller", "--out", files / "two.h5ad"]
    for i in (1, 2, 3):
        assert run(*line, "--shard", f"{i}/3") == 0
    assert run(*line, "--merge") == 0
    assert_same(files / "one.h5ad", files / "two.h5ad")


def test_groups_and_plain_embeddings_are_sharded_too(files):
    for name in ("explore", "embed_only"):
        line = ["--query", files / "few.h5ad", f"--{name}", *(["4"] if name == "explore" else [])]
        one, two = files / f"one_{name}.h5ad", files / f"two_{name}.h5ad"
        assert run(*line, "--out", one) == 0
        for i in (1, 2):
            assert run(*line, "--out", two, "--shard", f"{i}/2") == 0
        assert run(*line, "--out", two, "--merge") == 0
        assert_same(one, two)


def test_a_share_without_a_block_is_a_part_all_the_same(files, monkeypatch):
    monkeypatch.setattr(outcome, "BLOCK", 64)
    line = [*ways(files)["own labels"], "--out", files / "two.h5ad"]
    for i in (1, 2, 3):
        assert run(*line, "--shard", f"{i}/3") == 0
    assert run(*line, "--merge") == 0
    assert len(ad.read_h5ad(files / "two.h5ad")) == 120


# -- parts that do not fit ----------------------------------------------------------------
@pytest.fixture
def parted(files):
    """Two parts of one annotation, and the command line."""
    line = [*ways(files)["own labels"], "--out", files / "two.h5ad"]
    for i in (1, 2):
        assert run(*line, "--shard", f"{i}/2") == 0
    return files, line, [shards.path_of(files / "two.h5ad", (i, 2)) for i in (1, 2)]


def test_a_missing_part_a_part_twice_and_a_foreign_part_are_named(parted, capsys):
    files, line, (one, two) = parted
    copy = shutil.copy(two, files / "copy.shard")
    assert "share 2 of 2 is missing" in refusal(capsys, *line, "--merge", one)
    said = refusal(capsys, *line, "--merge", one, two, copy)
    assert "copy.shard" in said and "are both share 2 of 2" in said
    assert run(*line[:-1], files / "three.h5ad", "--shard", "2/3") == 0
    said = refusal(capsys, *line, "--merge", one, files / "three.2of3.shard")
    assert "different divisions" in said and "three.2of3.shard" in said
    assert run(*line[:-1], files / "seed.h5ad", "--seed", "1", "--shard", "2/2") == 0
    said = refusal(capsys, *line, "--merge", one, files / "seed.2of2.shard")
    assert "seed.2of2.shard was labelled by another model" in said and "--save_labeller" in said
    assert "say the same with --merge as with --shard" in refusal(capsys, *line, "--merge", "--no-consensus")
    assert "no part none.1of2.shard" in refusal(capsys, *line[:-1], files / "none.h5ad", "--merge")
    assert not (files / "two.h5ad").exists()


def test_parts_of_another_query_are_refused(parted, capsys):
    files, line, parts = parted
    few(world(cells=30)).write_h5ad(files / "other.h5ad")
    said = refusal(capsys, "--query", files / "other.h5ad", *line[2:], "--merge", *parts)
    assert "two.1of2.shard is of 120 cells, the query has 90" in said


def test_a_damaged_part_is_named_and_nothing_is_written(parted, capsys):
    files, line, parts = parted
    with h5py.File(parts[1], "r+") as file:
        file["embedding"][3, 0] += 1
    said = refusal(capsys, *line, "--merge")
    assert "two.2of2.shard" in said and "checksum" in said and not (files / "two.h5ad").exists()


# -- another sample ----------------------------------------------------------------
def kept_by(files, way: str = "own labels"):
    assert run(*ways(files)[way], "--save_labeller", files / "kept.labeller") == 0
    return files / "kept.labeller"


@pytest.mark.parametrize("way", WAYS)
def test_another_sample_is_labelled_with_what_was_kept(files, way, capsys):
    path = kept_by(files, way)
    cells = world(7, depth=1.5)
    cells.obs["truth"] = cells.obs.pop("cell_type")
    cells.write_h5ad(files / "new.h5ad")
    capsys.readouterr()
    assert run("--query", files / "new.h5ad", "--labeller", path, "--out", files / "out.h5ad") == 0
    said = capsys.readouterr().out
    assert "300 of 300 genes of the labeller present" in said and "not the cells that" in said
    found = ad.read_h5ad(files / "out.h5ad")
    known = (found.obs["scpretrain_cell_type"] != "Unknown").to_numpy()
    assert same(found[known]) > 0.95 and known.mean() > (0.8 if "unknown" in way else 0.99)
    assert not found.obs["scpretrain_known"].any() and found.uns["scpretrain"]["settings"]["labeller"] == str(path)


def test_the_labelled_cells_of_references_are_kept_as_they_are(files):
    words, arrays = keep.load(kept_by(files, "references"))
    lessons, atlas = keep.lessons_in(words, arrays), world(1, depth=2.5)
    assert lessons.genes == [gene.upper() for gene in GENES]
    assert list(np.array(words["classes"])[lessons.labels[0]]) == list(atlas.obs["cell_type"])
    source = annotate.of_adata(atlas, "atlas", {})
    np.testing.assert_array_equal(lessons.parts[0].toarray(), source.log(atlas.X)[0].toarray())


def test_of_own_labels_all_cells_are_kept_and_doubt_about_their_calls_with_them(files):
    cells = few(world(depth=0.05))  # hardly a count: many calls are unsure
    cells.write_h5ad(files / "few.h5ad")
    path = kept_by(files)
    with annotate.spoken(False):
        work = keep.work_with(path, annotate.of_adata(cells, "few", {}), annotate.Wishes())
    (lessons, called), fitted = keep.lessons_of(work), work.labeller.fitted
    known, calls = work.known[fitted.rows], fitted.probabilities.argmax(axis=1)
    np.testing.assert_array_equal(lessons.labels[0], np.where(known >= 0, known, calls))
    assert called == (known < 0).sum() and len(lessons.batch) == len(known)
    right = lessons.truth[0] == lessons.labels[0]
    assert right[known >= 0].all()
    assert abs(right[known < 0].mean() - fitted.probabilities.max(axis=1)[known < 0].mean()) < 0.15
    kept = keep.lessons_in(*keep.load(path))
    np.testing.assert_array_equal(kept.truth[0], lessons.truth[0])


def test_a_new_sample_is_centred_on_itself(files):
    """A batch that adds the same to every cell's genes is met; what was learnt is not shifted along with it."""
    path = kept_by(files)
    cells = few(world(8))
    rng = np.random.default_rng(0)
    cells.X = (cells.X.toarray() * np.exp(rng.normal(0, 0.7, cells.n_vars))).round().astype(np.float32)
    cells.write_h5ad(files / "batch.h5ad")
    assert run("--query", files / "batch.h5ad", "--labeller", path, "--out", files / "out.h5ad") == 0
    assert same(ad.read_h5ad(files / "out.h5ad")) > 0.9


def test_unknown_cells_follow_the_share_that_was_asked_for_when_it_was_learnt(files):
    """As many as with the sample as a reference, whose types are all known."""
    two = world(0, 80, types=TYPES[:2])
    few(two).write_h5ad(files / "few.h5ad")
    two.write_h5ad(files / "atlas.h5ad")
    path = kept_by(files, "own labels and unknown")
    cells = world(9, 80)
    cells.write_h5ad(files / "new.h5ad")
    line = ["--query", files / "new.h5ad"]
    reference = ["--reference", files / "atlas.h5ad", "--label_key", "cell_type", "--unknown"]
    unknown = []
    for words in (["--labeller", path], reference):
        assert run(*line, *words, "--out", files / "out.h5ad") == 0
        strange = ad.read_h5ad(files / "out.h5ad").obs["scpretrain_cell_type"] == "Unknown"
        unknown.append(strange.groupby(cells.obs["cell_type"].to_numpy()).mean())
    assert unknown[0]["Mono"] > 0.8 and unknown[0]["B cell"] < 0.2 and unknown[0]["T cell"] < 0.5
    assert abs(unknown[0] - unknown[1]).max() < 0.2


def test_genes_are_matched_by_name_and_missing_ones_counted(files, capsys):
    path = kept_by(files)
    order = np.random.default_rng(0).permutation(len(GENES))[:200]
    cells = world(7)[:, order].copy()
    cells.obs["truth"] = cells.obs.pop("cell_type")
    cells.write_h5ad(files / "new.h5ad")
    capsys.readouterr()
    assert run("--query", files / "new.h5ad", "--labeller", path, "--out", files / "out.h5ad") == 0
    assert "200 of 300 genes of the labeller present (67%)" in capsys.readouterr().out
    assert same(ad.read_h5ad(files / "out.h5ad")) > 0.9


def test_other_genes_and_another_species_are_refused(files, capsys):
    path = kept_by(files)
    cells = world(7)
    cells.var_names = [f"ZZ{i}" for i in range(len(GENES) - 10)] + GENES[:10]
    cells.write_h5ad(files / "other.h5ad")
    said = refusal(capsys, "--query", files / "other.h5ad", "--labeller", path, "--out", files / "out.h5ad")
    assert "only 10 of the labeller's 300 genes" in said
    cells.var_names = [gene.capitalize() for gene in GENES]
    cells.write_h5ad(files / "mouse.h5ad")
    said = refusal(capsys, "--query", files / "mouse.h5ad", "--labeller", path, "--out", files / "out.h5ad")
    assert "mouse.h5ad" in said and "is of mouse" in said and "learnt on human" in said
    assert not (files / "out.h5ad").exists()


def test_a_gene_is_found_whether_the_ortholog_table_was_there_or_not(files):
    cells = annotate.of_adata(world(), "cells", {"ACD0": "XYZ"})
    assert "XYZ" in cells.genes
    keep.rename(cells, GENES, [gene.upper() for gene in GENES])
    assert cells.genes == [gene.upper() for gene in GENES]


def test_shards_of_another_sample_merge_to_one_run(files):
    path = kept_by(files, "own labels and unknown")
    world(7).write_h5ad(files / "new.h5ad")
    line = ["--query", files / "new.h5ad", "--labeller", path]
    assert run(*line, "--out", files / "one.h5ad") == 0
    assert run(*line, "--save_labeller", files / "here.labeller") == 0
    line[-1] = files / "here.labeller"
    for i in (1, 2):
        assert run(*line, "--out", files / "two.h5ad", "--shard", f"{i}/2") == 0
    assert run(*line, "--out", files / "two.h5ad", "--merge") == 0
    assert_same(files / "one.h5ad", files / "two.h5ad")


def test_the_function_keeps_a_labeller_and_labels_by_it(files):
    how = dict(umap=False, verbose=False)
    path = files / "kept.labeller"
    one = annotate.annotate(few(world()), label_key="cell_type", unlabeled="Unknown", save_labeller=path, **how)
    two = annotate.annotate(few(world()), labeller=path, **how)
    pd.testing.assert_frame_equal(one.obs, two.obs)
    cells = few(world(7))
    assert same(annotate.annotate(cells, labeller=str(path), **how)) > 0.9
    with pytest.raises(ValueError, match="`labeller` brings its encoder"):
        annotate.annotate(cells, labeller=path, pretrained_model="some.out", **how)


# -- the file ----------------------------------------------------------------
def test_every_byte_that_counts_is_checked(files, capsys):
    path = kept_by(files)
    words, arrays = keep.load(path)
    line = ["--query", files / "few.h5ad", "--labeller", path, "--out", files / "out.h5ad"]
    with h5py.File(path) as file:
        places = {name: (file[name].id.get_offset(), file[name].id.get_storage_size()) for name in file}
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    flat = {name: place for name, place in places.items() if place[0] is not None and place[1]}
    assert {"learnt.weights", "calling.slopes", "fitted.features", "words"} <= set(flat)
    for offset, size in flat.values():
        at = offset + int(rng.integers(size))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(ValueError, match="kept.labeller"):
            keep.load(path)
    for cut in (0, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert "kept.labeller" in refusal(capsys, *line)
    path.write_bytes(whole)
    assert saved.fingerprint(*keep.load(path)) == saved.fingerprint(words, arrays)


def test_another_version_a_foreign_file_and_numbers_that_are_none_are_refused(files, capsys):
    path = kept_by(files)
    line = ["--query", files / "few.h5ad", "--out", files / "out.h5ad", "--labeller"]
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = saved.VERSION + 1
    assert "update scPretrain" in refusal(capsys, *line, path)
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 0
    assert "learn it anew" in refusal(capsys, *line, path)
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = saved.VERSION
        file["learnt.weights"][0, 0] = np.nan
        file.attrs["checksum"] = saved.checksum(file)
    assert "1 of the values learnt.weights are not finite" in refusal(capsys, *line, path)
    assert "is not a labeller of scPretrain" in refusal(capsys, *line, files / "atlas.h5ad")
    assert "there is no" in refusal(capsys, *line, files / "none.labeller")
    with h5py.File(path, "r+") as file:
        del file["anchors"], file["learnt.weights"]
        file.attrs["checksum"] = saved.checksum(file)
    assert "lacks parts of a labeller" in refusal(capsys, *line, path)


def test_the_same_content_gives_the_same_bytes(files):
    path = kept_by(files)
    first = path.read_bytes()
    assert kept_by(files).read_bytes() == first


def test_what_a_labeller_brings_cannot_be_asked_for_beside_it(files, capsys):
    base = ["--query", files / "few.h5ad", "--out", files / "out.h5ad", "--labeller", files / "atlas.h5ad"]
    for words in (["--unknown"], ["--seed", "1"], ["--reference", files / "atlas.h5ad"], ["--explore"]):
        with pytest.raises(SystemExit):
            run(*base, *words)
        assert f"{words[0]} too" in capsys.readouterr().err
    line = ["--query", files / "few.h5ad"]
    for words, said in (
        (["--explore", "--save_labeller", "x"], "learns no types"),
        (["--shard", "1/2", "--out", "x.h5ad", "--merge"], "leave one of them out"),
        (["--shard", "3/2", "--out", "x.h5ad"], "such as 2/3"),
        (["--shard", "1/2", "--save_labeller", "x"], "required: --out"),
        ([], "required: --out"),
    ):
        with pytest.raises(SystemExit):
            run(*line, *words)
        assert said in capsys.readouterr().err
    said = refusal(capsys, *line, *FEW, "--save_labeller", files / "few.h5ad")
    assert "would overwrite the input" in said


def test_a_labeller_that_cannot_be_written_is_an_error_with_its_name(files, capsys):
    line = [*ways(files)["own labels"], "--save_labeller"]
    assert "is a folder" in refusal(capsys, *line, files)
    assert "few.h5ad is a file, not a folder" in refusal(capsys, *line, files / "few.h5ad" / "kept.labeller")
