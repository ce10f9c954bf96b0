"""The few-label benchmark on a small world: run with `python -m pytest tests/test_few_labels.py`."""

import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import MOUSE, write_catalogue, write_dataset
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from benchmarks import baselines, few_labels, splits, table
from reading import catalogue

METHODS = "LR;linear SVM;random forest;LR on 50 PCs;no pre-training;scpretrain2;frozen encoder;network, fine-tuned"


@pytest.fixture
def bench(corpus, tmp_path):
    def bench(*flags: object) -> int:
        places = ["--data_dir", corpus, "--out", tmp_path / "out", "--seeds", 1, "--methods", METHODS]
        return few_labels.main([str(flag) for flag in [*places, *flags]])

    return bench


def results(tmp_path):
    return table.read(tmp_path / "out" / "results.csv")


# -- the whole command


def test_it_runs_resumes_and_reports(bench, tmp_path, capsys):
    assert bench("--budgets", "5") == 0
    said = capsys.readouterr().out
    found = results(tmp_path)
    assert len(found) == 3 * 8 and found["macro_f1"].between(0, 1).all() and set(found["n_train"]) == {15}
    assert "5 labelled cells a type: 3 datasets" in said and "scpretrain2 - no pre-training:" in said
    assert (tmp_path / "out" / "few_labels.png").stat().st_size > 1000 and (tmp_path / "out" / "table.txt").exists()
    lines = (tmp_path / "out" / "results.csv").read_text()
    assert bench("--budgets", "5") == 0  # nothing is left to do
    assert (tmp_path / "out" / "results.csv").read_text() == lines
    assert bench("--budgets", "5,published") == 0  # only the other budget; no network there
    assert len(results(tmp_path)) == 3 * 8 + 3 * 7
    assert "published split: 3 datasets" in capsys.readouterr().out


