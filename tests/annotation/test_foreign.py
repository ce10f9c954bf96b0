"""Whether a query is of the references' world, on small worlds.  python -m pytest tests/annotation/test_foreign.py"""

import numpy as np
from scipy.sparse import csr_matrix

from annotation import foreign


def organ(seed: int, cells: int = 200, technique: int = 0, types: int = 4, only: int | None = None):
    """log1p (N, 600) of an organ's four types and which type; a technique changes genes in all types alike."""
    base = np.random.default_rng(seed)
    rates = base.gamma(0.3, 1.5, 600) * np.exp(base.normal(0, 1.0, (types, 600)))
    rates = rates * np.exp(np.random.default_rng(100 + technique).normal(0, 0.5, 600))
    rng = np.random.default_rng(1000 + seed + technique)
    kinds = rng.integers(types, size=cells) if only is None else np.full(cells, only)
    return csr_matrix(np.log1p(rng.poisson(rates[kinds])).astype(np.float32)), kinds


def test_another_technique_is_of_this_world_and_another_organ_is_not():
    theirs, labels = organ(1)
    same, other = (foreign.familiarity(theirs, labels, x, 0) for x in (organ(1, technique=1)[0], organ(2)[0]))
    assert same > foreign.FAMILIAR > other


def test_a_query_of_one_type_only_is_of_this_world():
    theirs, labels = organ(1)
    assert foreign.familiarity(theirs, labels, organ(1, technique=1, only=2)[0], 0) > foreign.FAMILIAR


def test_correlations_are_those_of_numpy_and_0_without_spread():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 9)), rng.normal(size=(2, 9))
    np.testing.assert_allclose(foreign.correlation(a, b), np.corrcoef(a, b)[:3, 3:])
    assert (foreign.correlation(np.ones((1, 9)), b) == 0).all()


def test_the_mean_of_the_best_half_cuts_a_group_where_the_half_ends():
    found = foreign.best_mean(np.array([1.0, 3.0, 2.0]), np.array([0.4, 0.3, 0.3]), 0.5)
    np.testing.assert_allclose(found, (0.3 * 3 + 0.2 * 2) / 0.5)
