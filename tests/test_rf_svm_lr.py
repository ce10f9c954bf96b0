"""Classifiers off the shelf, alone and as a command: run with `python -m pytest tests/test_rf_svm_lr.py`."""

import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import QUICK, cut_off
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.svm import LinearSVC

import data_loader as data
import flags
import rf_svm_lr
import utils
from reading import catalogue
from stages import off_the_shelf, score


def cloud(sizes, seed=0, dimensions=5):
    """Points (N, D) of a cloud a type, and their types (N,)."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    centres = 3 * rng.normal(size=(len(sizes), dimensions))
    return centres[labels] + rng.normal(size=(len(labels), dimensions)), labels


@pytest.fixture
def command(run, corpus, tmp_path):
    """Run rf_svm_lr.py on the corpus with a checkpoint of phase 1; returns the exit code."""
    assert run("--is_pretrain", "--kmeans") == 0

    def command(*words):
        places = ["--data_dir", corpus, "--pretrained_model", tmp_path / "model.out"]
        places += ["--save_result", tmp_path / "result.out"]
        return rf_svm_lr.main([str(flag) for flag in [*QUICK, *places, *words]])

    return command


# -- one classifier ----------------------------------------------------------------
@pytest.mark.parametrize("kind", flags.CLASSIFIERS)
def test_outputs_have_a_column_a_type_and_their_largest_is_the_prediction(kind):
    points, labels = cloud((30, 20, 10))
    fitted = off_the_shelf.fit(kind, points, labels)
    others = cloud((30, 20, 10))[0] + np.random.default_rng(7).normal(scale=3, size=(60, 5))
    outputs = fitted.outputs(others, 3)
    assert outputs.shape == (60, 3)
    assert (outputs.argmax(axis=1) == fitted.classifier.predict(others)).mean() > 0.95  # forests may tie
    assert len(np.unique(outputs)) > 3  # no hard labels


def test_two_types_have_two_columns_of_decision_values():
    points, labels = cloud((30, 20))
    outputs = off_the_shelf.fit("svm", points, labels).outputs(points, 2)
    slow = LinearSVC(random_state=0).fit(points, labels).decision_function(points)
    assert np.allclose(outputs[:, 1], slow) and np.allclose(outputs[:, 0], -slow)
    assert score.scores(labels, outputs)["auroc"] == pytest.approx(roc_auc_score(labels, slow))


@pytest.mark.parametrize("kind", flags.CLASSIFIERS)
def test_a_type_without_training_cells_gets_a_column_that_never_wins(kind):
    points, labels = cloud((20, 20, 20))
    seen = labels != 1
    outputs = off_the_shelf.fit(kind, points[seen], labels[seen]).outputs(points, 3)
    assert np.isfinite(outputs).all()
    assert not (outputs.argmax(axis=1) == 1).any()
    ours = score.scores(labels, outputs)
    assert 0 <= ours["auprc"] <= 1


def test_areas_agree_with_scikit_learn_where_a_type_is_absent_from_the_test():
    points, labels = cloud((40, 40, 40), seed=1)
    outputs = off_the_shelf.fit("lr", points, labels).outputs(points, 3)
    test = labels != 2
    ours = score.scores(labels[test], outputs[test])
    assert ours["auroc"] == pytest.approx(
        np.mean([roc_auc_score(labels[test] == kind, outputs[test, kind]) for kind in (0, 1)])
    )
    steps = np.mean([average_precision_score(labels[test] == kind, outputs[test, kind]) for kind in (0, 1)])
    assert ours["auprc"] == pytest.approx(steps, abs=0.02)  # steps instead of trapezoids


def test_logistic_regression_has_the_published_settings():
    points, labels = cloud((30, 20, 10))
    slow = LogisticRegression(max_iter=10_000).fit(points, labels)
    fitted = off_the_shelf.fit("lr", points, labels)
    assert np.allclose(fitted.outputs(points, 3), slow.predict_proba(points))
    forest = off_the_shelf.make("rf", off_the_shelf.USUAL["rf"], 60, 0)
    assert (forest.n_estimators, forest.max_depth) == (10, 5)


@pytest.mark.parametrize("kind", flags.CLASSIFIERS)
@pytest.mark.parametrize("sizes", [(1, 1), (1, 30), (1, 1, 1, 25), (2, 40), (5,)])
@pytest.mark.parametrize("tuned", [False, True])
def test_types_of_one_training_cell_stop_nothing_and_warn_nobody(kind, sizes, tuned):
    points, labels = cloud(sizes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs = off_the_shelf.fit(kind, points, labels, tuned=tuned).outputs(points, len(sizes) + 1)
    assert np.isfinite(outputs).all()


def test_a_solver_that_does_not_converge_says_so_and_does_not_warn():
    points, labels = cloud((30, 30))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, converged = off_the_shelf._fitted(LogisticRegression(max_iter=1), points, labels)
    assert not converged
    assert off_the_shelf.fit("lr", points, labels).converged


def test_tuning_takes_the_value_that_left_out_cells_like_best():
    points, labels = cloud((40, 40), seed=4, dimensions=2)
    points[::4], labels[::4] = points[::4], 1 - labels[::4]  # a quarter of the labels is wrong
    assert off_the_shelf.fit("knn", points, labels, tuned=True).value > 1  # one neighbour would believe them


# -- the command ----------------------------------------------------------------
def test_every_classifier_is_tested_with_the_columns_of_result_csv(command, tmp_path, capsys):
    assert command("--fold1", 2) == 0
    out = capsys.readouterr().out
    for kind in flags.CLASSIFIERS:
        table = utils.read_results(tmp_path / f"{kind}.csv")
        assert list(table.columns) == utils.RESULT_COLUMNS
        arms = table[table.arm.isin(utils.ARMS)]
        assert sorted(zip(arms.dataset, arms.arm, arms.seed, strict=True)) == sorted(
            (name, arm, seed) for name in ("Mouse_A", "Mouse_B", "Human_C") for arm in utils.ARMS for seed in (0, 1)
        )
        assert table[list(score.METRICS)].notna().all(axis=None)
    assert out.count("won/tied/lost") == 4 and "Human_D" not in out


def test_what_is_done_is_kept_and_what_was_made_otherwise_is_made_again(command, tmp_path, capsys):
    assert command("--clf", "lr", "--datasets", "Mouse_A") == 0
    path = tmp_path / "lr.csv"
    before = path.read_bytes()
    capsys.readouterr()
    assert command("--clf", "lr", "--datasets", "Mouse_A") == 0
    assert "2 of 2 runs are in" in capsys.readouterr().out
    assert path.read_bytes() == before
    assert command("--clf", "lr", "--datasets", "Mouse_A", "--max_tr_num", 9) == 0
    table = utils.read_results(path)
    assert set(table.n_train) == {9} and len(table[table.arm.isin(utils.ARMS)]) == 2


def test_tuned_results_have_their_own_table(command, tmp_path):
    assert command("--clf", "knn", "--tuned", "--datasets", "Mouse_B") == 0
    table = utils.read_results(tmp_path / "knn_tuned.csv")
    assert len(table[table.arm.isin(utils.ARMS)]) == 2
    assert not (tmp_path / "knn.csv").exists()


def test_both_arms_get_the_same_cells_on_the_split_of_main(command, corpus, monkeypatch):
    calls = []
    fit = off_the_shelf.fit

    def watched(kind, points, labels, **flags):
        calls.append((points, labels))
        return fit(kind, points, labels, **flags)

    monkeypatch.setattr(off_the_shelf, "fit", watched)
    assert command("--clf", "lr", "--datasets", "Mouse_A") == 0
    (with_, its_labels), *others = calls
    assert with_.shape == (24, 8) and len(others) == 4
    assert all((its_labels == labels).all() and len(points) == 24 for points, labels in others)
    entry = next(entry for entry in catalogue.read_catalogue(corpus) if entry.name == "Mouse_A")
    dataset = data.prepare(entry, {})
    parts = data.split(40, seed=0)
    assert (its_labels == dataset.types.labels[parts.train]).all()
    assert all(
        np.abs(points.mean(axis=0)).max() < 1e-4 for points, _ in others
    )  # the components' centre is that of the training cells


def test_depth_is_taken_out_of_the_counts_of_both_arms(command, corpus, tmp_path, monkeypatch):
    seen = {}

    def watched(dataset, checkpoint, parts, seed):
        seen[len(seen)] = dataset.counts
        return arms(dataset, checkpoint, parts, seed)

    arms = rf_svm_lr.arms_of_split
    monkeypatch.setattr(rf_svm_lr, "arms_of_split", watched)
    assert command("--clf", "lr", "--datasets", "Mouse_A") == 0
    assert np.allclose(np.expm1(seen[0].toarray()).sum(axis=1), 1e4, rtol=1e-4)


def test_the_arm_without_pre_training_is_the_best_of_its_baselines(command, tmp_path):
    assert command("--clf", "knn") == 0
    table = utils.read_results(tmp_path / "knn.csv")
    assert len(table) == 3 * 6
    for _, rows in table.groupby("dataset"):
        f1 = rows.set_index("arm").macro_f1
        plain = f1.drop(list(utils.ARMS))
        assert set(plain.index) == {"15 PCs", "50 PCs", "200 PCs", "50 PCs of 2,000 variable genes"}
        assert f1[utils.ARMS[1]] == plain.max()


def test_with_a_corpus_of_signal_shares_the_embedding_is_the_map_of_the_training_cells(command, run, tmp_path):
    assert run("--is_pretrain", "--kmeans", "--recipe", "scpretrain2") == 0
    assert command("--clf", "lr", "--datasets", "Mouse_A") == 0
    table = utils.read_results(tmp_path / "lr.csv").set_index("arm")
    assert set(table.index) >= {*utils.ARMS, utils.FROZEN} and len(table) == 7
    assert table.run[utils.FROZEN] == table.run[utils.ARMS[0]] != table.run[utils.ARMS[1]]
    assert table.macro_f1[utils.ARMS[0]] > 0.5


def test_a_run_cut_off_between_any_two_rows_ends_with_all_of_them(command, run, tmp_path, monkeypatch):
    assert run("--is_pretrain", "--kmeans", "--recipe", "scpretrain2") == 0
    assert command("--clf", "lr", "--datasets", "Mouse_A") == 0
    whole, write = utils.read_results(tmp_path / "lr.csv"), utils.ResultTable.write
    for rows in range(1, len(whole)):
        (tmp_path / "lr.csv").unlink()
        with monkeypatch.context() as patch:
            patch.setattr(utils.ResultTable, "write", cut_off(write, rows))
            assert command("--clf", "lr", "--datasets", "Mouse_A") == 130
        assert command("--clf", "lr", "--datasets", "Mouse_A") == 0
        again = utils.read_results(tmp_path / "lr.csv")
        assert sorted(zip(again.arm, again.seed, strict=True)) == sorted(zip(whole.arm, whole.seed, strict=True)), rows


def test_without_a_checkpoint_the_command_that_makes_it_is_named(corpus, tmp_path, capsys):
    missing = tmp_path / "none.out"
    assert rf_svm_lr.main(["--data_dir", str(corpus), "--pretrained_model", str(missing), "--offline"]) == 2
    error = capsys.readouterr().err
    assert f"python main.py --is_pretrain --kmeans --data_dir {corpus} --save_model {missing} --offline" in error
    assert "Traceback" not in error and len(error.splitlines()) == 1


def test_a_result_table_is_read_back_as_it_was_written(tmp_path):
    path = utils.classifier_results(tmp_path / "result.out", "svm", False)
    row = dict.fromkeys(utils.RESULT_COLUMNS, 0.25) | {"dataset": "NA", "arm": utils.ARMS[0], "seed": 3, "run": "12"}
    utils.write_result(path, row)
    [back] = utils.read_results(path).to_dict("records")
    assert pd.Series(back).drop("dataset").equals(pd.Series(row).drop("dataset"))
