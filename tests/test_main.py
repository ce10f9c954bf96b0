"""The whole program on a small world: run with `python -m pytest tests/test_main.py`."""

import errno
import os
import re
import shutil
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import HUMAN, MOUSE, SHARED, draw, killed_after, write_dataset
from scipy.sparse import csr_matrix

import data_loader as data
import main
import utils
from files import locked
from reading import catalogue
from reading.align import ORTHOLOG_FILE
from simulate import write_cellblast
from stages import train

LABELLED = ["Human_C", "Mouse_A", "Mouse_B"]


def results(tmp_path):
    return pd.read_csv(tmp_path / "result.csv")


def weights(path):
    return utils.load_checkpoint(path).encoder.state_dict()


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def pretrained(run):
    assert run("--is_pretrain", "--kmeans") == 0
    return run


# -- end to end


@pytest.mark.parametrize("recipe", ["paper", "scpretrain2"])
def test_the_order_of_lines_in_the_catalogue_changes_no_byte_of_the_checkpoint(run, corpus, tmp_path, recipe):
    found = []
    for order in (1, -1):
        first, *lines = (corpus / "datasets.csv").read_text().splitlines()
        (corpus / "datasets.csv").write_text("\n".join([first, *sorted(lines)[::order]]) + "\n")
        assert run("--is_pretrain", "--kmeans", "--recipe", recipe) == 0
        found.append((tmp_path / "model.out").read_bytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("clustering", [["--kmeans"], []], ids=["kmeans", "agglomerative"])
def test_the_three_commands_run_one_after_the_other(run, tmp_path, capsys, clustering):
    assert run("--is_pretrain", *clustering) == 0
    said = capsys.readouterr().out
    assert "1 unlabelled datasets are left out: the paper recipe pre-trains on labelled" in said
    assert "3 datasets, 120 cells, 12 genes (human, mouse)" in said and "Human_C: 12 of 12 genes" in said
    first = utils.load_checkpoint(tmp_path / "model.out")
    assert first.genes == SHARED and first.species == ["human", "mouse"] and sorted(first.datasets) == LABELLED
    assert first.phase == 1 and len(first.history) == 3 and first.settings["kmeans"] == bool(clustering)

    assert run("--is_pretrain", *clustering, "--pretrain_output") == 0
    second = utils.load_checkpoint(tmp_path / "model.out")
    assert second.phase == 2 and len(second.history) == 6 and second.genes == SHARED
    assert not same(first.encoder.state_dict(), second.encoder.state_dict())
    assert not list(tmp_path.glob("*.state")) and not list(tmp_path.glob("*.part"))

    capsys.readouterr()
    assert run(*clustering) == 0
    said = capsys.readouterr().out
    table = results(tmp_path)
    assert sorted(table["dataset"].unique()) == LABELLED and len(table) == 6
    assert set(table["n_train"]) == {24} and set(table["n_test"]) == {12}
    assert table.notna().all(axis=None) and table[["accuracy", "auprc", "auroc"]].stack().between(0, 1).all()
    assert re.search(r"3 datasets +scPretrain +Without pretraining +won/tied/lost +p\n", said)
    for metric in ("accuracy", "kappa", "macro_f1", "auprc", "auroc"):
        [line] = re.findall(rf"^{metric} +(\S+) +(\S+) +(\d)/(\d)/(\d) +(\S+)$", said, re.MULTILINE)
        means = table.groupby("arm")[metric].mean()
        assert float(line[0]) == pytest.approx(means["scPretrain"], abs=1e-4)
        assert float(line[1]) == pytest.approx(means["Without pretraining"], abs=1e-4)
        assert sum(map(int, line[2:5])) == 3 and 0 <= float(line[5]) <= 1
    assert (tmp_path / "result.out").read_text().count("scPretrain:(") == 3


@pytest.mark.parametrize("recipe", ["paper", "scpretrain2"])
def test_products_in_bfloat16_give_the_same_losses_to_a_thousandth(run, tmp_path, monkeypatch, recipe):
    monkeypatch.setattr(utils, "bf16", lambda device, wanted: wanted)
    found = []
    for mixed in ([], ["--mixed"]):
        assert run("--is_pretrain", "--kmeans", "--recipe", recipe, *mixed) == 0
        found.append(utils.load_checkpoint(tmp_path / "model.out").history)
    assert found[1] == pytest.approx(found[0], rel=1e-3) and found[1] != found[0]


def test_the_encoder_learns_the_pseudo_labels(run, tmp_path):
    assert run("--is_pretrain", "--kmeans", "--pt_epoch", 40, "--pt_lr", 0.01) == 0
    history = utils.load_checkpoint(tmp_path / "model.out").history
    assert min(history[-5:]) < 0.9 * history[0]


@pytest.mark.parametrize("phase", [1, 2])
def test_pre_training_on_components_gives_an_encoder_of_genes(run, tmp_path, phase):
    if phase == 2:
        assert run("--is_pretrain", "--kmeans") == 0
    assert run("--is_pretrain", "--kmeans", "--pca_pt", *["--pretrain_output"][: phase - 1]) == 0
    checkpoint = utils.load_checkpoint(tmp_path / "model.out")
    assert checkpoint.encoder.linear.weight.shape == (8, 12) and checkpoint.settings["pca_pt"]
    assert torch.linalg.matrix_rank(checkpoint.encoder.linear.weight) == 4  # --pca_dim
    assert run("--kmeans") == 0


def test_fine_tuning_on_components_runs(pretrained, tmp_path):
    assert pretrained("--pca_ft") == 0
    assert len(results(tmp_path)) == 6


def test_two_runs_do_not_write_one_checkpoint(run, tmp_path, capsys):
    with locked(tmp_path / "model.out"):
        assert run("--is_pretrain", "--kmeans") == 2
    assert "model.out is held by another run" in capsys.readouterr().err
    assert not (tmp_path / "model.out").exists() and not (tmp_path / "model.out.state").exists()


def counts_of(corpus, name):
    """The raw counts of a dataset in the order of the vocabulary, the slow way."""
    cells = data.load(catalogue.read_catalogue(corpus, datasets=[name])[0])
    names = [MOUSE[HUMAN.index(gene)].upper() if gene in HUMAN else gene.upper() for gene in cells.genes]
    return cells.counts.toarray()[:, [names.index(gene) for gene in SHARED]]


def test_phase_1_clusters_raw_counts_phase_2_encoder_outputs_of_log1p_and_both_train_on_log1p(
    run, corpus, tmp_path, monkeypatch
):
    points, batches = [], []
    cluster, pretrain = main.recipes.cluster.pseudo_labels, train.pretrain
    monkeypatch.setattr(
        main.recipes.cluster, "pseudo_labels", lambda at, *a, **k: points.append(at) or cluster(at, *a, **k)
    )
    monkeypatch.setattr(
        train, "pretrain", lambda model, tasks, *a, **k: batches.extend(tasks) or pretrain(model, tasks, *a, **k)
    )
    assert run("--is_pretrain", "--kmeans") == 0
    encoder = weights(tmp_path / "model.out")
    assert run("--is_pretrain", "--kmeans", "--pretrain_output") == 0
    for place, name in enumerate(["Human_C", "Mouse_A", "Mouse_B"]):
        counts = counts_of(corpus, name)
        np.testing.assert_array_equal(points[place].toarray(), counts)
        weight, bias = (encoder[f"linear.{part}"].numpy() for part in ("weight", "bias"))
        np.testing.assert_allclose(points[3 + place], np.log1p(counts) @ weight.T + bias, rtol=1e-4, atol=1e-5)
        for task in (batches[place], batches[3 + place]):
            np.testing.assert_allclose(task.rows[:].numpy(), np.log1p(counts), rtol=1e-6)
            assert task.targets.amax(dim=0).tolist() == [3, 7, 2]  # 40 cells at 10 a cluster: 4, 8 and 3 of them


def test_fine_tuning_sees_log1p_and_components_of_the_training_cells(pretrained, corpus, monkeypatch):
    fitted, seen = [], []
    components, finetune = main.recipes.reduce.components, train.finetune
    monkeypatch.setattr(
        main.recipes.reduce, "components", lambda x, *a, **k: fitted.append(x) or components(x, *a, **k)
    )
    monkeypatch.setattr(train, "finetune", lambda model, *a, **k: seen.append(a) or finetune(model, *a, **k))
    assert pretrained("--datasets", "Mouse_A", "--pca_ft") == 0
    counts = counts_of(corpus, "Mouse_A")
    log1p = np.log1p(counts)
    parts = data.split(40, seed=0)
    assert len(fitted) == len(seen) == 2
    for x, (first, second) in zip(fitted, seen, strict=True):
        np.testing.assert_allclose(x.toarray(), log1p[parts.train], rtol=1e-6)
        np.testing.assert_allclose(first.rows[:].numpy(), log1p[parts.train], rtol=1e-6)
        np.testing.assert_allclose(second.rows[:].numpy(), log1p[parts.validation], rtol=1e-6)


def numpy_folder(tmp_path, seed=11, genes=HUMAN, labels=True):
    counts, types = draw(seed)
    folder = tmp_path / "mine"
    folder.mkdir()
    np.save(folder / "feature.npy", counts.toarray())
    np.save(folder / "gene_list.npy", np.array(genes))
    if labels:
        np.save(folder / "label.npy", types)
    return folder


def h5ad_file(tmp_path, seed=12, column="cell_type", genes=MOUSE, **more):
    counts, types = draw(seed)
    path = tmp_path / "yours.h5ad"
    cells = pd.DataFrame({column: types}, index=[f"c{i}" for i in range(40)])
    anndata.AnnData(counts, cells, pd.DataFrame(index=genes), **more).write_h5ad(path)
    return path


def test_own_numpy_and_h5ad_data_take_the_place_of_the_catalogue(pretrained, tmp_path, capsys):
    mine, yours = numpy_folder(tmp_path), h5ad_file(tmp_path)
    assert pretrained("--np_input", mine, "--ann_input", yours) == 0
    assert sorted(results(tmp_path)["dataset"].unique()) == ["mine", "yours"]
    said = capsys.readouterr().out
    assert "mine: taken as human" in said and "yours: taken as mouse" in said
    assert pretrained("--is_pretrain", "--kmeans", "--np_input", mine) == 0
    checkpoint = utils.load_checkpoint(tmp_path / "model.out")
    assert checkpoint.datasets == ["mine"] and checkpoint.species == ["human"]


def test_layers_and_label_columns_are_taken_when_asked_for(pretrained, tmp_path, capsys):
    scaled = draw(12)[0].toarray() - 1
    yours = h5ad_file(tmp_path, column="kind", layers={"counts": draw(12)[0], "scaled": scaled})
    assert pretrained("--ann_input", yours, "--label_key", "kind", "--layer", "counts") == 0
    assert pretrained("--ann_input", yours, "--label_key", "kind", "--layer", "scaled") == 2
    assert "yours" in (said := capsys.readouterr().err) and "negative" in said
    assert pretrained("--ann_input", yours, "--label_key", "none") == 2
    assert "no column 'none'" in (said := capsys.readouterr().err) and "kind" in said


def test_a_folder_without_a_catalogue_runs_on_every_file(run, corpus, tmp_path, capsys):
    (corpus / "datasets.csv").unlink()
    (corpus / "Human_D.h5").unlink()
    assert run("--is_pretrain", "--kmeans") == 0 and run() == 0
    assert "Human_C: taken as human" in capsys.readouterr().out
    assert sorted(results(tmp_path)["dataset"].unique()) == LABELLED


def test_a_published_bare_checkpoint_is_fine_tuned_with_its_gene_list(run, tmp_path, capsys):
    torch.save({"fc1.weight": torch.rand(8, 12), "fc1.bias": torch.rand(8)}, tmp_path / "model.out")
    assert run() == 2
    assert "12 genes with --gene_list" in capsys.readouterr().err
    (tmp_path / "genes.txt").write_text("\n".join(SHARED))
    assert run("--gene_list", tmp_path / "genes.txt") == 0


def test_one_species_shares_the_genes_of_two_datasets(run, corpus, tmp_path):
    write_dataset(corpus / "Mouse_B.h5", 2, [*MOUSE[:9], "Extra1", "Extra2", "Extra3"])
    assert run("--is_pretrain", "--kmeans", "--datasets", "Mouse_A,Mouse_B") == 0
    assert utils.load_checkpoint(tmp_path / "model.out").genes == sorted(gene.upper() for gene in MOUSE[:9])


def test_help_shows_the_command_lines_of_the_docstring(capsys):
    with pytest.raises(SystemExit) as stop:
        main.main(["--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0 and main.__doc__.strip() in said and "--is_pretrain --kmeans --pretrain_output" in said


# -- the same again


def test_the_same_seed_gives_the_same_checkpoint_bit_for_bit(run, corpus, tmp_path):
    for name in ("a", "b"):
        shutil.rmtree(corpus / "cache", ignore_errors=True)
        assert run("--is_pretrain", "--kmeans", "--save_model", tmp_path / name) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert run("--is_pretrain", "--kmeans", "--save_model", tmp_path / "cached") == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "cached").read_bytes()
    assert run("--is_pretrain", "--kmeans", "--seed", 1, "--save_model", tmp_path / "other") == 0
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "other"))


