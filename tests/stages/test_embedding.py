"""The map that invents nothing: run with `python -m pytest tests/stages/test_embedding.py`."""

import numpy as np
import pytest
from scipy.sparse import csc_matrix, csr_matrix
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from stages import embedding, reduce


def log_normal(counts: np.ndarray) -> csr_matrix:
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return csr_matrix(np.log1p(1e4 * counts / total).astype(np.float32))


def population(cells: int = 300, genes: int = 1000, types: int = 1, seed: int = 0) -> tuple[csr_matrix, np.ndarray]:
    """Poisson counts of cells that differ in depth, and in a tenth of the genes where there are several types."""
    rng = np.random.default_rng(seed)
    profiles = np.tile(rng.gamma(0.3, 1, genes), (types, 1))
    for profile in profiles[1:]:
        profile[rng.permutation(genes)[: genes // 10]] *= rng.choice([0.2, 5.0], genes // 10)
    profiles /= profiles.sum(axis=1, keepdims=True)
    labels = np.arange(cells) % types
    depth = rng.lognormal(np.log(1500), 0.4, cells)
    return log_normal(rng.poisson(depth[:, None] * profiles[labels])), labels


def permuted(x: csr_matrix) -> csr_matrix:
    """Every gene's values among other cells: all structure gone, every gene as it was."""
    rng = np.random.default_rng(0)
    return csr_matrix(csc_matrix(np.column_stack([rng.permutation(column) for column in x.toarray().T])))


def embed(x: csr_matrix, **how) -> np.ndarray:
    weight, bias = embedding.fit([x], **how)
    return x @ weight.T + bias


def islands(points: np.ndarray) -> float:
    return silhouette_score(points, KMeans(10, n_init=3, random_state=0).fit_predict(points))


def same_space(one: np.ndarray, two: np.ndarray) -> bool:
    """Whether points differ by a sign of their columns only."""
    return np.allclose(np.abs(one), np.abs(two), atol=0.01)


NOTHING = {"one population": lambda: population()[0], "permuted genes": lambda: permuted(population(types=4)[0])}


@pytest.mark.parametrize("name", NOTHING)
def test_where_there_is_nothing_the_map_is_plain_principal_components(name):
    x = NOTHING[name]()
    assert not embedding.structured(embedding.signal_shares(x), x.shape[0])
    plain = reduce.project(x, *reduce.components(x, embedding.DIMENSIONS))
    assert same_space(embed(x), plain)
    assert abs(islands(embed(x)) - islands(plain)) < 0.05


@pytest.mark.parametrize("name", NOTHING)
def test_even_the_weighted_map_makes_no_islands_of_nothing(name, monkeypatch):
    x = NOTHING[name]()
    monkeypatch.setattr(embedding, "structured", lambda shares, cells: True)
    plain = reduce.project(x, *reduce.components(x, embedding.DIMENSIONS))
    assert not same_space(embed(x), plain)
    assert islands(embed(x)) < islands(plain) + 0.05


def test_types_are_found_and_stand_further_apart_than_in_principal_components():
    x, labels = population(types=4)
    assert embedding.structured(embedding.signal_shares(x), x.shape[0])
    plain = reduce.project(x, *reduce.components(x, embedding.DIMENSIONS))
    assert silhouette_score(embed(x), labels) > silhouette_score(plain, labels) + 0.1


def test_cells_left_out_lie_as_those_that_the_map_was_made_of(monkeypatch):
    monkeypatch.setattr(embedding, "structured", lambda shares, cells: True)
    x = permuted(population(600, types=4)[0])
    sides = x[:300], x[300:]
    weight, bias = embedding.fit([sides[0]])
    points = [side @ weight.T + bias for side in sides]
    clusters = KMeans(10, n_init=3, random_state=0).fit(points[0])
    fitted, left_out = (silhouette_score(part, clusters.predict(part)) for part in points)
    assert fitted - left_out < 0.06  # directions that separate its own clusters: .09


def test_the_shares_of_permuted_genes_are_chance():
    x = NOTHING["permuted genes"]()
    deviation = np.sqrt(2 / (x.shape[0] * embedding.neighbours_of(x.shape[0])))
    assert (embedding.signal_shares(x) > embedding.DEVIATIONS * deviation).mean() < embedding.CONFIRMED


def test_a_share_is_the_covariance_with_the_neighbours_mean_over_the_variance():
    x, _ = population(40, 30, types=2)
    half = np.random.default_rng(0).permutation(30) % 2
    found, dense = embedding.shares_of_split(x, 0), x.toarray().astype(float)
    for side in (0, 1):
        others = x[:, half != side].tocsr()
        points = reduce.project(others, *reduce.components(others, embedding.POINTS))
        distance = np.square(points[:, None] - points[None]).sum(axis=2) + np.diag(np.full(40, np.inf))
        around = dense[np.argsort(distance, axis=1)[:, : embedding.neighbours_of(40)]].mean(axis=1)  # (N, G)
        for gene in np.flatnonzero(half == side):
            expected = np.cov(dense[:, gene], around[:, gene], bias=True)[0, 1]
            assert np.isclose(found[gene] * dense[:, gene].var(), expected, atol=1e-4)


def test_the_embedding_is_centred_and_round_within_clusters():
    x, labels = population(400, types=3)
    points = embed(x)
    assert np.allclose(points.mean(axis=0), 0, atol=1e-3)
    inside = np.mean([np.cov(points[labels == one].T) for one in range(3)], axis=0)
    values = np.linalg.eigvalsh(inside)
    assert values.max() / values.min() < 5


def test_blocks_of_cells_get_the_embedding_of_the_whole():
    x, _ = population(types=3)
    weight, bias = embedding.fit([x])
    blocks = np.vstack([x[start : start + 70] @ weight.T + bias for start in range(0, 300, 70)])
    assert np.allclose(blocks, embed(x), atol=1e-5)


def test_the_same_seed_gives_the_same_map():
    x, _ = population(types=3)
    for one, two in zip(embedding.fit([x], seed=3), embedding.fit([x], seed=3), strict=True):
        assert np.array_equal(one, two)


def test_the_order_of_datasets_does_not_matter():
    x, y = population(200, types=3)[0], population(120, types=3, seed=1)[0]
    first, second = (x @ weight.T + bias for weight, bias in (embedding.fit([x, y]), embedding.fit([y, x])))
    gram = [points @ points.T for points in (first, second)]  # up to a turn
    assert np.allclose(*gram, atol=0.02 * np.abs(gram[0]).max())


def test_a_gene_that_a_dataset_has_not_measured_takes_its_share_from_the_others():
    values = [np.array([0.4, 0.0]), np.array([0.2, 0.6])]
    measured = [np.array([True, False]), np.array([True, True])]
    assert np.allclose(embedding.average(values, measured, np.array([1.0, 3.0])), [0.25, 0.6])


def test_a_prior_share_moves_a_gene_and_one_that_is_not_known_does_not():
    x, _ = population(types=3)
    none = embedding.fit([x], prior=embedding.Prior(np.full(x.shape[1], np.nan), 100))
    assert np.allclose(none[0], embedding.fit([x])[0], atol=1e-5)
    assert not np.allclose(embedding.fit([x], prior=embedding.Prior(np.ones(x.shape[1]), 100))[0], none[0], atol=1e-3)


def test_genes_of_two_cells_take_no_part_in_a_datasets_own_map():
    x, _ = population(types=3)
    rare = np.flatnonzero(np.diff(x.tocsc().indptr) < embedding.LEAST_CELLS)
    weight, bias = embedding.own(x)
    kept = np.setdiff1d(np.arange(x.shape[1]), rare)
    assert len(rare) and not weight[:, rare].any() and np.abs(weight[:, kept]).sum(axis=0).all()
    assert np.allclose((x @ weight.T + bias).mean(axis=0), 0, atol=1e-3)


def test_a_corpus_counts_for_more_where_cells_are_shallow(monkeypatch):
    x, _ = population(types=3)
    prior, worth = np.ones(x.shape[1]), []
    fit = embedding.fit
    monkeypatch.setattr(
        embedding, "fit", lambda x, **how: worth.append(how["prior"] and how["prior"].cells) or fit(x, **how)
    )
    for shallow in (10, 10_000):
        monkeypatch.setattr(embedding, "SHALLOW", shallow)
        embedding.own(x, prior=prior)
    embedding.own(x)
    assert worth == [embedding.PRIOR_CELLS, embedding.PRIOR_CELLS_SHALLOW, None]


def test_of_very_many_cells_some_make_the_map(monkeypatch):
    x, _ = population(types=3)
    monkeypatch.setattr(embedding, "SAMPLE", 100)
    assert embedding.some(x, 0).shape[0] == 100
    assert np.allclose(embedding.own(x)[0], embedding.own(embedding.some(x, 0))[0], atol=1e-4)


SMALL = {
    "one cell": csr_matrix(np.ones((1, 30), np.float32)),
    "two cells": population(2, 30)[0],
    "seven cells": population(7, 30)[0],
    "equal cells": csr_matrix(np.ones((50, 30), np.float32)),
    "no counts": csr_matrix((20, 30), dtype=np.float32),
    "two genes": population(50, 2)[0],
    "one gene": population(50, 1)[0],
}


@pytest.mark.parametrize("name", SMALL)
def test_small_and_degenerate_cells_get_a_finite_map(name):
    weight, bias = embedding.fit([SMALL[name]])
    assert weight.dtype == bias.dtype == np.float32
    assert weight.shape == (len(bias), SMALL[name].shape[1]) and 1 <= len(weight) <= embedding.DIMENSIONS
    assert np.isfinite(weight).all() and np.isfinite(bias).all()
