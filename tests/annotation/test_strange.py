"""Cells that no type of other datasets explains.  python -m pytest tests/annotation/test_strange.py"""

import numpy as np
import pytest

from annotation import road, strange


def cells(seed: int, counts: tuple[int, ...], spread: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Cells (N, 8) around centres, so many of each, and which."""
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(len(counts)), counts)
    return (4 * np.eye(6, 8)[kind] + spread * rng.standard_normal((len(kind), 8))).astype(np.float32), kind


def scored(points, known, query):
    """Scores of a query and what its cells are called, by a nearest-centre classifier without doubt."""
    types = np.unique(known)
    centres = np.stack([points[known == k].mean(axis=0) for k in types])
    called = types[((query[:, None] - centres) ** 2).sum(axis=-1).argmin(axis=1)]
    near = road.neighbours(query, 10)
    averaged = query[near].mean(axis=1)
    places = strange.places(points, known, query, averaged, called)
    sure = np.tile([1.0, 0.0], (len(query), 1))
    return strange.scores(places, averaged, sure, near)[0], called, places


def flagged(reference, query, types: int, between: float):
    """Which cells of the query lie beyond the limits that a held-out half of the reference sets."""
    points, known = reference
    half = np.arange(len(points)) % 2 == 0
    held, of_held, _ = scored(points[half], known[half], points[~half])
    scores, called, _ = scored(points, known, query)
    return scores > strange.limits_of(held, of_held, scores, called, types, 0.05, between)[called]


def test_a_query_that_was_moved_and_stretched_is_not_all_unknown():
    query, _ = cells(1, (60, 60, 60))
    found = flagged(cells(0, (100, 100, 100)), 1.3 * query + np.linspace(-1, 1, 8), 3, 0.5)
    assert found.mean() < 0.1


@pytest.mark.parametrize("between", [0.0, 0.5])
def test_a_type_the_references_lack_is_beyond_the_limits_of_the_others(between):
    query, kind = cells(1, (60, 60, 60, 60))
    found = flagged(cells(0, (100, 100, 100)), query + 0.5, 3, between)
    assert found[kind == 3].mean() > 0.9 and found[kind < 3].mean() < 0.12


def test_a_query_of_one_type_is_not_strange_for_having_no_others():
    query, _ = cells(1, (0, 90))
    assert flagged(cells(0, (100, 100, 100)), query + 0.5, 3, 0.5).mean() < 0.1


def test_types_the_query_lacks_lie_where_the_whole_query_was_moved_to():
    points, known = cells(0, (100, 100, 100))
    shift = np.linspace(-1, 1, 8)
    query, _ = cells(1, (80, 80))
    places = scored(points, known, query + shift)[2]
    third = np.linalg.solve(places.root.T, places.centres[2])
    np.testing.assert_allclose(third, points[known == 2].mean(axis=0) + shift, atol=0.3)


def test_halves_of_one_set_are_not_apart_and_moved_types_are_as_far_as_they_were_moved():
    points, known = cells(0, (40, 40, 40), spread=2.0)
    same, kind = cells(1, (40, 40, 40), spread=2.0)
    assert strange.apart(points, known, same, kind, 0) < 0.1
    moved = same + np.array([0, 0, 0, 4, 0, 0, 0, 4])  # as far as two types are apart
    assert strange.apart(points, known, moved, kind, 0) == pytest.approx(1.0, abs=0.4)
    assert strange.apart(points[:3], known[:3], moved, kind, 0) == 0.0


def test_limits_are_those_of_each_type_and_are_raised_between_experiments_only():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 400)
    held = rng.normal(0, 1, 800) * np.where(labels == 0, 1, 3)
    limits = strange.limits_of(held, labels, held - 5, labels, 2, 0.05)
    for k in (0, 1):
        assert 0.01 < (held[labels == k] > limits[k]).mean() < 0.07
    apart = strange.limits_of(held, labels, held + 30, labels, 2, 0.05, 10.0)
    assert (apart > limits + 10).all()
    assert np.isinf(strange.limits_of(held[:4], labels[:4], held, labels, 2, 0.05)).all()


def test_a_limit_is_moved_into_a_gap_that_is_near():
    above = np.concatenate([np.random.default_rng(0).normal(-0.2, 0.1, 500), np.full(50, 0.2)])
    assert 0 < strange.emptiest(above) <= strange.MOVED
    assert strange.emptiest(-above) < 0


def test_a_cell_of_a_block_is_scored_as_the_fitted_one_is():
    points, known = cells(0, (100, 100, 100))
    query, kind = cells(1, (50, 50, 50))
    near = road.neighbours(query, 10)
    averaged, sure = query[near].mean(axis=1), np.tile([0.7, 0.3], (150, 1))
    places = strange.places(points, known, query, averaged, kind)
    scores, local = strange.scores(places, averaged, sure, near)
    fitted = strange.Strange(places, local, np.array([0.1, 0.2, 0.3]))
    np.testing.assert_allclose(
        fitted.score(averaged, sure, near[:, 1:], kind), scores - np.array([0.1, 0.2, 0.3])[kind], atol=1e-6
    )
