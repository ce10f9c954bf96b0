"""Which cells to label next.  python -m pytest tests/annotation/test_suggest.py"""

import numpy as np
import pytest

from annotation.suggest import suggest


def groups(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cells around well-separated centres, and which centre."""
    kind = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(seed)
    return 8 * np.eye(len(sizes), 12)[kind] + 0.5 * rng.standard_normal((len(kind), 12)), kind


def test_every_group_gets_a_suggestion_however_small():
    points, kind = groups([300, 100, 30, 20, 15])
    rows, clusters = suggest(points, n=5)
    assert set(kind[rows]) == set(range(5)) and len(set(clusters)) == 5


def test_groups_that_have_a_label_are_passed_over():
    points, kind = groups([60, 60, 60, 60, 60, 60])
    labels = np.full(360, -1)
    for group in (0, 1, 2):
        labels[np.flatnonzero(kind == group)[:5]] = group
    rows, _ = suggest(points, labels, n=3)
    assert set(kind[rows]) == {3, 4, 5} and (labels[rows] == -1).all()


def test_cells_are_distinct_unlabelled_and_as_many_as_asked_for():
    points, kind = groups([40, 40])
    labels = np.where(np.arange(80) % 2 == 0, kind, -1)
    for n in (1, 7, 40):
        rows, _ = suggest(points, labels, n=n)
        assert len(set(rows.tolist())) == n and (labels[rows] == -1).all()


def test_the_same_seed_suggests_the_same_cells():
    points, _ = groups([50, 50, 50])
    np.testing.assert_array_equal(suggest(points, n=6, seed=3)[0], suggest(points, n=6, seed=3)[0])


def test_groups_the_classifier_is_unsure_of_come_first():
    points, kind = groups([60, 60, 60])
    p = np.full((180, 3), [0.98, 0.01, 0.01])
    p[kind == 2] = 1 / 3
    rows, _ = suggest(points, n=3, probabilities=p)
    assert kind[rows[0]] == 2


def test_too_many_suggestions_are_refused_with_the_number_that_can_be():
    points, _ = groups([5, 5])
    with pytest.raises(ValueError, match="1 to 10"):
        suggest(points, n=11)
