"""Which cells are held out when a classifier is judged by cells it has not met: every type spread evenly."""

from collections.abc import Iterator

import numpy as np


def folds(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """A fold for each labelled cell, every type spread evenly; -1: no label, or the only one of its type."""
    rng = np.random.default_rng(seed)
    fold = np.full(len(labels), -1)
    for label in np.unique(labels[labels >= 0]):
        rows = rng.permutation(np.flatnonzero(labels == label))
        if len(rows) > 1:
            fold[rows] = (np.arange(len(rows)) + rng.integers(count)) % count
    return fold  # (N,)


def every_cell_once(labels: np.ndarray, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rest, held out) rows; no cell stays in all folds, so a type of few cells may be missing from the rest.

    Types are dealt out one after the other, which keeps the folds of one size too.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # type by type, in random order within
    fold = np.empty(len(labels), dtype=int)
    fold[order] = np.arange(len(labels)) % count
    for number in range(count):
        if (fold == number).any():
            yield np.flatnonzero(fold != number), np.flatnonzero(fold == number)
