"""The few-label classifier against slow, obvious versions: pytest tests/stages/test_classify.py."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from stages import classify


def world(cells: int = 120, genes: int = 60, seed: int = 0) -> tuple[csr_matrix, np.ndarray]:
    """log1p values (N, G) of three types of different size that differ in ten genes each, and the types (N,)."""
    rng = np.random.default_rng(seed)
    types = rng.choice(3, cells, p=(0.6, 0.3, 0.1))
    types[:9] = np.arange(9) % 3
    rate = np.full((3, genes), 0.5)
    for kind in range(3):
        rate[kind, 10 * kind : 10 * kind + 10] = 2.0
    return csr_matrix(np.log1p(rng.poisson(rate[types])).astype(np.float32)), types


def few(types: np.ndarray, each: int = 3) -> np.ndarray:
    """The first `each` cells of every type with their labels, -1 for the others."""
    labels = np.full(len(types), -1)
    for kind in np.unique(types):
        labels[np.flatnonzero(types == kind)[:each]] = kind
    return labels


# -- views


@pytest.mark.parametrize("dense", [False, True])
def test_a_view_is_the_principal_components_of_the_scaled_columns(dense):
    x, _ = world()
    columns = np.arange(5, 50)
    inverse = np.linspace(0.5, 2, len(columns))
    view = classify.fit_view(x.toarray() if dense else x, columns, inverse, 6, seed=0)
    points = x.toarray()[:, columns] * inverse
    points = points - points.mean(axis=0)
    u, s, _ = np.linalg.svd(points, full_matrices=False)
    expected = u[:, :6] * s[:6] / np.sqrt((s[:6] ** 2).sum() / len(points))  # total variance 1
    found = view(x)
    assert np.allclose(np.abs(found), np.abs(expected), atol=2e-2)
    assert (found.var(axis=0).sum()) == pytest.approx(1, rel=1e-3)


def test_new_cells_go_through_a_view_block_by_block():
    x, _ = world()
    views = classify.fit_views(x[:80], np.random.default_rng(0).normal(size=(80, 7)), seed=0)
    more = np.random.default_rng(1).normal(size=(40, 7))
    whole = classify.features(views, x[80:], more)
    blocks = [classify.features(views, x[80 + i : 90 + i], more[i : i + 10]) for i in range(0, 40, 10)]
    assert np.allclose(whole, np.vstack(blocks), atol=1e-5)


def test_the_features_have_a_variance_of_100_and_the_encoders_view_counts_half():
    x, _ = world()
    embedding = np.random.default_rng(0).normal(size=(x.shape[0], 7)) * 50
    views = classify.fit_views(x, embedding, seed=0)
    variance = classify.features(views, x, embedding).var(axis=0)
    assert variance.sum() == pytest.approx(100, rel=1e-2)
    assert variance[-6:].sum() == pytest.approx(100 * 0.25 / 2.25, rel=1e-2)  # six components; 1, 1 and a half squared


def test_the_cells_own_map_counts_twice_beside_20_components_of_the_genes():
    x, _ = world()
    embedding = np.random.default_rng(0).normal(size=(x.shape[0], 7)) * 50
    views = classify.fit_views(x, embedding, seed=0, own=True)
    assert [(source, view.axes.shape[1]) for source, view in views] == [("genes", 20), ("genes", 20), ("own", 6)]
    variance = classify.features(views, x, embedding).var(axis=0)
    assert variance[-6:].sum() == pytest.approx(100 * 4 / 6, rel=1e-2)  # 1, 1 and 2 squared


def test_a_gene_of_two_cells_is_in_no_view():
    x, _ = world()
    x = x.tolil()
    x[:, 50] = 0
    x[3:5, 50] = 9
    views = classify.fit_views(x.tocsr(), None, seed=0)
    assert all(50 not in view.columns for _, view in views)


def test_variable_genes_are_those_above_equally_abundant_ones():
    mean = np.repeat(np.arange(20.0), 5)
    variance = mean.copy()
    variance[[7, 33, 91]] += 1
    assert classify.variable_genes(mean, variance, 3).tolist() == [7, 33, 91]


# -- the regression


def test_without_unlabelled_cells_it_is_plain_logistic_regression():
    x, types = world()
    f = x.toarray()
    plain = LogisticRegression(C=10.0, max_iter=300).fit(f, types)
    assert np.allclose(classify.self_train(f, types, 10.0).coef_, plain.coef_)


def test_self_training_finds_what_few_labels_leave_out():
    x, types = world(400)
    f = x.toarray()
    labels = few(types, 2)
    rest = labels < 0
    plain = (classify.self_train(f, labels, 1.0, shares=()).predict(f)[rest] == types[rest]).mean()
    trained = (classify.self_train(f, labels, 1.0).predict(f)[rest] == types[rest]).mean()
    assert trained > plain > 0.5


def test_the_believed_cells_of_a_type_weigh_like_its_labelled_ones(monkeypatch):
    x, types = world()
    labels = few(types)
    seen = []
    fit = classify._regression
    monkeypatch.setattr(classify, "_regression", lambda f, y, c, w=None: seen.append((y, w)) or fit(f, y, c, w))
    classify.self_train(x.toarray(), labels, 1.0)
    assert len(seen) == 1 + len(classify.SHARES)
    for y, weights in seen[1:]:
        assert (weights[:9] == 1).all()
        for kind in range(3):
            assert weights[9:][y[9:] == kind].sum() == pytest.approx(3)  # labelled cells of the average type


def test_guesses_lean_towards_the_types_that_are_common_here(monkeypatch):
    rng = np.random.default_rng(0)
    places = np.repeat([-1.0, 1.0, -1.0, 1.0, 0.0], [5, 5, 200, 20, 40])
    f = np.column_stack([places, np.zeros(len(places))]) + rng.normal(0, 0.4, (len(places), 2))
    labels = np.repeat([0, 1, -1], [5, 5, 260])
    between = np.zeros((1, 2))
    tilted = classify.self_train(f, labels, 1.0).predict_proba(between)[0, 0]
    monkeypatch.setattr(classify, "TILT", 0)
    assert tilted > classify.self_train(f, labels, 1.0).predict_proba(between)[0, 0]


def test_a_strength_is_chosen_where_cells_can_be_held_out():
    x, types = world()
    assert classify.choose_strength(x.toarray(), types, seed=0) in classify.STRENGTHS
    one_each = np.array([np.flatnonzero(types == kind)[0] for kind in range(3)])
    assert classify.choose_strength(x.toarray()[one_each], types[one_each], seed=0) == 10.0


# -- all of it


@pytest.mark.parametrize("with_encoder", [True, False])
def test_three_cells_a_type_label_the_others(with_encoder):
    x, types = world(200)
    embedding = x.toarray() @ np.random.default_rng(0).normal(size=(60, 8)) if with_encoder else None
    found = classify.classify(x, embedding, few(types), 3, seed=0)
    assert found.shape == (200, 3) and np.allclose(found.sum(axis=1), 1)
    assert (found.argmax(axis=1) == types).mean() > 0.85
    assert np.array_equal(found, classify.classify(x, embedding, few(types), 3, seed=0))


def test_a_type_without_a_labelled_cell_has_no_probability():
    x, types = world()
    labels = few(types)
    labels[labels == 1] = -1
    found = classify.classify(x, None, labels, 5, seed=0)
    assert found.shape == (120, 5) and (found[:, [1, 3, 4]] == 0).all() and np.allclose(found.sum(axis=1), 1)


def test_fewer_than_two_labelled_types_are_refused():
    x, types = world()
    with pytest.raises(ValueError, match="1 labelled type.*label more cells"):
        classify.fit(x, None, np.where(few(types) == 0, 0, -1), 3, seed=0)


def test_of_very_many_unlabelled_cells_a_sample_is_learnt_from(monkeypatch):
    x, types = world(300)
    monkeypatch.setattr(classify, "SELF_TRAINING_CELLS", 50)
    seen = []
    views = classify.fit_views
    monkeypatch.setattr(classify, "fit_views", lambda x, e, seed, own: seen.append(x.shape[0]) or views(x, e, seed))
    found = classify.classify(x, None, few(types), 3, seed=0)
    assert seen == [59] and found.shape == (300, 3)  # nine labelled cells and the sample


def test_hardly_any_cells_and_empty_ones_do_no_harm():
    x = csr_matrix(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]], dtype=np.float32))
    found = classify.classify(x, None, np.array([0, 1, -1, -1]), 2, seed=0)
    assert np.isfinite(found).all() and found[3, 0] > 0.5


def test_points_are_taught_as_cells_are_and_a_given_strength_is_kept():
    x, types = world()
    labels = few(types)
    views = classify.fit_views(x, None, seed=0)
    points = classify.features(views, x, None)
    taught = classify.learn(points, labels, 4, seed=0)
    assert np.array_equal(taught.predict(points), classify.classify(x, None, labels, 4, seed=0))
    assert taught.strength == classify.choose_strength(points[labels >= 0], labels[labels >= 0], 0)
    again = classify.learn(points, labels, 4, strength=0.1, shares=())
    assert again.strength == again.model.C == 0.1 and again.predict(points).shape == (120, 4)
