"""Marker genes: run with `python -m pytest tests/annotation/test_markers.py`."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import rankdata

from annotation import markers
from annotation.markers import informative, marker_dots, marker_genes, rank_sums


def counts_of_three_types():
    chance = np.random.default_rng(0)
    types = np.array(["alpha"] * 20 + ["beta"] * 15 + ["Unknown"] * 5, dtype=object)
    x = chance.poisson(0.2, (40, 12)).astype(np.float32)
    x[:20, 2] += chance.poisson(6, 20)
    x[20:35, 7] += chance.poisson(6, 15)
    x[35:, 9] += 50
    return np.log1p(x), [f"g{k}" for k in range(12)], types


def test_rank_sums_agree_with_ranking_every_gene_in_full(monkeypatch):
    x, _, types = counts_of_three_types()
    code = np.unique(types.astype(str), return_inverse=True)[1]
    monkeypatch.setattr(markers, "AT_ONCE", 30)  # several blocks of genes
    found = rank_sums(csr_matrix(x), code, 3)
    for k in range(3):
        n, others = (code == k).sum(), (code != k).sum()
        expected = [rankdata(column)[code == k].sum() - n * (len(x) + 1) / 2 for column in x.T]
        np.testing.assert_allclose(found[k], np.array(expected) / np.sqrt(n * others * (len(x) + 1) / 12), rtol=1e-6)


def test_marker_genes_have_the_numbers_of_the_slow_obvious_version():
    x, genes, types = counts_of_three_types()
    found = marker_genes(csr_matrix(x), genes, types, top=3)
    assert found.groupby("type")["gene"].first().to_dict() == {"alpha": "g2", "beta": "g7", "Unknown": "g9"}
    for row in found.itertuples():
        g = genes.index(row.gene)
        inside, outside = (x[side, g].astype(float) for side in (types == row.type, types != row.type))
        fold = np.log2((np.expm1(inside).mean() + 0.01) / (np.expm1(outside).mean() + 0.01))
        expected = [inside.mean(), outside.mean(), (inside > 0).mean(), (outside > 0).mean(), fold]
        np.testing.assert_allclose(row[3:8], expected, rtol=1e-5)


def test_a_gene_that_all_cells_express_marks_no_type_however_much_more_it_is():
    x, genes, types = counts_of_three_types()
    x[:, 4] = np.where(types == "alpha", 5.0, 1.0)
    found = marker_genes(csr_matrix(x), genes, types, top=12)
    assert "g4" not in set(found["gene"]) and (found["detected_out"] <= 0.3).all()
    for _, group in found.groupby("type"):
        assert group["score"].is_monotonic_decreasing


def test_a_type_of_few_cells_or_alone_has_no_markers():
    x, genes, types = counts_of_three_types()
    types = np.where(np.arange(40) < 2, "rare", types.astype(str))
    assert "rare" not in set(marker_genes(csr_matrix(x), genes, types)["type"])
    alone = marker_genes(csr_matrix(x), genes, ["alpha"] * 40)
    assert len(alone) == 0 and list(alone.columns[:2]) == ["type", "gene"]


def test_marker_genes_refuse_what_does_not_fit():
    x, genes, types = counts_of_three_types()
    with pytest.raises(ValueError, match="11 gene names"):
        marker_genes(csr_matrix(x), genes[:-1], types)


def test_dots_are_means_and_shares_by_type():
    x, genes, types = counts_of_three_types()
    dots = marker_dots(csr_matrix(x), genes, types, ["g7", "g2", "g7", "absent"])
    assert dots["type"].tolist() == ["Unknown", "Unknown", "alpha", "alpha", "beta", "beta"]
    assert dots["gene"].tolist() == ["g7", "g2"] * 3
    expected = [x[types == t, g].mean() for t in ("Unknown", "alpha", "beta") for g in (7, 2)]
    np.testing.assert_allclose(dots["mean"], expected, rtol=1e-5)
    expected = [(x[types == t, g] > 0).mean() for t in ("Unknown", "alpha", "beta") for g in (7, 2)]
    np.testing.assert_allclose(dots["detected"], expected)


def test_informative_genes_begin_with_the_markers_and_leave_out_what_hardly_a_cell_has():
    x, genes, _ = counts_of_three_types()
    x[:, 5] = 0
    found = [genes[g] for g in informative(csr_matrix(x), genes, ["g3", "g3", "absent"], 6)]
    assert found[0] == "g3" and {"g2", "g7", "g9"} <= set(found) and len(found) == 6
    assert "g5" not in [genes[g] for g in informative(csr_matrix(x), genes, [], 100)]
