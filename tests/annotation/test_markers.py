"""Marker genes: specific ones, ranked as the slow obvious version ranks them; means and shares by type.

Run: python -m pytest tests/annotation/test_markers.py
"""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import mannwhitneyu

from annotation.markers import marker_dots, marker_genes


def cells_of_three_types():
    """40 cells in three types, each with a gene of its own."""
    chance = np.random.default_rng(0)
    types = np.array(["alpha"] * 20 + ["beta"] * 15 + ["Unknown"] * 5, dtype=object)
    x = chance.poisson(0.1, (40, 12)).astype(np.float32)
    x[:20, 2] += chance.poisson(6, 20)
    x[20:35, 7] += chance.poisson(6, 15)
    x[35:, 9] += 50
    return np.log1p(x), [f"g{k}" for k in range(12)], types


def test_each_type_has_its_own_gene_first_and_unknown_has_markers_too():
    x, genes, types = cells_of_three_types()
    found = marker_genes(csr_matrix(x), genes, types, top=3)
    assert found.groupby("type")["gene"].first().to_dict() == {"alpha": "g2", "beta": "g7", "Unknown": "g9"}


def test_the_numbers_agree_with_the_slow_obvious_version():
    x, genes, types = cells_of_three_types()
    for row in marker_genes(csr_matrix(x), genes, types).itertuples():
        inside, outside = (
            x[side, genes.index(row.gene)].astype(float) for side in (types == row.type, types != row.type)
        )
        expected = [inside.mean(), outside.mean(), (inside > 0).mean(), (outside > 0).mean()]
        np.testing.assert_allclose(row[3:7], expected, rtol=1e-5)
        assert row.detected_out <= 0.3 and row.detected_in >= 0.2
        assert mannwhitneyu(inside, outside, alternative="greater").pvalue < 0.05 and row.score > 0


def test_markers_are_listed_best_first():
    x, genes, types = cells_of_three_types()
    for _, mine in marker_genes(csr_matrix(x), genes, types, top=12).groupby("type"):
        assert mine["score"].is_monotonic_decreasing


def test_a_type_of_few_cells_or_alone_has_no_markers():
    x, genes, types = cells_of_three_types()
    types = np.where(np.arange(40) < 2, "rare", types.astype(str))
    assert "rare" not in set(marker_genes(csr_matrix(x), genes, types)["type"])
    alone = marker_genes(csr_matrix(x), genes, ["alpha"] * 40)
    assert len(alone) == 0 and list(alone.columns[:2]) == ["type", "gene"]


def test_marker_genes_refuse_what_does_not_fit():
    x, genes, types = cells_of_three_types()
    with pytest.raises(ValueError, match="11 gene names"):
        marker_genes(csr_matrix(x), genes[:-1], types)


def test_dots_are_means_and_shares_by_type():
    x, genes, types = cells_of_three_types()
    dots = marker_dots(csr_matrix(x), genes, types, ["g7", "g2", "g7", "absent"])
    assert dots["gene"].tolist() == ["g7", "g2"] * 3
    for row in dots.itertuples():
        mine = x[types == row.type, genes.index(row.gene)]
        np.testing.assert_allclose([row.mean, row.detected], [mine.mean(), (mine > 0).mean()], rtol=1e-5)