def test_pre_training_never_sees_the_family_it_is_tested_on(bench, tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(few_labels.pretraining, "main", lambda flags: runs.append(flags) or 1)
    (tmp_path / "families").write_text("Mouse_A,one\nHuman_D,one\n")
    assert bench("--families", tmp_path / "families", "--datasets", "Mouse_A") == 2
    [flags] = runs
    assert flags[flags.index("--datasets") + 1] == "Human_C,Mouse_B"


# -- families


def test_datasets_that_share_cells_are_one_family(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(splits, "COMPARED", 10)
    shutil.copy(corpus / "Mouse_A.h5", corpus / "Mouse_E.h5")
    write_dataset(corpus / "Kang_1.h5", 7, MOUSE)
    write_dataset(corpus / "Kang_2.h5", 8, MOUSE)
    names = ["Mouse_A", "Mouse_B", "Mouse_E", "Kang_1", "Kang_2"]
    write_catalogue(corpus, [(name, "mouse", "yes") for name in names])
    entries = catalogue.read_catalogue(corpus)
    family = splits.families(entries, None, tmp_path / "families.csv")
    assert family["Mouse_A"] == family["Mouse_E"] != family["Mouse_B"]
    assert family["Kang_1"] == family["Kang_2"] == "Kang"
    assert splits.families(entries, None, tmp_path / "families.csv") == family  # from the file
    parts = splits.folds_of(entries, family, 2)
    of = {entry.name: k for k, part in enumerate(parts) for entry in part}
    assert of["Mouse_A"] == of["Mouse_E"] and of["Kang_1"] == of["Kang_2"] and set(of.values()) == {0, 1}


# -- splits


def test_a_split_takes_at_most_half_of_a_types_cells():
    y = np.repeat([0, 1, 2], [100, 30, 12])
    rows = splits.split(y, "20", 3)
    assert np.bincount(y[rows]).tolist() == [20, 15, 6]
    assert np.array_equal(rows, splits.split(y, "20", 3)) and not np.array_equal(rows, splits.split(y, "20", 4))


def test_with_all_labels_five_seeds_test_every_cell_once():
    y = np.repeat([0, 1, 2], [100, 30, 12])
    tested = [np.setdiff1d(np.arange(len(y)), splits.split(y, "all", seed)) for seed in range(20, 25)]
    assert np.array_equal(np.sort(np.concatenate(tested)), np.arange(len(y)))
    assert all(abs(np.bincount(y[rows]) - [20, 6, 2.4]).max() < 1 for rows in tested)


def test_a_small_budget_has_so_many_cells_of_types_with_cells_to_test():
    y = np.repeat([0, 1, 2], [150, 100, 12])
    counts = csr_matrix(np.random.default_rng(0).poisson(20, (262, 5)).astype(np.float32))
    dataset = splits.Dataset("A", counts, counts, list("abcde"), y, 3)
    small = splits.smaller(dataset, "3@120", 0)
    assert 100 < len(small.y) <= 120 and np.bincount(small.y).min() >= 6 and small.x.shape == (len(small.y), 5)
    assert np.bincount(small.y[splits.split(small.y, "3@120", 0)]).tolist() == [3] * small.types
    assert np.array_equal(small.y, splits.smaller(dataset, "3@120", 0).y)
    assert splits.smaller(dataset, "5@800", 0) is None  # under half as many cells
    shallow = splits.smaller(dataset, "5@250 shallow", 0)
    assert 0.05 < shallow.counts.sum() / counts.sum() < 0.15
    assert np.allclose(np.expm1(shallow.x.toarray()).sum(axis=1), 1e4, rtol=1e-3)
    dataset.counts = counts / 3
    assert splits.smaller(dataset, "5@250 shallow", 0) is None  # no counts, no thinning


def test_splits_are_stored_and_read_back(tmp_path):
    y = np.resize([0, 1], 60)
    dataset = splits.Dataset("A", csr_matrix((60, 3)), csr_matrix((60, 3)), ["a", "b", "c"], y, 2)
    for budget in splits.BUDGETS:
        rows, others = splits.stored_split(dataset, budget, 0, tmp_path)
        again = splits.stored_split(dataset, budget, 0, tmp_path)
        assert np.array_equal(rows, again[0]) and np.array_equal(others, again[1])
        assert not set(rows) & set(others)
    assert len(list((tmp_path / "splits").glob("A-*-0.npz"))) == 4


# -- what a row depends on


def test_another_classifier_outdates_our_rows_only(monkeypatch):
    def runs():
        return [few_labels.run_of(method, "5", 0, "file", None) for method in ("LR", "no pre-training")]

    before = runs()
    monkeypatch.setattr(few_labels.classify, "TILT", 0.125)
    after = runs()
    assert before[0] == after[0] and before[1] != after[1]


def test_a_copied_dataset_is_the_same_and_a_changed_one_is_not(corpus, tmp_path):
    copy = shutil.copyfile(corpus / "Mouse_A.h5", tmp_path / "Mouse_A.h5")
    assert splits.content_of(copy) == splits.content_of(corpus / "Mouse_A.h5")
    copy.write_bytes(copy.read_bytes() + b"1")
    assert splits.content_of(copy) != splits.content_of(corpus / "Mouse_A.h5")


# -- baselines and numbers


def test_rotated_cells_give_the_answers_of_all_genes():
    rng = np.random.default_rng(0)
    x = csr_matrix(rng.poisson(1.0, (60, 200)).astype(np.float64))
    y = np.resize([0, 1, 2], 30)
    inside, outside = baselines.rotated(x, np.arange(30), np.arange(30, 60))
    short = LogisticRegression(C=0.1, max_iter=1000, tol=1e-8).fit(inside, y).predict_proba(outside)
    long = LogisticRegression(C=0.1, max_iter=1000, tol=1e-8).fit(x[:30], y).predict_proba(x[30:])
    assert inside.shape[1] < 30 and np.allclose(short, long, atol=1e-4)


def test_the_strength_is_tuned_on_training_cells():
    rng = np.random.default_rng(0)
    y = np.resize([0, 1], 40)
    points = rng.normal(size=(40, 50)) + np.outer(y, np.eye(50)[0]) * 1.5
    seen = []
    baselines.tuned(lambda c: seen.append(c) or LogisticRegression(C=c), (0.01, 1.0), points, y, 0)
    assert seen[:6] == [0.01] * 3 + [1.0] * 3 and seen[6] in (0.01, 1.0)


def test_cells_to_choose_by_are_spread_over_the_types():
    y = np.repeat([0, 1, 2], [100, 30, 4])
    rows = baselines.evenly(y, 40, 0)
    assert np.bincount(y[rows]).tolist() == [18, 18, 4] and (np.diff(rows) > 0).all()
    assert np.array_equal(baselines.evenly(y, 134, 0), np.arange(134))


def test_the_interval_covers_the_mean_and_is_the_same_every_time():
    difference = pd.Series(np.linspace(-0.1, 0.3, 25))
    low, high = table.interval(difference)
    assert low < difference.mean() < high and (low, high) == table.interval(difference)


def test_methods_are_compared_on_the_splits_they_share(tmp_path):
    path = tmp_path / "results.csv"
    row = {"n_train": 1, "n_test": 1, "accuracy": 0.5, "kappa": 0.5, "seconds": 1, "run": "a", "budget": "5"}
    for method, seed, value in (("LR", 0, 0.5), ("LR", 1, 0.9), ("scpretrain2", 0, 0.7), ("LR", 0, 0.6)):
        table.append(path, row | {"dataset": "A, b", "method": method, "seed": seed, "macro_f1": value})
    found = table.means(table.read(path), "5", ("LR", "scpretrain2"), "macro_f1")
    assert found.loc["A, b"].to_dict() == {"LR": 0.6, "scpretrain2": 0.7}  # seed 0 alone, its last line


def test_unknown_words_are_refused(bench, capsys):
    for flags, word in ((["--methods", "magic"], "magic"), (["--budgets", "7"], "7")):
        with pytest.raises(SystemExit):
            bench(*flags)
        assert word in capsys.readouterr().err
    assert bench("--datasets", "Mouse_Z") == 2
