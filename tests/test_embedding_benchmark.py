"""The embedding benchmark: run with `python -m pytest tests/test_embedding_benchmark.py`."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import random as sparse_random

from benchmarks import embedding as bench


@pytest.mark.parametrize("setting", ["unseen", "halves"])
def test_every_arm_is_measured_on_every_labelled_dataset(corpus, tmp_path, setting):
    out = tmp_path / "numbers.csv"
    assert bench.main(["--data_dir", str(corpus), "--setting", setting, "--out", str(out)]) == 0
    table = pd.read_csv(out)
    arms = {"ours", "15 PCs", "50 PCs"} | ({"frozen encoder"} if setting == "unseen" else set())
    for _, part in table.groupby("dataset"):
        assert arms <= set(part["arm"])
    assert np.isfinite(table["purity"]).all()


def test_permuted_genes_keep_their_values_and_lose_their_cells():
    x = sparse_random(60, 20, density=0.3, format="csr", random_state=0, dtype=np.float32)
    found = bench.permuted(x)
    assert np.allclose(np.sort(found.toarray(), axis=0), np.sort(x.toarray(), axis=0))
    assert (found != x).nnz


def test_the_types_of_separate_cells_are_found_by_every_measure():
    labels = np.repeat([0, 1, 2], 40)
    points = 20 * np.eye(3)[labels] + np.random.default_rng(0).standard_normal((120, 3))
    found = bench.measures(points, labels)
    assert min(found[name] for name in ("knn 5", "knn 20", "purity", "k-means", "nmi")) > 0.95
    shuffled = bench.measures(points, np.random.default_rng(0).permutation(labels))
    assert max(shuffled[name] for name in ("knn 5", "purity", "k-means", "nmi")) < 0.5
