"""Clusters that vote.  python -m pytest tests/annotation/test_consensus.py"""

import numpy as np

from annotation import consensus


def test_clusters_are_assigned_as_they_were_found():
    points = np.random.default_rng(0).normal(0, 1, (300, 5)).astype(np.float32)
    centres, clusters = consensus.over_cluster(points, seed=0)
    assert (consensus.assign(points, centres) == clusters).mean() > 0.98
    distance = ((points[:, None] - centres) ** 2).sum(-1)
    np.testing.assert_array_equal(consensus.assign(points, centres), distance.argmin(axis=1))


def test_votes_of_blocks_add_up_and_the_undecided_do_not_vote():
    rng = np.random.default_rng(1)
    clusters, calls = rng.integers(4, size=200), rng.integers(-1, 3, size=200)
    whole = consensus.count_votes(clusters, calls, 4, 3)
    parts = sum(consensus.count_votes(clusters[a : a + 50], calls[a : a + 50], 4, 3) for a in range(0, 200, 50))
    np.testing.assert_array_equal(whole, parts)
    assert whole.sum() == (calls >= 0).sum()


def test_share_entropy_and_mixed_say_what_the_votes_were():
    votes = np.array([[10.0, 0, 0], [6, 4, 0], [0, 0, 0], [5, 5, 5]])
    found = consensus.consensus(np.zeros((4, 2)), votes)
    assert list(found.winner) == [0, 0, -1, 0]
    np.testing.assert_allclose(found.share, [1, 0.6, 0, 1 / 3])
    np.testing.assert_allclose(found.entropy[[0, 3]], [0, 1], atol=1e-9)
    assert list(found.mixed) == [False, True, False, True]


def test_only_a_nearly_unanimous_vote_overrules_a_cell():
    votes = np.array([[19.0, 1], [6, 4], [0, 0]])
    found = consensus.consensus(np.zeros((3, 2)), votes)
    calls, clusters = np.array([1, 1, 1]), np.array([0, 1, 2])
    assert list(consensus.overrule(calls, clusters, found)) == [0, 1, 1]


def test_a_single_cell_is_a_cluster():
    centres, clusters = consensus.over_cluster(np.ones((1, 3), np.float32))
    assert len(centres) == 1 and list(clusters) == [0]
