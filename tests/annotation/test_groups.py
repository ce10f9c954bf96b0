"""Groups of cells to be named: run with `python -m pytest tests/annotation/test_groups.py`."""

import numpy as np
import pytest

from annotation import groups


def blobs(sizes, apart=8.0, seed=0):
    """Features of well-separated groups of these sizes, and the group of each cell."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, apart, (len(sizes), 10))
    of = np.repeat(np.arange(len(sizes)), sizes)
    order = rng.permutation(len(of))
    return (centres[of] + rng.normal(0, 1, (len(of), 10)))[order].astype(np.float32), of[order]


def test_a_group_of_ten_cells_is_kept_apart_from_hundreds():
    x, truth = blobs([300, 200, 100, 10])
    found = groups.find(x, x, 4, 0)
    assert np.bincount(found.of).tolist() == [300, 200, 100, 10]
    assert len(set(zip(found.of, truth, strict=True))) == 4 and found.stability == pytest.approx(1)


def test_every_cell_is_in_the_group_of_the_nearest_centre():
    x, _ = blobs([80, 60, 40], apart=1.0)
    found = groups.find(x, x, 6, 0)
    nearest = ((x[:, None] - found.centres) ** 2).sum(axis=2).argmin(axis=1)
    assert (found.of == nearest).all()
    size = np.bincount(found.of)
    assert (np.diff(size) <= 0).all() and len(size) == 6


def test_groups_of_noise_are_said_to_be_less_stable():
    noise = np.random.default_rng(0).normal(size=(300, 10)).astype(np.float32)
    x, _ = blobs([100, 100, 100])
    assert groups.find(noise, noise, 8, 0).stability < 0.7 < groups.find(x, x, 3, 0).stability


@pytest.mark.parametrize("cells", [1, 2, 5])
def test_few_cells_make_fewer_groups_than_asked_for(cells):
    x = np.random.default_rng(0).normal(size=(cells, 4)).astype(np.float32)
    found = groups.find(x, x, 20, 0)
    assert len(found.centres) == max(1, cells // groups.LEAST) and len(found.of) == cells


def test_the_cells_to_look_at_are_of_their_group():
    x, _ = blobs([90, 50, 2])
    found = groups.find(x, x, 3, 0)
    for k, rows in enumerate(groups.to_look_at(found, x, 0)):
        assert len(rows) == min(groups.LOOK_AT, (found.of == k).sum()) and (found.of[rows] == k).all()


def test_two_groups_in_one_are_said_to_be_mixed():
    x, _ = blobs([100, 60, 60])
    found = groups.find(x, x, 2, 0)
    size = np.bincount(found.of)
    mixed = groups.mixed(found, x, 0)
    assert mixed[size != 100].all() and not mixed[size == 100].any()


def test_cells_of_another_named_group_do_not_keep_the_name_of_their_own():
    points, truth = blobs([60, 60])
    of, astray = truth.copy(), np.flatnonzero(truth == 0)[:5]
    of[astray] = 1  # five cells of the first blob were put into the second group
    names = of.copy()
    kept = groups.keep_their_name(points, of, names, 0)
    assert np.flatnonzero(~kept).tolist() == astray.tolist()
    assert groups.keep_their_name(points, np.where(of == 1, -1, of), names, 0).all()  # nothing to tell apart
