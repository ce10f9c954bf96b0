"""Clustering and its pictures as a command: run with `python -m pytest tests/test_clus.py`."""

import numpy as np
import pytest
from conftest import QUICK, cut_off
from sklearn.metrics import silhouette_score

import clus
import utils


@pytest.fixture
def command(run, corpus, tmp_path, monkeypatch):
    """Run clus.py on the corpus with a checkpoint; two dimensions stand for UMAP's. Returns the exit code."""
    assert run("--is_pretrain", "--kmeans") == 0
    monkeypatch.setattr(clus.reduce, "umap", lambda points, seed: points[:, :2])
    monkeypatch.setattr(clus, "SEEDS", 3)

    def command(*words):
        places = ["--data_dir", corpus, "--pretrained_model", tmp_path / "model.out"]
        places += ["--save_result", tmp_path / "result.out", "--figs", tmp_path / "figs"]
        return clus.main([str(flag) for flag in [*QUICK, *places, *words]])

    return command


def test_every_labelled_dataset_is_clustered_in_both_arms_and_one_is_drawn(command, tmp_path, capsys):
    assert command() == 0
    out = capsys.readouterr().out
    table = utils.read_results(tmp_path / "clus.csv", utils.CLUSTER_COLUMNS)
    assert list(table.columns) == utils.CLUSTER_COLUMNS
    arms = table[table.arm.isin(utils.ARMS)]
    assert sorted(zip(arms.dataset, arms.arm, arms.seed, strict=True)) == sorted(
        (name, arm, seed) for name in ("Mouse_A", "Mouse_B", "Human_C") for arm in utils.ARMS for seed in range(3)
    )
    assert set(table.n_cells) == {40} and set(table.n_types) == {3}
    assert table.ari.between(-0.5, 1).all() and table.nmi.between(0, 1).all() and table.silhouette.between(-1, 1).all()
    assert table[table.arm == utils.ARMS[1]].ari.mean() > 0.5  # three types far apart
    assert (table.leiden <= table.leiden_best).all() and table.leiden_best.between(-0.5, 1).all()
    mean = table.groupby(["dataset", "arm"]).ari.mean().unstack()
    assert mean.shape == (3, 6)  # the embedding, four baselines, and the best of these as the arm without pre-training
    assert np.allclose(mean[utils.ARMS[1]], mean.drop(columns=list(utils.ARMS)).max(axis=1))
    drawn = sorted(path.name for path in (tmp_path / "figs").iterdir())
    assert len(drawn) == 6 and {name.split("_")[-1] for name in drawn} == {
        f"{which}.{kind}" for which in ("pretrain", "without", "both") for kind in ("pdf", "png")
    }
    assert "won/tied/lost" in out and "Human_D" not in out


def test_with_a_corpus_of_signal_shares_the_frozen_encoder_is_an_arm_of_its_own(command, run, tmp_path):
    assert run("--is_pretrain", "--kmeans", "--recipe", "scpretrain2") == 0
    assert command("--umap", "none", "--datasets", "Mouse_A") == 0
    table = utils.read_results(tmp_path / "clus.csv", utils.CLUSTER_COLUMNS)
    mean = table.groupby("arm").ari.mean()
    assert len(mean) == 7 and {*utils.ARMS, utils.FROZEN} <= set(mean.index)
    assert mean[utils.ARMS[1]] == mean.drop([*utils.ARMS, utils.FROZEN]).max()


def test_a_run_cut_off_between_any_two_rows_ends_with_all_of_them(command, run, tmp_path, monkeypatch):
    assert run("--is_pretrain", "--kmeans", "--recipe", "scpretrain2") == 0
    assert command("--umap", "none", "--datasets", "Mouse_A", "--fold1", 1) == 0
    whole, write = utils.read_results(tmp_path / "clus.csv", utils.CLUSTER_COLUMNS), utils.ResultTable.write
    for rows in range(1, len(whole)):
        (tmp_path / "clus.csv").unlink()
        with monkeypatch.context() as patch:
            patch.setattr(utils.ResultTable, "write", cut_off(write, rows))
            assert command("--umap", "none", "--datasets", "Mouse_A", "--fold1", 1) == 130
        assert command("--umap", "none", "--datasets", "Mouse_A", "--fold1", 1) == 0
        again = utils.read_results(tmp_path / "clus.csv", utils.CLUSTER_COLUMNS)
        assert sorted(zip(again.arm, again.seed, strict=True)) == sorted(zip(whole.arm, whole.seed, strict=True)), rows


def test_finished_runs_are_kept_and_the_picture_can_be_left_out(command, tmp_path, capsys):
    assert command("--umap", "none", "--datasets", "Mouse_A") == 0
    before = (tmp_path / "clus.csv").read_bytes()
    capsys.readouterr()
    assert command("--umap", "none", "--datasets", "Mouse_A") == 0
    assert "6 of 6 runs are in" in capsys.readouterr().out
    assert (tmp_path / "clus.csv").read_bytes() == before
    assert not (tmp_path / "figs").exists()


