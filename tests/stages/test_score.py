"""Scores against scikit-learn's own words for them: run with `python -m pytest tests/stages/test_score.py`."""

import numpy as np
import pytest
from scipy.stats import wilcoxon
from sklearn.metrics import (
    accuracy_score,
    auc,
    cohen_kappa_score,
    f1_score,
    precision_recall_curve,
    roc_auc_score,
)

from stages import score


def world(types=4, cells=200, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(types, size=cells)
    outputs = rng.random((cells, types)) + 0.6 * np.eye(types)[labels]
    return labels, outputs / outputs.sum(axis=1, keepdims=True)


def test_with_every_type_in_the_test_the_scores_are_those_of_scikit_learn():
    labels, outputs = world()
    ours, predicted = score.scores(labels, outputs), outputs.argmax(axis=1)
    assert tuple(ours) == tuple(score.METRICS)
    assert ours["accuracy"] == accuracy_score(labels, predicted)
    assert ours["kappa"] == pytest.approx(cohen_kappa_score(labels, predicted))
    assert ours["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert ours["auroc"] == pytest.approx(roc_auc_score(labels, outputs, multi_class="ovr", average="macro"))
    areas = []
    for kind in range(4):
        precision, recall, _ = precision_recall_curve(labels == kind, outputs[:, kind])
        areas.append(auc(recall, precision))
    assert ours["auprc"] == pytest.approx(np.mean(areas))


def test_a_type_that_no_test_cell_has_is_in_no_mean():
    labels, outputs = world()
    labels[labels == 2] = 0
    ours = score.scores(labels, outputs)
    present = [0, 1, 3]
    assert ours["auroc"] == pytest.approx(np.mean([roc_auc_score(labels == k, outputs[:, k]) for k in present]))
    predicted = outputs.argmax(axis=1)
    by_type = f1_score(labels, predicted, labels=present, average=None)
    assert ours["macro_f1"] == pytest.approx(by_type.mean())
    assert all(np.isfinite(value) for value in ours.values())


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.filterwarnings("error")
def test_a_test_of_one_type_only_is_never_nan(right):
    outputs = np.tile([0.7, 0.2, 0.1] if right else [0.2, 0.7, 0.1], (9, 1))
    ours = score.scores(np.zeros(9, int), outputs)
    assert all(np.isfinite(value) for value in ours.values())
    assert ours["accuracy"] == ours["kappa"] == ours["macro_f1"] == float(right)


def test_a_perfect_prediction_is_one_in_everything():
    labels = np.resize([0, 1, 2], 30)
    assert set(score.scores(labels, np.eye(3)[labels]).values()) == {1.0}


def test_a_constant_prediction_is_chance():
    labels = np.resize([0, 1], 30)
    ours = score.scores(labels, np.tile([0.6, 0.4], (30, 1)))
    assert ours["kappa"] == 0 and ours["auroc"] == 0.5 and ours["accuracy"] == 0.5


def test_an_empty_test_and_outputs_that_are_not_finite_are_errors():
    with pytest.raises(ValueError, match="no test cell.*--per_train"):
        score.scores(np.zeros(0, int), np.zeros((0, 3)))
    with pytest.raises(ValueError, match="not finite.*learning rate"):
        score.scores(np.array([0, 1]), np.array([[0.5, np.nan], [1, 0]]))


def test_two_arms_are_compared_dataset_by_dataset():
    rng = np.random.default_rng(0)
    first, second = rng.random(20), rng.random(20)
    second[:3] = first[:3] + 1e-4
    both = score.compare(first, second)
    assert (both.first, both.second) == (first.mean(), second.mean())
    assert both.tied == 3 and both.won == (first[3:] > second[3:]).sum() and both.won + both.tied + both.lost == 20
    assert both.p == pytest.approx(wilcoxon(first, second).pvalue)


def test_equal_arms_and_a_single_dataset_have_a_p():
    assert score.compare([0.5, 0.6], [0.5, 0.6]).p == 1
    assert score.compare([0.9], [0.5]).p == 1
