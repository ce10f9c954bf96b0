"""The rows of rf_svm_lr.py are the same on one thread and on two.  python -m pytest tests/faults/test_threads.py"""

import numpy as np
import pytest
import torch
from scipy.sparse import random as random_matrix
from threadpoolctl import threadpool_limits

import data_loader as data
import rf_svm_lr
import utils
from model import Encoder
from reading.catalogue import Entry
from stages import embedding

CELLS, GENES, TYPES = 400, 1500, 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Cells in which the types hardly differ: the last digits of a component decide about some."""
    x = random_matrix(CELLS, GENES, density=0.1, random_state=0, format="csr", dtype=np.float32)
    group = np.random.default_rng(1).integers(0, 3, CELLS)  # what the map finds, and no type
    x = x.multiply(1 + 4 * (np.arange(GENES)[None] % 3 == group[:, None])).tocsr().astype(np.float32)
    labels = np.random.default_rng(0).integers(0, TYPES, CELLS)
    entry = Entry("a", tmp_path_factory.mktemp("a") / "a.h5", "mouse", True)
    types = data.Types(np.arange(CELLS), labels, [f"type {i}" for i in range(TYPES)])
    genes = [f"G{i}" for i in range(GENES)]
    return data.Prepared(data.Names(entry, genes), genes, x, types)


def rows_on(threads: int, dataset, path) -> tuple[dict, list]:
    """The points of each arm, and the rows of every classifier, on so many threads."""
    torch.manual_seed(0)
    shares = torch.rand(GENES)
    checkpoint = utils.Checkpoint(Encoder(GENES, 32), dataset.genes, shares=shares)
    parts = data.Split(np.arange(0, CELLS, 2), np.arange(0), np.arange(1, CELLS, 2))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            points = rf_svm_lr.arms_of_split(dataset, checkpoint, parts, 0)
            rows = [
                (kind, arm, rf_svm_lr.test_arm(kind, points[arm], dataset, parts, 0, False)[0] | {"seconds": 0})
                for kind in ("svm", "rf", "lr", "knn")
                for arm in (utils.ARMS[0], "50 PCs")
            ]
    finally:
        torch.set_num_threads(before)
    return points, rows


def test_points_and_rows_do_not_depend_on_the_number_of_threads(dataset, tmp_path):
    assert embedding.structured(embedding.signal_shares(dataset.counts), CELLS)
    (one, of_one), (two, of_two) = rows_on(1, dataset, tmp_path), rows_on(2, dataset, tmp_path)
    for arm in one:
        assert all(np.array_equal(a, b) for a, b in zip(one[arm], two[arm], strict=True)), arm
    assert of_one == of_two