def test_a_picture_of_an_unknown_dataset_is_refused_before_the_work(command, tmp_path, capsys):
    assert command("--umap", "Mouse_Z") == 2
    assert "Human_C, Mouse_A, Mouse_B" in capsys.readouterr().err
    assert not (tmp_path / "clus.csv").exists()


def test_a_figs_folder_that_cannot_be_made_is_refused_before_the_work(run, tmp_path, capsys, monkeypatch):
    assert run("--is_pretrain", "--kmeans") == 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "figs").write_text("a file in the place of the default folder")
    places = ["--data_dir", tmp_path / "data", "--pretrained_model", "model.out", "--save_result", "result.out"]
    assert clus.main([str(word) for word in [*QUICK, *places]]) == 2
    assert "figs is a file, not a folder" in capsys.readouterr().err and not (tmp_path / "clus.csv").exists()


def test_without_a_checkpoint_the_command_that_makes_it_is_named(corpus, tmp_path, capsys):
    missing = tmp_path / "none.out"
    assert clus.main(["--data_dir", str(corpus), "--pretrained_model", str(missing), "--offline"]) == 2
    assert (
        f"python main.py --is_pretrain --kmeans --data_dir {corpus} --save_model {missing}" in capsys.readouterr().err
    )


def test_both_arms_are_laid_out_with_the_same_cells_and_seed(command, monkeypatch):
    calls = []
    monkeypatch.setattr(clus.reduce, "umap", lambda points, seed: calls.append((points.shape, seed)) or points[:, :2])
    assert command("--umap", "Human_C", "--datasets", "Human_C", "--seed", 5) == 0
    assert calls == [((40, 8), 5), ((40, 11), 5)]  # 50 PCs, of which 12 genes have 11


def world(cells, types, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(types), rng.integers(types, size=cells - types)])
    return rng.normal(size=(cells, 2)) + 4 * rng.normal(size=(types, 2))[labels], labels


def test_the_picture_holds_both_arms_and_one_legend():
    points, labels = world(300, 30)
    classes = [f"type number {kind}" for kind in range(30)]
    layouts = {utils.ARMS[0]: points, utils.ARMS[1]: points[:, ::-1]}
    figure = clus.picture(layouts, utils.ARMS, labels, classes, "Set", seed=0)
    with_, without = (axis.collections[0].get_offsets() for axis in figure.axes)
    assert len(with_) == len(without) == 300
    assert np.allclose(np.sort(with_[:, 0]), np.sort(points[:, 0]))
    assert np.allclose(with_[:, ::-1], without)  # the same cells in the same order
    [legend] = figure.legends
    assert len(legend.get_texts()) == 30


def test_a_hundred_thousand_cells_make_a_small_pdf(tmp_path):
    points, labels = world(100_000, 30)
    figure = clus.picture({utils.ARMS[0]: points}, utils.ARMS[:1], labels, [str(k) for k in range(30)], "Large", seed=0)
    [path] = utils.save_figure(figure, tmp_path / "large", ["pdf"], 200)
    assert path.read_bytes()[:5] == b"%PDF-" and path.stat().st_size < 5e6


def test_the_published_picture_is_the_default_where_its_dataset_is_there():
    import pandas as pd

    import data_loader as data

    entries = [data.Entry(name, "mouse", True) for name in ("Small", "Large", clus.PUBLISHED_PICTURE)]
    results = pd.DataFrame({"dataset": ["Small", "Large", "Other"], "n_cells": [10, 20, 30]})
    assert clus.entry_to_draw(entries, None, results).name == clus.PUBLISHED_PICTURE
    assert clus.entry_to_draw(entries[:2], None, results).name == "Large"
    assert clus.entry_to_draw(entries, "Small", results).name == "Small"


def test_the_silhouette_is_that_of_scikit_learn_and_never_missing():
    points, labels = world(60, 3)
    assert clus.silhouette(points, labels, 0) == pytest.approx(silhouette_score(points, labels))
    assert clus.silhouette(points[:4], np.arange(4), 0) == 0.0
    many, types = world(clus.SILHOUETTE_CELLS + 500, 3)
    assert clus.silhouette(many, types, 0) == pytest.approx(silhouette_score(many, types), abs=0.02)


def test_a_clustering_table_is_read_back_as_it_was_written(tmp_path):
    path = utils.clustering_results(tmp_path / "result.out")
    row = dict.fromkeys(utils.CLUSTER_COLUMNS, 0.25) | {"dataset": "A", "arm": utils.ARMS[0], "seed": 3, "run": "12"}
    utils.write_result(path, row, utils.CLUSTER_COLUMNS)
    assert utils.read_results(path, utils.CLUSTER_COLUMNS).to_dict("records") == [row]
    utils.write_result(path, row | {"ari": 1.0}, utils.CLUSTER_COLUMNS)  # the same run again takes its place
    assert list(utils.read_results(path, utils.CLUSTER_COLUMNS).ari) == [1.0]
