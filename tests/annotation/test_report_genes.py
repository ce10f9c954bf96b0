"""The genes of a page: packed as the browser unpacks them, within the room there is.

Run: python -m pytest tests/annotation/test_report_genes.py
"""

import base64
import zlib

import numpy as np
import pytest
from pages import Page, annotation, unpack
from scipy.sparse import csr_matrix

from annotation.report import genes, page, render


def inflated(packed, k):
    return np.frombuffer(zlib.decompress(base64.b64decode(packed["data"][k]), -15), np.uint8)


def levels_of(packed, k, near):
    """An exact gene as the browser reads it, in the order of the cells: (n,) of 0..LEVELS."""
    found, at = np.zeros(len(near.order), dtype=int), -1
    for byte in inflated(packed, k).tolist():
        at += byte >> 4
        if byte & 15:
            at += 1
            found[near.order[at]] = byte & 15
    return found


def world(n=2_000, kinds=3, seed=0):
    chance = np.random.default_rng(seed)
    code = chance.integers(0, kinds, n)
    umap = chance.normal(size=(n, 2)) + 6 * code[:, None]
    return genes.neighbourhoods(umap.astype(np.float32), code, kinds), umap, chance


def test_a_neighbourhood_is_a_few_cells_of_one_kind_side_by_side_and_every_cell_is_in_one():
    near, umap, chance = world()
    assert sorted(near.order) == list(range(2_000)) and near.sizes.sum() == 2_000
    assert near.sizes.max() <= genes.ALIKE and near.sizes.mean() > genes.ALIKE / 2
    runs = np.split(near.order, np.cumsum(near.sizes)[:-1])
    assert all(len(set(near.code[run])) == 1 for run in runs)
    spread = np.mean([np.ptp(umap[run], axis=0).sum() for run in runs])
    mixed = np.mean([np.ptp(umap[chance.choice(2_000, 8)], axis=0).sum() for _ in range(50)])
    assert spread < mixed / 10
    without = genes.neighbourhoods(None, near.code, 3)
    assert sorted(without.order) == list(range(2_000)) and without.sizes.max() <= genes.ALIKE


def test_genes_are_packed_to_the_nearest_level_with_gaps_of_any_length():
    near, _, chance = world()
    dense = chance.random((2_000, 3)) * (chance.random((2_000, 3)) < [0.5, 0.02, 0])
    dense[near.order[[0, 14, 15, 16, 45, 46, 1999]], 1] = [7, 6, 5, 4, 3, 2, 1]
    packed = genes.packed(csr_matrix(dense.astype(np.float32)), {"a": 0, "b": 1, "nowhere": 2}, near, 10**6)
    assert packed["names"] == ["a", "b"]  # a gene that no cell expresses has no colours
    assert packed["averaged"] == [0, 0] and packed["highest"] == packed["top"]
    for k, highest in enumerate(packed["highest"]):
        level = levels_of(packed, k, near)
        np.testing.assert_array_equal(level > 0, dense[:, k] > 0)
        step = highest / genes.LEVELS
        assert np.abs(level * step - dense[:, k]).max() < step + 1e-3


def test_what_does_not_fit_is_averaged_over_neighbours_with_exact_shares_a_kind():
    near, _, chance = world()
    code = near.code.copy()
    code[:5] = 3  # of no kind
    near = genes.neighbourhoods(None, code, 3)
    dense = chance.random((2_000, 4)).astype(np.float32)
    dense[dense < 0.4] = 0
    dense[:, 3] *= chance.random(2_000) < 0.05
    names = ["listed", "b", "c", "sparse"]
    whole = genes.packed(csr_matrix(dense), dict(zip(names, range(4), strict=True)), near, 10**6)
    room = sum(map(len, whole["data"])) - 500
    packed = genes.packed(csr_matrix(dense), dict(zip(names, range(4), strict=True)), near, room, listed=1)
    assert packed["names"] == names and packed["averaged"][0] == packed["averaged"][3] == 0
    assert sum(packed["averaged"]) == 1 and sum(map(len, packed["data"])) < room
    k = packed["averaged"].index(1)
    content, width = inflated(packed, k), genes.LEVELS + 1
    shares = content[: 3 * width].reshape(3, width) / 255
    for kind in range(3):
        on = (dense[code == kind, k] > 0).mean()
        assert abs(1 - shares[kind, 0] - on) < 0.005 and abs(shares[kind].sum() - 1) < 0.05
    means = [dense[run, k].mean() for run in np.split(near.order, np.cumsum(near.sizes)[:-1])]
    step = packed["highest"][k] / genes.LEVELS
    assert np.abs(content[3 * width :] * step - means).max() < step / 2 + 1e-3
    assert packed["top"][k] == pytest.approx(dense[:, k].max(), abs=1e-3) and packed["highest"][k] < packed["top"][k]


def test_where_not_even_averages_fit_the_first_genes_are_kept():
    near, _, chance = world()
    dense = csr_matrix(chance.random((2_000, 50)).astype(np.float32))
    packed = genes.packed(dense, {f"g{k}": k for k in range(50)}, near, 4_000)
    assert 0 < len(packed["names"]) < 50 and packed["names"] == [f"g{k}" for k in range(len(packed["names"]))]
    assert sum(map(len, packed["data"])) < 4_000


def test_dense_genes_of_fifty_thousand_cells_fit_two_thousand_to_a_page(monkeypatch):
    """With a tenth of the genes in a tenth of the room; the whole of it takes minutes in memory alone."""
    n, chance = 50_000, np.random.default_rng(0)
    dense = chance.random((n, 200), dtype=np.float32)
    dense[dense < 0.4] = 0  # 60 % are not
    given = annotation(n=n)
    cells = len(render(given))
    monkeypatch.setattr(page, "ROOM", cells + (page.ROOM - cells) // 10)
    given.genes = ([f"gene {k}" for k in range(200)], csr_matrix(dense))
    given.markers.loc[0, "gene"] = "gene 199"
    text = render(given)
    kept = Page(text).data["genes"]
    assert kept["names"][0] == "gene 199" and kept["averaged"][0] == 0  # a table of the page names it
    assert len(kept["names"]) == 200 == kept["all"] and 100 < sum(kept["averaged"]) < 200
    assert len(text.encode()) < page.ROOM + 100_000


def test_the_page_holds_its_cells_in_the_order_of_the_neighbourhoods():
    given = annotation(n=300, genes=(["a"], csr_matrix(np.ones((300, 1), np.float32))))
    data = Page(render(given)).data
    assert unpack(data["genes"]["runs"], "u1").sum() == 300
    assert np.all(np.diff(unpack(data["type"], "<u2").astype(int)) >= 0)  # kind by kind


def test_fifty_thousand_cells_add_little_to_the_page():
    small, large = len(render(annotation(n=40))), len(render(annotation(n=50_000)))
    assert small < 250_000 and large - small < 5_000_000