@pytest.mark.parametrize("flags", [[], ["--pca_pt"], ["--pretrain_output"]], ids=["phase 1", "components", "phase 2"])
def test_a_resumed_run_ends_as_an_unbroken_one_bit_for_bit(pretrained, tmp_path, monkeypatch, capsys, flags):
    flags = ["--is_pretrain", "--kmeans", "--pt_epoch", 4, *flags]
    assert pretrained(*flags, "--save_model", tmp_path / "unbroken") == 0
    save = utils.save_state

    def killed(path, content):
        save(path, content)
        if content["progress"]["epoch"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(utils, "save_state", killed)
        assert pretrained(*flags, "--save_model", tmp_path / "broken") == 130
    assert not (tmp_path / "broken").exists() and (tmp_path / "broken.state").exists()
    assert pretrained(*flags, "--save_model", tmp_path / "broken", "--resume") == 0
    assert "resumed after epoch 2" in capsys.readouterr().out
    assert (tmp_path / "broken").read_bytes() == (tmp_path / "unbroken").read_bytes()
    assert not (tmp_path / "broken.state").exists()


def test_the_state_of_another_run_is_refused_and_without_one_it_starts_anew(run, tmp_path, monkeypatch, capsys):
    flags = ["--is_pretrain", "--kmeans"]
    assert run(*flags, "--resume") == 0
    assert "nothing to resume" in capsys.readouterr().out
    with killed_after(monkeypatch, "save_state"):
        assert run(*flags) == 130
    for other in (["--seed", 5], ["--hid", 7], ["--exclude", "Mouse_A"], ["--pca_pt"]):
        assert run(*flags, "--resume", *other) == 2
        assert "state of a run with other data or settings" in capsys.readouterr().err
    assert run(*flags, "--resume", "--pt_epoch", 5) == 0  # more epochs are the same run, longer
    assert len(utils.load_checkpoint(tmp_path / "model.out").history) == 5


def test_a_second_pre_training_reads_the_cache_and_deleting_it_is_safe(run, corpus, tmp_path, monkeypatch):
    assert run("--is_pretrain", "--kmeans") == 0
    first = weights(tmp_path / "model.out")
    with monkeypatch.context() as patch:
        patch.setattr(data, "load", full)  # nobody reads a dataset again, nobody clusters again
        patch.setattr(main.recipes.cluster, "pseudo_labels", full)
        assert run("--is_pretrain", "--kmeans") == 0
    shutil.rmtree(corpus / "cache")
    assert run("--is_pretrain", "--kmeans") == 0
    assert same(first, weights(tmp_path / "model.out"))


@pytest.mark.parametrize("flags", [["--seed", 1], ["--avg_cluster_num", 8], ["--kmeans"]])
def test_pseudo_labels_made_otherwise_are_made_again(run, monkeypatch, flags):
    assert run("--is_pretrain") == 0
    calls, cluster = [], main.recipes.cluster.pseudo_labels
    monkeypatch.setattr(main.recipes.cluster, "pseudo_labels", lambda *a, **k: calls.append(1) or cluster(*a, **k))
    assert run("--is_pretrain", *flags) == 0
    assert len(calls) == 3


def test_a_read_only_data_folder_works(run, corpus, tmp_path, capsys):
    corpus.chmod(0o555)
    try:
        assert run("--is_pretrain", "--kmeans") == 0
        assert "is read-only: nothing is cached" in capsys.readouterr().out
        assert run("--is_pretrain", "--kmeans", "--cache_dir", tmp_path / "cache") == 0
        assert run() == 0
    finally:
        corpus.chmod(0o755)
    assert not (corpus / "cache").exists() and len(list((tmp_path / "cache").glob("[!.]*"))) == 6


# -- fine-tuning and testing


def test_both_arms_have_the_same_split_and_the_same_first_classifier(pretrained, tmp_path, monkeypatch):
    seen, finetune = [], train.finetune

    def watch(model, first, second, **settings):
        state = {name: value.clone() for name, value in model.state_dict().items()}
        seen.append((state, first.rows[:].clone(), second.labels.clone(), settings))
        return finetune(model, first, second, **settings)

    monkeypatch.setattr(train, "finetune", watch)
    assert pretrained("--datasets", "Mouse_B", "--fold1", 2) == 0
    assert len(seen) == 4 and len(results(tmp_path)) == 4
    for with_, without in (seen[:2], seen[2:]):
        assert torch.equal(with_[1], without[1]) and torch.equal(with_[2], without[2]) and with_[3] == without[3]
        for name in with_[0]:
            assert torch.equal(with_[0][name], without[0][name]) == (not name.startswith("encoder."))
    assert not torch.equal(seen[0][1], seen[2][1])  # another seed, another split
    encoder = weights(tmp_path / "model.out")  # Mouse_B lists the genes backwards
    order = [SHARED.index(gene.upper()) for gene in MOUSE[::-1]]
    assert torch.equal(seen[0][0]["encoder.linear.weight"], encoder["linear.weight"][:, order])
    assert torch.equal(seen[0][0]["encoder.linear.bias"], encoder["linear.bias"])


def test_genes_the_checkpoint_does_not_know_keep_the_random_start_of_the_other_arm(pretrained, corpus, monkeypatch):
    write_dataset(corpus / "Mouse_A.h5", 1, ["Unknown1", *MOUSE[1:]])
    seen, finetune = [], train.finetune
    monkeypatch.setattr(
        train, "finetune",
        lambda model, *a, **k: seen.append(model.encoder.linear.weight.detach().clone()) or finetune(model, *a, **k),
    )  # fmt: skip
    assert pretrained("--datasets", "Mouse_A") == 0
    assert torch.equal(seen[0][:, 0], seen[1][:, 0]) and not torch.equal(seen[0][:, 1], seen[1][:, 1])


@pytest.fixture
def arms(monkeypatch):
    """The (dataset, arm, seed) of every run of test_arm."""
    done, test_arm = [], main.test_arm

    def watch(recipe, test, *rest):
        row = test_arm(recipe, test, *rest)
        done.append((test.dataset.names.entry.name, test.arm, test.seed))
        return row

    monkeypatch.setattr(main, "test_arm", watch)
    return done


def test_a_second_run_trains_nothing_and_says_the_same(pretrained, arms, tmp_path, capsys):
    assert pretrained() == 0
    before, table = (tmp_path / "result.csv").read_bytes(), capsys.readouterr().out.split("3 datasets ")[-1]
    assert pretrained() == 0
    said = capsys.readouterr().out
    assert len(arms) == 6 and "6 of 6 runs" in said and table in said
    assert (tmp_path / "result.csv").read_bytes() == before


def test_repeats_are_runs_with_their_own_seeds(pretrained, arms, tmp_path):
    assert pretrained("--datasets", "Mouse_A") == 0
    assert pretrained("--datasets", "Mouse_A", "--fold1", 2, "--fold2", 2) == 0
    assert [seed for _, _, seed in arms] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(results(tmp_path)) == 8


def test_an_interrupted_run_goes_on_where_it_stopped(pretrained, arms, tmp_path, monkeypatch):
    write, count = utils.write_result, []

    def killed(path, *row):
        write(path, *row)
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(utils, "write_result", killed)
        assert pretrained() == 130
    assert len(results(tmp_path)) == 3
    assert pretrained() == 0
    assert len(arms) == len(set(arms)) == 6 and len(results(tmp_path)) == 6


def test_another_checkpoint_runs_its_own_arm_again_and_no_other(pretrained, arms, tmp_path):
    assert pretrained() == 0
    assert pretrained("--is_pretrain", "--kmeans", "--seed", 3) == 0
    arms.clear()
    assert pretrained() == 0
    assert sorted(arms) == [(name, "scPretrain", 0) for name in LABELLED]
    assert len(results(tmp_path)) == 6


@pytest.mark.parametrize("change", ["flag", "file", "orthologs"])
def test_a_result_made_otherwise_is_made_again(pretrained, corpus, arms, change):
    assert pretrained() == 0
    arms.clear()
    if change == "file":
        write_dataset(corpus / "Mouse_A.h5", 50, MOUSE)
    elif change == "orthologs":
        (corpus / ORTHOLOG_FILE).unlink()
    assert pretrained(*["--ft_lr", 0.01][: 2 * (change == "flag")]) == 0
    again = {"flag": LABELLED, "file": ["Mouse_A"], "orthologs": ["Human_C"]}[change]
    assert sorted({name for name, _, _ in arms}) == again and len(arms) == 2 * len(again)


def test_rare_types_and_cells_without_a_label_are_reported_and_never_nan(pretrained, corpus, tmp_path, capsys):
    counts, types = draw(1)
    types = types.astype("U20")
    types[:2], types[2], types[3:6] = ["once", "twice"], "twice", ""
    write_cellblast(corpus / "Mouse_A.h5", counts, MOUSE, list("c" * 40), {"cell_ontology_class": types})
    assert pretrained("--datasets", "Mouse_A", "--fold1", 4) == 0
    said = capsys.readouterr().out
    assert "3 cells without a label are left out" in said
    assert "fewer than 2 training cells of" in said and "no test cell of" in said
    table = results(tmp_path)
    assert table.notna().all(axis=None) and set(table["n_train"]) == {22} and set(table["n_test"]) == {12}


# -- bad input: exit code 2, one line, the dataset, the file and what to do


def spoil(**parts):
    """Rewrite parts of exprs in a Cell BLAST file; None takes a part away."""

    def change(path):
        with h5py.File(path, "a") as file:
            for part, value in parts.items():
                value = value(file[f"exprs/{part}"][...]) if callable(value) else value
                del file[f"exprs/{part}"]
                if value is not None:
                    file[f"exprs/{part}"] = value

    return change


def first(value):
    return lambda array: np.r_[np.array([value], array.dtype), array[1:]]


def without_exprs(path):
    with h5py.File(path, "a") as file:
        del file["exprs"]


def no_cells(path):
    write_cellblast(path, csr_matrix((0, 12), dtype=np.float32), MOUSE, [""][:0], {"cell_ontology_class": [""][:0]})


BAD = {
    "not HDF5": (lambda path: path.write_text("hello" * 99), "not an HDF5 file.*fetch it again"),
    "a web page": (lambda path: path.write_text("<!DOCTYPE html>"), "web page.*fetch it again"),
    "truncated HDF5": (lambda path: path.write_bytes(path.read_bytes()[:-500]), "truncated.*fetch it again"),
    "missing exprs": (without_exprs, "no 'exprs'.*Convert it"),
    "a missing part": (spoil(indices=None), "no 'indices'.*again"),
    "indptr too short": (spoil(indptr=lambda array: array[:-3]), "indptr.*again"),
    "indices beyond the genes": (spoil(indices=first(99)), "indices run from .* 12 genes.*again"),
    "another shape": (spoil(shape=np.array([40, 13])), "12 gene names.*13 genes.*again"),
    "NaN": (spoil(data=first(np.nan)), "NaN or infinite.*(supply|set)"),
    "infinite": (spoil(data=first(np.inf)), "NaN or infinite.*(supply|set)"),
    "negative": (spoil(data=first(-1)), "negative.*supply"),
    "0 cells": (no_cells, "0 cells.*leave it out"),
    "no genes in common": (
        lambda path: write_dataset(path, 1, [f"ENSMUSG{n:011d}" for n in range(12)]),
        "none of its genes.*ensembl_mouse.*--exclude Mouse_A",
    ),
}


def refused(capsys, code, words, *named):
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and "Traceback" not in said.err + said.out
    assert re.search(words, lines[0]), lines[0]
    assert all(name in lines[0] for name in named), lines[0]


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_a_bad_file_is_a_line_with_dataset_file_and_remedy(pretrained, corpus, tmp_path, capsys, what, command):
    change, words = BAD[what]
    change(corpus / "Mouse_A.h5")
    before = weights(tmp_path / "model.out")
    code = pretrained(*["--is_pretrain", "--kmeans"][: 2 * (command == "pretrain")])
    refused(capsys, code, words, "Mouse_A", str(corpus / "Mouse_A.h5"))
    assert same(before, weights(tmp_path / "model.out"))


def test_a_corpus_without_a_shared_gene_is_refused(run, corpus, capsys):
    write_dataset(corpus / "Human_C.h5", 3, [f"LOC{n}" for n in range(12)])
    refused(capsys, run("--is_pretrain", "--kmeans"), "share no gene.*Human_C.*--species", "Mouse_A")


@pytest.mark.parametrize(
    ("types", "words"),
    [
        (None, "no column cell_ontology_class.*--label_key"),
        ("T", "only one cell type, 'T'.*--exclude"),
        ("", "no cell with"),
    ],
)
def test_a_labelled_set_without_two_types_is_refused(pretrained, corpus, capsys, types, words):
    columns = {"cell_ontology_class": np.full(40, types)} if types is not None else {}
    write_cellblast(corpus / "Mouse_A.h5", draw(1)[0], MOUSE, [f"c{i}" for i in range(40)], columns)
    refused(capsys, pretrained(), words, "Mouse_A", str(corpus / "Mouse_A.h5"))


def test_a_dataset_too_small_to_split_is_refused(pretrained, corpus, capsys):
    write_dataset(corpus / "Mouse_A.h5", 1, MOUSE, cells=2)
    refused(
        capsys, pretrained("--per_train", 0.4), "2 cells are too few.*--exclude Mouse_A", str(corpus / "Mouse_A.h5")
    )


def test_a_dataset_of_three_cells_runs_all_the_way(run, corpus, tmp_path):
    write_dataset(corpus / "Mouse_A.h5", 1, MOUSE, cells=3)
    for flags in (["--is_pretrain", "--kmeans"], ["--is_pretrain", "--pca_pt"], [], ["--pca_ft"]):
        assert run(*flags) == 0
    assert results(tmp_path).notna().all(axis=None)


def test_an_unknown_dataset_is_refused_with_a_suggestion(run, capsys):
    refused(
        capsys, run("--is_pretrain", "--datasets", "mouse_A"), "no dataset is called 'mouse_A'.*did you mean Mouse_A"
    )
    refused(capsys, run("--is_pretrain", "--exclude", "Human"), "no dataset is called 'Human'.*Human_[CD]")


def test_missing_places_are_refused(run, tmp_path, capsys):
    refused(capsys, run("--is_pretrain", "--data_dir", tmp_path / "nowhere"), "nowhere is not a folder; make it")
    refused(capsys, run("--is_pretrain", "--np_input", tmp_path / "nowhere"), "there is no .*nowhere")
    refused(capsys, run(), "there is no checkpoint .*; make (one|it) with: python main.py --is_pretrain")


@pytest.mark.parametrize("flags", [[], ["--is_pretrain", "--pretrain_output"]], ids=["fine-tune", "phase 2"])
def test_an_unreadable_checkpoint_is_refused(pretrained, tmp_path, capsys, flags):
    path = tmp_path / "model.out"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(capsys, pretrained(*flags), "no checkpoint, or a damaged one.*pre-train again", str(path))
    path.write_bytes(whole)
    refused(capsys, pretrained(*flags, "--hid", 9), "8 hidden units; use --hid 8", str(path))


def test_offline_with_a_dataset_missing_goes_on_and_with_none_is_refused(run, corpus, capsys):
    (corpus / "Mouse_B.h5").unlink()
    assert run("--is_pretrain", "--kmeans") == 0
    assert "1 of 3 datasets are not there" in capsys.readouterr().out
    for path in corpus.glob("*.h5"):
        path.unlink()
    refused(capsys, run("--is_pretrain", "--kmeans"), "none of the 3 datasets is in", str(corpus))


def test_only_unlabelled_datasets_leave_nothing_to_do(run, capsys):
    refused(capsys, run("--is_pretrain", "--datasets", "Human_D"), "no labelled dataset is left.*datasets.csv")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("flags", [[], ["--is_pretrain"]])
def test_cuda_without_a_device_is_one_line(pretrained, capsys, flags):
    refused(capsys, pretrained("--cuda", *flags), "--cuda.*no CUDA device.*leave --cuda out")


def test_without_the_ortholog_table_a_warning_counts_the_unmatched(run, corpus, tmp_path, capsys):
    (corpus / ORTHOLOG_FILE).unlink()
    if (Path(data.__file__).parent / "dataset" / ORTHOLOG_FILE).exists():
        pytest.skip("the project's own dataset folder has the table")
    assert run("--is_pretrain", "--kmeans") == 0
    said = capsys.readouterr().out
    assert "warning: no ortholog table" in said and "1 of 12 human genes match no mouse gene" in said
    assert utils.load_checkpoint(tmp_path / "model.out").genes == [gene for gene in SHARED if gene != "TRP53"]


# -- full disk


def test_a_full_disk_while_pre_training_leaves_the_earlier_checkpoint(pretrained, tmp_path, monkeypatch, capsys):
    before = (tmp_path / "model.out").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        code = pretrained("--is_pretrain", "--kmeans", "--seed", 1)
    refused(capsys, code, "model.out.state could not be written .No space left.*intact")
    assert (tmp_path / "model.out").read_bytes() == before
    with monkeypatch.context() as patch:
        patch.setattr(utils, "save_checkpoint", full)
        code = pretrained("--is_pretrain", "--kmeans", "--seed", 1)
    refused(capsys, code, "No space left")
    assert (tmp_path / "model.out").read_bytes() == before and not list(tmp_path.glob("*.part"))
    assert pretrained("--is_pretrain", "--kmeans", "--seed", 1, "--resume") == 0  # no epoch is lost
    assert "resumed after epoch 3" in capsys.readouterr().out


def test_a_full_disk_while_caching_leaves_nothing_half_written(run, corpus, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        refused(capsys, run("--is_pretrain", "--kmeans"), "No space left.*--cache_dir", str(corpus / "cache"))
    assert list((corpus / "cache").iterdir()) == [] and not (tmp_path / "model.out").exists()
    assert run("--is_pretrain", "--kmeans") == 0


def test_a_full_disk_while_testing_leaves_the_earlier_results(pretrained, tmp_path, monkeypatch, capsys):
    assert pretrained("--datasets", "Mouse_A") == 0
    before = (tmp_path / "result.csv").read_bytes(), (tmp_path / "result.out").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_csv", full)
        refused(capsys, pretrained(), "result.csv could not be written .No space left.*intact")
    assert ((tmp_path / "result.csv").read_bytes(), (tmp_path / "result.out").read_bytes()) == before
    assert not list(tmp_path.glob("*.part")) and pretrained() == 0 and len(results(tmp_path)) == 6


# -- the recipe scpretrain2

SECOND = ["--recipe", "scpretrain2", "--kmeans", "--is_pretrain"]


def test_the_second_recipe_runs_from_pre_training_to_the_table(run, tmp_path, capsys):
    assert run(*SECOND) == 0
    assert "4 datasets, 160 cells" in capsys.readouterr().out  # the unlabelled one too
    first = utils.load_checkpoint(tmp_path / "model.out")
    assert first.recipe == "scpretrain2" and first.phase == 1 and len(first.datasets) == 4 and len(first.history) == 3
    assert run(*SECOND, "--pretrain_output") == 0
    second = utils.load_checkpoint(tmp_path / "model.out")
    assert first.shares.shape == (12,) and torch.isfinite(first.shares).all() and first.shares.max() > 0.1
    assert torch.equal(first.shares, second.shares)  # the cells are the same
    assert second.recipe == "scpretrain2" and second.phase == 2 and len(second.history) == 3 + 3
    assert not same(first.encoder.state_dict(), second.encoder.state_dict())
    assert (second.encoder.linear.bias == 0).all()
    assert run() == 0
    table = results(tmp_path)
    assert sorted(table["dataset"].unique()) == LABELLED and len(table) == 6 and table.notna().all(axis=None)
    assert table["macro_f1"].mean() > 0.8


def test_the_second_recipe_sees_log_normalised_genes(run, corpus, tmp_path, monkeypatch):
    seen = []
    rows = main.SparseRows
    monkeypatch.setattr(
        main, "SparseRows", lambda x, *rest, log1p: seen.append((x, log1p)) or rows(x, *rest, log1p=log1p)
    )
    assert run(*SECOND) == 0
    assert len(seen) == 4
    for x, log1p in seen:
        assert not log1p and np.allclose(np.expm1(x.toarray()).sum(axis=1), 1e4, rtol=1e-4)


def test_the_second_recipe_learns_its_pseudo_labels(run, tmp_path):
    assert run(*SECOND, "--pt_epoch", 50, "--batch_num", 100) == 0
    history = utils.load_checkpoint(tmp_path / "model.out").history
    assert len(history) == 50 and history[-1] < 0.9 * history[0]


@pytest.mark.parametrize("phase", [[], ["--pretrain_output"]], ids=["phase 1", "phase 2"])
def test_the_second_recipe_resumes_bit_for_bit(run, tmp_path, monkeypatch, phase):
    if phase:
        assert run(*SECOND, "--save_model", tmp_path / "start.out") == 0
        phase = [*phase, "--pretrained_model", tmp_path / "start.out"]
    assert run(*SECOND, *phase, "--save_model", tmp_path / "whole.out") == 0
    save = utils.save_state

    def once(*content):
        save(*content)
        raise KeyboardInterrupt

    monkeypatch.setattr(utils, "save_state", once)
    assert run(*SECOND, *phase, "--save_model", tmp_path / "broken.out") == 130
    monkeypatch.setattr(utils, "save_state", save)
    assert run(*SECOND, *phase, "--save_model", tmp_path / "broken.out", "--resume") == 0
    assert same(weights(tmp_path / "whole.out"), weights(tmp_path / "broken.out"))


def test_both_recipes_share_a_cache_without_mixing_it_up(run, tmp_path):
    assert run("--is_pretrain", "--kmeans", "--save_model", tmp_path / "paper.out") == 0
    assert run(*SECOND, "--save_model", tmp_path / "second.out") == 0
    shutil.rmtree(tmp_path / "data" / "cache")
    assert run(*SECOND, "--save_model", tmp_path / "alone.out") == 0
    assert run("--is_pretrain", "--kmeans", "--save_model", tmp_path / "after.out") == 0
    assert same(weights(tmp_path / "second.out"), weights(tmp_path / "alone.out"))
    assert same(weights(tmp_path / "paper.out"), weights(tmp_path / "after.out"))


def test_the_recipes_do_not_go_on_from_each_other(pretrained, capsys):
    assert pretrained(*SECOND, "--pretrain_output") == 2
    assert "was made by --recipe paper; phase 2 needs the same: add --recipe paper" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[*SECOND, "--pca_pt"], ["--pca_ft"]], ids=["pca_pt", "pca_ft"])
