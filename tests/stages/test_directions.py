"""The closed-form start of the encoder: run with `python -m pytest tests/stages/test_directions.py`."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from stages import directions


def world(seed: int, cells: int = 40, genes: int = 12) -> tuple[csr_matrix, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = csr_matrix(np.log1p(rng.poisson(1.0, (cells, genes))).astype(np.float32))
    return x, np.column_stack([rng.permutation(np.arange(cells) % k) for k in (2, 5)])


def slow_block(x, labels, scale):
    dense, rows = x.toarray().astype(float), []
    for column in labels.T:
        for kind in np.unique(column):
            mine = dense[column == kind]
            rows.append((mine.mean(axis=0) - dense.mean(axis=0)) * np.sqrt(len(mine) / len(dense)) / scale)
    block = np.array(rows)
    return block / np.sqrt((block**2).sum())


def test_moments_are_those_of_the_dense_matrix():
    x, _ = world(0)
    mean, variance = directions.moments(x)
    assert np.allclose(mean, x.toarray().mean(axis=0), atol=1e-6)
    assert np.allclose(variance, x.toarray().var(axis=0), atol=1e-5)


def test_moments_by_blocks_are_those_of_the_whole(monkeypatch):
    x, _ = world(0)
    whole = directions.moments(x)
    monkeypatch.setattr(directions, "BLOCK", 7)
    for found, wanted in zip(directions.moments(x), whole, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_the_scale_of_a_gene_is_its_mean_variance_where_it_was_measured():
    variances = [np.array([4.0, 1.0, 0.0]), np.array([2.0, 0.0, 0.0])]
    measured = [np.array([True, True, False]), np.array([True, False, False])]
    assert np.allclose(directions.gene_scale(variances, measured), [np.sqrt(3) + 0.1, 1.1, 0.1])


def test_the_directions_are_the_right_singular_vectors_of_all_centroids():
    worlds = [world(seed, cells) for seed, cells in ((0, 40), (1, 200))]
    datasets, labels = zip(*worlds, strict=True)
    scale = np.linspace(0.5, 2, 12).astype(np.float32)
    means = [directions.moments(x)[0] for x in datasets]
    found = directions.directions(datasets, means, labels, scale, 4)
    stacked = np.vstack([slow_block(x, y, scale) for x, y in worlds])
    expected = np.linalg.svd(stacked)[2][:4]
    assert np.allclose(np.abs(found @ expected.T), np.eye(4), atol=1e-3)
    big = [np.abs(row).argmax() for row in found]
    assert all(row[place] > 0 for row, place in zip(found, big, strict=True))  # the same sign on every machine


def test_a_large_dataset_counts_no_more_than_a_small_one():
    x, labels = world(0)
    y, others = world(1)
    scale = np.ones(12, np.float32)
    mean_x, mean_y = directions.moments(x)[0], directions.moments(y)[0]
    once = directions.directions([x, y], [mean_x, mean_y], [labels, others], scale, 3)
    many = csr_matrix(np.vstack([x.toarray()] * 5))
    again = directions.directions([many, y], [mean_x, mean_y], [np.vstack([labels] * 5), others], scale, 3)
    assert np.allclose(once, again, atol=1e-4)


@pytest.mark.parametrize("hidden", [3, 30])
def test_units_beyond_the_rank_are_zero(hidden):
    x, labels = world(0)
    found = directions.directions([x], [directions.moments(x)[0]], [labels], np.ones(12, np.float32), hidden)
    assert found.shape == (hidden, 12) and found.dtype == np.float32
    lengths = np.linalg.norm(found, axis=1)
    assert np.allclose(lengths[:3], 1, atol=1e-4) and (lengths[5:] == 0).all()  # (2 - 1) + (5 - 1) directions
