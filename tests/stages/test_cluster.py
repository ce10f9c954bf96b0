"""Pseudo-labels against scikit-learn and the obvious tree: run with `python -m pytest tests/stages/test_cluster.py`."""

import numpy as np
import pytest
from conftest import draw
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_matrix
from scipy.spatial.distance import pdist
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from stages import cluster
from stages.batch import SparseRows


def wide(cells=120, genes=400, seed=0):
    """More genes than cells, in a dozen groups: where the rotated points are used."""
    rng = np.random.default_rng(seed)
    means = rng.gamma(0.4, 3, (12, genes))
    return csr_matrix(rng.poisson(means[rng.integers(12, size=cells)]).astype(np.float32))


def cloud(cells=300, genes=40, seed=0):
    """No groups at all: k-means has no bad local minimum here, so two starts end alike."""
    return csr_matrix(np.random.default_rng(seed).poisson(3, (cells, genes)).astype(np.float32))


def inertia(points, labels):
    points = points.toarray() if not isinstance(points, np.ndarray) else points
    return sum(((points[labels == k] - points[labels == k].mean(axis=0)) ** 2).sum() for k in np.unique(labels))


def test_partition_sizes_are_the_published_ones():
    assert cluster.partition_sizes(3874, 100) == (38, 77, 20)
    assert cluster.partition_sizes(15_209) == (152, 304, 77)


def test_the_smallest_dataset_gets_two_clusters_and_never_more_than_cells():
    assert cluster.partition_sizes(90) == (2, 2, 2)
    assert cluster.partition_sizes(90, 10) == (9, 18, 5)
    assert cluster.partition_sizes(3, 1) == (3, 3, 2)
    assert cluster.partition_sizes(1) == (1, 1, 1)


@pytest.mark.parametrize("seed", range(3))
def test_phase_1_labels_are_those_of_scikit_learn_on_the_raw_counts(seed):
    counts, sizes = wide(seed=seed), (12, 24, 7)
    labels = cluster.pseudo_labels(counts, sizes, seed=seed)
    assert labels.shape == (120, 3) and labels.dtype == np.int64
    for column, size in zip(labels.T, sizes, strict=True):
        plain = KMeans(size, init="random", n_init=1, max_iter=20, tol=0, random_state=seed)
        assert adjusted_rand_score(plain.fit_predict(counts.toarray().astype(np.float64)), column) == 1


def test_rotated_points_keep_every_distance():
    counts = wide()
    rotated = cluster.rotate(counts)
    assert rotated.shape == (120, 120) and rotated.dtype == np.float32
    np.testing.assert_allclose(pdist(rotated), pdist(counts.toarray()), rtol=1e-3)


def test_rotation_stands_equal_cells_and_cells_without_a_count():
    one = wide(cells=5)
    counts = csr_matrix(np.vstack([one.toarray()] * 8 + [np.zeros((4, 400), np.float32)]))
    assert np.isfinite(cluster.rotate(counts)).all()
    labels = cluster.pseudo_labels(counts, (6,), seed=0)[:, 0]
    assert all(len(set(labels[k:40:5])) == 1 for k in range(5))  # equal cells are together
    assert np.isfinite(cluster.rotate(csr_matrix((4, 9), dtype=np.float32))).all()


def test_clusters_of_many_cells_leading_components_are_as_tight_among_all_genes(monkeypatch):
    counts, sizes = wide(cells=400), (12, 24, 7)
    exact = cluster.pseudo_labels(counts, sizes, seed=0)
    monkeypatch.setattr(cluster, "ROTATE_UP_TO", 300)
    monkeypatch.setattr(cluster, "LEADING", 30)
    labels = cluster.pseudo_labels(counts, sizes, seed=0)
    assert labels.shape == (400, 3) and labels.dtype == np.int64
    for mine, theirs, size in zip(labels.T, exact.T, sizes, strict=True):
        assert len(np.unique(mine)) == size
        assert inertia(counts, mine) < 1.05 * inertia(counts, theirs)