def test_flags_of_the_paper_recipe_are_refused_by_the_second(run, capsys, flags):
    assert run(*SECOND) == 0
    assert run(*flags) == 2
    assert "belongs to the paper recipe" in capsys.readouterr().err


def test_without_a_recipe_it_is_scpretrain2_and_flags_of_the_paper_recipe_ask_for_that(corpus, tmp_path, capsys):
    def run(*more):
        where = ["--data_dir", corpus, "--save_model", tmp_path / "model.out", "--pretrained_model"]
        few = ["--offline", "--batch_num", 2, "--hid", 8, "--is_pretrain", "--kmeans"]
        assert main.main([str(word) for word in [*few, *where, tmp_path / "model.out", *more]]) == 0
        checkpoint = utils.load_checkpoint(tmp_path / "model.out")
        return checkpoint.recipe, len(checkpoint.history), capsys.readouterr().out

    assert run()[:2] == ("scpretrain2", 4)
    assert run("--pretrain_output")[:2] == ("scpretrain2", 4 + 2)
    recipe, _, said = run("--avg_cluster_num", 10, "--pt_epoch", 2)
    assert recipe == "paper" and "--recipe paper, because of --avg_cluster_num" in said
    assert run("--pretrain_output", "--pt_epoch", 2)[0] == "paper"  # phase 2 goes by its checkpoint
    assert "no effect with --recipe scpretrain2: --pt_lr" in run("--recipe", "scpretrain2", "--pt_lr", 0.1)[2]


