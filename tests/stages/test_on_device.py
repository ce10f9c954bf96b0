"""What a GPU would do, on the CPU, against what the CPU does: python -m pytest tests/stages/test_on_device.py."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix, random
from sklearn.cluster import KMeans

from stages import cluster, directions, on_device, reduce
from stages.batch import SparseRows

CPU = torch.device("cpu")


def groups(cells=600, genes=80, kinds=9, seed=0) -> csr_matrix:
    """Sparse log-like values (N, G) of cells of a few kinds."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.4, 2.0, (kinds, genes))
    counts = rng.poisson(rate[rng.integers(kinds, size=cells)])
    return csr_matrix(np.log1p(counts).astype(np.float32))


def inertia(points: np.ndarray, labels: np.ndarray) -> float:
    """Sum of squared distances to the mean of the own cluster."""
    means = np.stack(
        [points[labels == k].mean(axis=0) if (labels == k).any() else points[0] for k in range(labels.max() + 1)]
    )
    return float(np.square(points - means[labels]).sum())


def test_from_the_same_start_the_clusters_are_scikit_learn_s(monkeypatch):
    monkeypatch.setattr(on_device, "ENTRIES", 64 * 40)  # several blocks
    sizes = (8, 15, 3)
    dense = np.random.default_rng(0).gamma(2, size=(300, 40))  # no two distances are equal
    start = [dense[np.random.default_rng(size).permutation(300)[:size]] for size in sizes]
    labels, found = on_device.lloyd(torch.from_numpy(dense), torch.from_numpy(np.vstack(start)), sizes)
    for column, size, centres in zip(labels.numpy().T, sizes, start, strict=True):
        plain = KMeans(size, init=centres, n_init=1, max_iter=20, tol=0).fit(dense)
        np.testing.assert_array_equal(column, plain.labels_)
    assert found[2].item() + np.square(dense).sum() == pytest.approx(plain.inertia_)


@pytest.mark.parametrize("spread", [True, False])
def test_clusters_are_as_tight_as_scikit_learn_s(spread):
    points, sizes = groups().toarray(), (6, 12, 25)
    ours = cluster.pseudo_labels(torch.from_numpy(points), sizes, spread=spread)
    plain = cluster.pseudo_labels(points, sizes, spread=spread)
    if spread:
        for one, other in zip(ours.T, plain.T, strict=True):
            assert inertia(points, one) < 1.01 * inertia(points, other)
    else:  # one random start: alike on the average of many only
        tries = range(12)
        both = [
            [cluster.pseudo_labels(p, (12,), seed=seed)[:, 0] for seed in tries]
            for p in (torch.from_numpy(points), points)
        ]
        ours, plain = (np.mean([inertia(points, labels) for labels in found]) for found in both)
        assert ours < 1.05 * plain


def test_a_size_of_all_cells_gives_each_its_own_and_equal_cells_do_no_harm():
    points = torch.ones(7, 3)
    labels = on_device.kmeans(points, (7, 2, 9), spread=True)
    assert labels[:, 0].tolist() == labels[:, 2].tolist() == list(range(7)) and labels[:, 1].max() < 2
    assert on_device.kmeans(points, (8, 7)).shape == (7, 2)


@pytest.mark.parametrize(("cells", "sample"), [(600, 20_000), (600, 400)])
def test_components_explain_what_the_exact_ones_do(cells, sample, monkeypatch):
    monkeypatch.setattr(on_device, "SAMPLE", sample)
    x = groups(cells)
    found, mean = on_device.components(SparseRows(x), 10, seed=1)
    exact, centre = reduce.components(x, 10)
    assert torch.allclose(found @ found.T, torch.eye(10), atol=1e-5)
    ours = on_device.project(SparseRows(x), found, mean).numpy()
    plain = reduce.project(x, exact, centre)
    assert ours.var(axis=0).sum() > (0.999 if sample > cells else 0.97) * plain.var(axis=0).sum()
    if sample > cells:
        np.testing.assert_allclose(mean, centre, atol=1e-5)
        np.testing.assert_allclose(np.abs(ours[:, :3]), np.abs(plain[:, :3]), atol=0.02)
    again, _ = on_device.components(SparseRows(x), 10, seed=1)
    assert torch.equal(found, again)


@pytest.mark.parametrize("shape", [(1, 6), (2, 6), (6, 3)])
def test_hardly_any_cells_or_genes_have_few_components(shape):
    x = csr_matrix(np.random.default_rng(0).random(shape), dtype=np.float32)
    found, mean = on_device.components(SparseRows(x), 50)
    assert found.shape == (max(1, min(shape) - 1), shape[1]) and torch.isfinite(found).all() and mean.shape == shape[1:]


def test_sums_by_dense_blocks_are_the_sparse_ones(monkeypatch):
    monkeypatch.setattr(on_device, "BLOCK", 64)
    sets = [groups(150, seed=1), groups(90, seed=2)]
    labels = [np.stack([np.arange(x.shape[0]) % k for k in (4, 7)], axis=1) for x in sets]
    for one, other in zip(on_device.moments(sets[0], CPU), directions.moments(sets[0]), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    measured = [np.ones(80, bool)] * 2
    plain = directions.start(sets, measured, labels, 12)
    for one, other in zip(plain, directions.start(sets, measured, labels, 12, CPU), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("log1p", [True, False])
def test_rows_gathered_by_torch_are_those_that_scipy_gathers(log1p):
    x = random(50, 9, 0.3, format="csr", random_state=0, dtype=np.float32)
    other = csr_matrix(x)
    other.indptr = other.indptr.astype(np.int64)  # scipy would make all indices such: so torch gathers
    here, there = SparseRows(x, log1p=log1p), SparseRows(other, log1p=log1p)
    assert here._here is not None and there._here is None
    which = torch.tensor([3, 0, 49, 3])
    entries = int(there.lengths[which.numpy()].sum())
    told, counted = (there.fill(which, torch.empty(4, 9), n) for n in (entries, None))
    assert torch.equal(told, counted) and torch.equal(told, here.fill(which, torch.ones(4, 9)))
    assert torch.equal(here[:], there[:]) and torch.equal(here[5:5], torch.empty(0, 9))
    np.testing.assert_array_equal(x.data, other.data)  # log1p is of what was taken
    dense = torch.from_numpy(x.toarray())[which]
    assert torch.allclose(told, dense.log1p() if log1p else dense)
