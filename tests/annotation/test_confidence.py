"""Calibrated probabilities and cells no type explains.  python -m pytest tests/annotation/test_confidence.py"""

import numpy as np
import pytest

from annotation import confidence


def groups(seed: int = 0, each: int = 150, spread: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Cells (N, 6) around four centres, and which centre."""
    rng = np.random.default_rng(seed)
    centres = 4 * np.eye(4, 6)
    kind = np.repeat(np.arange(4), each)
    return (centres[kind] + spread * rng.standard_normal((len(kind), 6))).astype(np.float32), kind


def soft(points: np.ndarray, types: int) -> np.ndarray:
    """Probabilities of a nearest-centre classifier that knows the first `types` centres."""
    distance = ((points[:, None, :] - 4 * np.eye(4, 6)[:types]) ** 2).sum(-1)
    p = np.exp(-distance / 4)
    return p / p.sum(axis=1, keepdims=True)


def test_calibration_error_is_zero_for_honest_and_large_for_boastful_probabilities():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 20_000)
    labels = (rng.random(20_000) > p).astype(int)
    honest, boastful = np.column_stack([p, 1 - p]), np.tile([0.999, 0.001], (20_000, 1))
    assert confidence.ece(honest, labels) < 0.02
    assert confidence.ece(boastful, labels) == pytest.approx(0.999 - (labels == 0).mean(), abs=1e-6)


def test_unlabelled_cells_do_not_count_in_the_calibration_error():
    p = np.array([[0.9, 0.1], [0.2, 0.8]])
    assert confidence.ece(p, np.array([0, -1])) == pytest.approx(0.1)
    assert np.isnan(confidence.ece(p, np.array([-1, -1])))


def test_held_out_cells_are_predicted_without_their_label():
    labels = np.array([0, 0, 0, 1, 1, 1, -1])
    told = []

    def predict(known):
        told.append(known)
        return np.tile([0.5, 0.5], (7, 1))

    held = confidence.out_of_fold(predict, labels, 2, n_folds=3)
    assert np.isfinite(held[:6]).all() and np.isnan(held[6]).all()
    assert all(((known == labels) | (known == -1)).all() and (known == -1).sum() > 1 for known in told)
    assert sum((known[:6] == -1).sum() for known in told) == 6


def test_temperature_cools_what_is_timid_and_warms_what_boasts():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (4000, 3))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(3, p=row) for row in p])
    for power in (0.5, 1.0, 3.0):
        given = p**power / (p**power).sum(axis=1, keepdims=True)
        assert confidence.fit_temperature(given, labels) == pytest.approx(power, rel=0.1)


def test_calibrating_keeps_the_order_of_types_and_the_sum():
    p = np.random.default_rng(2).dirichlet(np.ones(5), 50)
    out = confidence.calibrate(p, 2.5)
    np.testing.assert_allclose(out.sum(axis=1), 1)
    np.testing.assert_array_equal(out.argsort(axis=1), p.argsort(axis=1))


def test_cells_of_a_new_type_are_stranger_than_those_of_known_ones():
    points, kind = groups()
    labels = np.where((kind < 3) & (np.arange(600) % 150 < 30), kind, -1)
    fitted, scores = confidence.fit_unknown(points, soft(points, 3), labels, error=0.05)
    new, flagged = kind == 3, scores > fitted.threshold
    assert flagged[new].mean() > 0.95 and flagged[~new].mean() < 0.1
    block = fitted.score(points, soft(points, 3)) > fitted.threshold
    assert (block == flagged).mean() > 0.97


def test_a_smaller_error_flags_fewer_cells():
    points, kind = groups(3, spread=1.0)
    labels = np.where(np.arange(600) % 150 < 40, kind, -1)
    flagged = []
    for error in (0.01, 0.05, 0.2):
        fitted, scores = confidence.fit_unknown(points, soft(points, 4), labels, error=error)
        flagged.append(int((scores > fitted.threshold).sum()))
    assert flagged == sorted(flagged)


def test_too_few_labels_flag_nobody_and_none_is_an_error():
    points, kind = groups()
    labels = np.full(600, -1)
    labels[[0, 150, 300, 450]] = range(4)
    assert np.isinf(confidence.fit_unknown(points, soft(points, 4), labels)[0].threshold)
    with pytest.raises(ValueError, match="label some cells"):
        confidence.fit_unknown(points, soft(points, 4), np.full(600, -1))


def test_humbled_probabilities_keep_their_order_and_stay_below_the_most():
    p = np.random.default_rng(2).dirichlet(0.2 * np.ones(5), 50)
    out = confidence.humbled(p, 0.5)
    assert out.max() <= 0.5 + 1e-12
    np.testing.assert_allclose(out.sum(axis=1), 1)
    np.testing.assert_array_equal(out.argmax(axis=1), p.argmax(axis=1))
    two = confidence.humbled(np.array([[0.99, 0.01], [1.0, 0.0]]), 0.5)
    np.testing.assert_allclose(two, 0.5)


def test_unknown_cells_of_two_kinds_fall_into_two_groups_the_larger_first():
    points, kind = groups(7)
    two = np.vstack([points[kind == 0][:60], points[kind == 1]])
    found = confidence.groups(two, seed=0)
    assert len(found) == 2 and found[0].argmax() == 1
    assert len(confidence.groups(points[kind == 0], seed=0)) == 1 and len(confidence.groups(points[:3], seed=0)) == 1