def test_flags_of_a_network_are_said_to_have_no_effect_on_a_checkpoint_without_one(run, capsys):
    assert run(*SECOND) == 0
    capsys.readouterr()
    assert run("--ft_lr", 0.1) == 0
    assert "which is of scpretrain2: --ft_epoch, --ft_lr" in capsys.readouterr().out


def test_proposed_commands_keep_the_flags_of_the_run(run, tmp_path, capsys):
    assert run(*SECOND, "--datasets", "Mouse_A,Mouse_B") == 0
    said = capsys.readouterr().out
    flags = f"--data_dir {tmp_path / 'data'} --datasets Mouse_A,Mouse_B --pretrained_model {tmp_path / 'model.out'}"
    assert f"next: python main.py --kmeans {flags}" in said and "next, phase 2: python main.py --is_pretrain" in said
    assert run("--batch_num", 3) == 0
    said = capsys.readouterr().out
    assert "no effect with testing (without --is_pretrain): --avg_cluster_num, --batch_num" in said
    assert f"next: python clus.py --data_dir {tmp_path / 'data'}" in said and "next: python fig.py" in said


def test_values_that_cannot_be_normalised_are_a_line_with_the_dataset(run, corpus, capsys):
    with h5py.File(corpus / "Mouse_A.h5", "r+") as file:
        file["exprs"]["data"][0] = -3
    assert run(*SECOND) == 2
    said = capsys.readouterr().err
    assert "Mouse_A" in said and "negative" in said and said.count("\n") == 1


def test_a_checkpoint_of_an_unknown_recipe_is_not_tested(run, tmp_path, capsys):
    assert run(*SECOND) == 0
    checkpoint = utils.load_checkpoint(tmp_path / "model.out")
    checkpoint.recipe = "tomorrow's"
    utils.save_checkpoint(tmp_path / "model.out", checkpoint)
    assert run() == 2
    assert "is of recipe" in capsys.readouterr().err
