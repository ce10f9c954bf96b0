"""Cells that are held out: pytest tests/stages/test_folds.py."""

import numpy as np

from stages.folds import every_cell_once, folds


def test_every_type_is_spread_over_the_folds_and_a_lone_label_is_never_held_out():
    labels = np.array([0] * 10 + [1] * 10 + [2] + [-1] * 5)
    fold = folds(labels, 5, seed=0)
    assert (fold[labels == -1] == -1).all() and fold[20] == -1
    for kind in (0, 1):
        assert (np.bincount(fold[labels == kind], minlength=5) == 2).all()


def test_every_cell_is_held_out_once_and_the_types_are_dealt_evenly():
    labels = np.repeat([0, 1, 2], (50, 11, 1))
    splits = list(every_cell_once(labels, 5, seed=3))
    held = np.concatenate([held for _, held in splits])
    assert sorted(held) == list(range(62))
    assert all(not set(rest) & set(held) and len(rest) + len(held) == 62 for rest, held in splits)
    assert {int((labels[held] == 0).sum()) for _, held in splits} == {10}


def test_chance_is_an_argument():
    labels = np.resize([0, 1], 40)
    assert np.array_equal(folds(labels, 4, seed=1), folds(labels, 4, seed=1))
    assert not np.array_equal(folds(labels, 4, seed=1), folds(labels, 4, seed=2))