def test_faiss_finds_clusters_as_tight_as_scikit_learn(monkeypatch):
    pytest.importorskip("faiss", reason="faiss-cpu is optional")
    points = cloud(cells=600).toarray()
    plain = cluster.pseudo_labels(points, (20, 40), seed=0)
    monkeypatch.setattr(cluster, "ROTATE_UP_TO", 300)
    labels = cluster.pseudo_labels(points, (20, 40), seed=0)
    assert labels.shape == (600, 2) and labels.dtype == np.int64
    for mine, theirs, size in zip(labels.T, plain.T, (20, 40), strict=True):
        assert len(np.unique(mine)) == size
        assert abs(inertia(points, mine) / inertia(points, theirs) - 1) < 0.03
    np.testing.assert_array_equal(labels, cluster.pseudo_labels(points, (20, 40), seed=0))


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_with_fewer_genes_than_cells_the_counts_themselves_are_clustered():
    counts, _ = draw(0)
    labels = cluster.pseudo_labels(counts, (4, 8, 3), seed=5)
    for column, size in zip(labels.T, (4, 8, 3), strict=True):
        plain = KMeans(size, init="random", n_init=1, max_iter=20, tol=0, random_state=5).fit_predict(counts)
        np.testing.assert_array_equal(column, plain)


@pytest.mark.parametrize("size", [3, 8, 15])
def test_the_torch_k_means_reaches_the_inertia_of_scikit_learn(size):
    counts = cloud()
    dense = counts.toarray()
    plain = [KMeans(size, init="random", n_init=1, max_iter=20, random_state=s).fit(dense).inertia_ for s in range(5)]
    rows = SparseRows(counts, "cpu")  # what CUDA is given, on the CPU
    ours = [inertia(dense, cluster.pseudo_labels(rows, (size,), seed=s)[:, 0]) for s in range(5)]
    np.testing.assert_allclose(ours, np.mean(plain), rtol=0.02)


def test_wards_tree_is_cut_at_every_size():
    counts, sizes = wide(cells=60), (5, 12, 3)
    labels = cluster.pseudo_labels(counts, sizes, method="agglomerative")
    tree = linkage(counts.toarray(), method="ward")
    for column, size in zip(labels.T, sizes, strict=True):
        assert adjusted_rand_score(fcluster(tree, size, criterion="maxclust"), column) == 1
        assert sorted(set(column)) == list(range(size))


@pytest.mark.parametrize("kind", ["sparse", "array", "rows"])
def test_beyond_its_limit_the_tree_is_that_of_a_sample_and_the_rest_join_the_nearest_mean(kind, monkeypatch):
    monkeypatch.setattr(cluster, "TREE_UP_TO", 50)
    counts = wide(cells=90, genes=70)
    points = {"sparse": counts, "array": counts.toarray(), "rows": SparseRows(counts)}[kind]
    labels = cluster.pseudo_labels(points, (6, 3), method="agglomerative", seed=1)
    sample = np.sort(np.random.default_rng(1).choice(90, 50, replace=False))
    dense = counts.toarray()
    of_sample = fcluster(linkage(dense[sample], method="ward"), 6, criterion="maxclust")
    means = np.stack([dense[sample][of_sample == k].mean(axis=0) for k in range(1, 7)])
    slow = ((dense[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert labels.shape == (90, 2) and adjusted_rand_score(slow, labels[:, 0]) == 1


@pytest.mark.parametrize("method", ["kmeans", "agglomerative"])
def test_a_single_cell_is_a_cluster(method):
    counts = csr_matrix(np.ones((1, 12), np.float32))
    assert cluster.pseudo_labels(counts, (1, 1, 1), method=method).tolist() == [[0, 0, 0]]


def test_the_same_seed_gives_the_same_labels_and_another_method_is_an_error():
    counts = wide()
    np.testing.assert_array_equal(*(cluster.pseudo_labels(counts, (9,), seed=4) for _ in range(2)))
    with pytest.raises(ValueError, match="kmeans and agglomerative"):
        cluster.pseudo_labels(counts, (2,), method="leiden")


def test_leiden_finds_clouds_that_lie_apart_and_the_same_with_the_same_seed():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 60)
    points = rng.normal(size=(180, 5)) + 20 * np.eye(5)[truth]
    coarse, fine = cluster.leiden(points, (0.05, 4.0)).values()
    assert len(set(zip(truth, coarse, strict=True))) == len(set(coarse)) == 3
    assert len(set(fine)) > 3
    assert (cluster.leiden(points, (4.0,))[4.0] == fine).all()
    assert list(cluster.leiden(points[:1], (1.0,))[1.0]) == [0]
