"""Principal components of sparse cells: run with `python -m pytest tests/stages/test_pca.py`."""

import numpy as np
import pytest
from conftest import draw
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA

from stages import reduce


def test_components_are_those_of_the_dense_matrix():
    x = draw(0)[0].log1p()
    components, centre = reduce.components(x, 4)
    plain = PCA(4, svd_solver="full").fit(x.toarray().astype(np.float64))
    assert components.shape == (4, 12) and components.dtype == centre.dtype == np.float32
    np.testing.assert_allclose(centre, plain.mean_, atol=1e-5)
    np.testing.assert_allclose(np.abs((components * plain.components_).sum(axis=1)), 1, atol=1e-4)


def test_there_are_never_more_components_than_the_cells_can_tell():
    x = draw(0)[0].log1p()
    assert reduce.components(x, 500)[0].shape == (11, 12)
    assert reduce.components(x[:5], 500)[0].shape == (4, 12)


def test_a_sample_stands_for_many_cells(monkeypatch):
    monkeypatch.setattr(reduce, "SAMPLE", 30)
    x = draw(0)[0].log1p()
    rows = np.sort(np.random.default_rng(7).choice(40, 30, replace=False))
    np.testing.assert_allclose(reduce.components(x, 3, seed=7)[1], x[rows].toarray().mean(axis=0), atol=1e-5)


def test_components_of_many_cells_explain_what_the_exact_ones_do(monkeypatch):
    rng = np.random.default_rng(0)
    sources = rng.normal(size=(300, 6)) * [8, 6, 5, 4, 3, 2]
    x = csr_matrix(np.maximum(sources @ rng.normal(size=(6, 90)) + rng.normal(size=(300, 90)), 0).astype(np.float32))
    exact, centre = reduce.components(x, 8, seed=1)
    monkeypatch.setattr(reduce, "TO_THE_LAST_DIGIT", 10)
    found, mean = reduce.components(x, 8, seed=1)
    assert found.shape == exact.shape and found.dtype == mean.dtype == np.float32
    np.testing.assert_allclose(mean, centre, atol=1e-5)
    np.testing.assert_allclose(found @ found.T, np.eye(8), atol=1e-5)
    of_exact, of_found = (np.square(reduce.project(x, axes, centre)).sum() for axes in (exact, found))
    assert 0.999 < of_found / of_exact < 1.0001
    np.testing.assert_allclose(np.abs((found * exact).sum(axis=1))[:3], 1, atol=1e-3)
    np.testing.assert_array_equal(found, reduce.components(x, 8, seed=1)[0])


def test_many_cells_of_few_kinds_have_as_many_components_as_asked_for(monkeypatch):
    monkeypatch.setattr(reduce, "TO_THE_LAST_DIGIT", 10)
    x = draw(0)[0].log1p()[[0, 1, 2] * 20]
    found, mean = reduce.components(x, 5)
    assert found.shape == (5, 12) and np.isfinite(found).all() and np.isfinite(mean).all()


def test_the_same_seed_gives_the_same_components():
    x = draw(0)[0].log1p()
    first, second = (reduce.components(x, 4, seed=2)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_cells_that_are_all_equal_or_alone_give_finite_components():
    x = draw(0)[0].log1p()
    components, centre = reduce.components(x[[3] * 8], 4)
    assert np.isfinite(components).all() and np.isfinite(centre).all()
    components, centre = reduce.components(x[:1], 4)
    assert components.shape == (1, 12) and np.isfinite(components).all()
    assert centre == pytest.approx(x[:1].toarray()[0])


@pytest.mark.parametrize("cells", [60, 30, 5])
def test_cells_are_laid_out_the_same_again_few_or_many(cells):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(cells, 6)) + 20 * (np.arange(cells) % 2)[:, None]
    first = reduce.umap(points, seed=1)
    assert first.shape == (cells, 2) and np.isfinite(first).all()
    np.testing.assert_array_equal(first, reduce.umap(points, seed=1))


@pytest.mark.parametrize("cells", [1, 4])
def test_hardly_any_cells_lie_on_a_line(cells):
    np.testing.assert_array_equal(reduce.umap(np.ones((cells, 6)), seed=0)[:, 0], np.arange(cells))


def test_variable_genes_are_those_that_vary_more_than_others_of_their_mean():
    rng = np.random.default_rng(0)
    counts = rng.poisson(np.geomspace(0.5, 50, 400), (300, 400)).astype(np.float32)
    marked = np.arange(5, 400, 40)
    counts[:150, marked] *= 3
    found = reduce.variable_genes(csr_matrix(np.log1p(counts)), len(marked))
    assert list(found) == list(marked)


def test_baselines_are_centred_on_the_cells_they_are_fitted_on_and_stand_cells_that_are_all_equal():
    rng = np.random.default_rng(0)
    x = csr_matrix(np.log1p(rng.poisson(2, (60, 30)).astype(np.float32)))
    made = reduce.baselines(x)
    assert [made[name](x).shape[1] for name in made] == [15, 29, 29, 29]
    assert all(np.abs(make(x).mean(axis=0)).max() < 1e-4 for make in made.values())
    equal = csr_matrix(np.ones((5, 4), np.float32))
    assert all(np.isfinite(make(equal)).all() for make in reduce.baselines(equal).values())
