"""UMAP of many, few and hardly any cells: run with `python -m pytest tests/test_layout.py`."""

import numpy as np
import pytest

from stages import layout


@pytest.mark.parametrize("cells", [60, 30, 5])
def test_cells_are_laid_out_the_same_again_few_or_many(cells):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(cells, 6)) + 20 * (np.arange(cells) % 2)[:, None]
    first = layout.umap(points, seed=1)
    assert first.shape == (cells, 2) and np.isfinite(first).all()
    np.testing.assert_array_equal(first, layout.umap(points, seed=1))


@pytest.mark.parametrize("cells", [1, 4])
def test_hardly_any_cells_lie_on_a_line(cells):
    np.testing.assert_array_equal(layout.umap(np.ones((cells, 6)), seed=0)[:, 0], np.arange(cells))
