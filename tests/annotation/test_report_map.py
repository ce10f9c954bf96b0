"""The maps of the report in a real browser: drawn, pointed at, zoomed, saved.

Run: python -m pytest tests/annotation/test_report_map.py (needs a browser: see pages.py)
"""

import io
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from pages import EVIL, Visit, annotation, apart, chromium, point_at, saved, until
from scipy.sparse import csr_matrix

from annotation.report import Annotation, render


@pytest.fixture(scope="module")
def browser():
    yield from chromium()


@pytest.fixture(scope="module")
def small():
    """300 cells, one of them set apart, so that the mouse can only mean this one."""
    return apart(annotation(n=300), f"cell 7 {EVIL}")


@pytest.fixture(scope="module")
def shared(browser, small, tmp_path_factory):
    visit = Visit(browser, tmp_path_factory.mktemp("report") / "annotated.html", small)
    yield visit
    visit.close()


@pytest.fixture
def tab(shared):
    """The small world's page, all types shown, the whole map in sight."""
    yield shared.tab
    assert shared.complaints == []


def settled(tab):
    """Until the maps are drawn anew."""
    tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def spot(tab, cell, map_name="map-type"):
    """Where a cell is drawn: pixels from the map's corner."""
    box = tab.locator(f"#{map_name}").bounding_box()
    x, y = tab.evaluate("([map, cell]) => scpretrain.place(map, cell)", [map_name, cell])
    return np.array([x - box["x"], y - box["y"]])


def coloured_pixels(tab, map_name):
    """Pixels of the drawn map that are neither white nor grey."""
    image = pytest.importorskip("matplotlib.image")
    drawn = image.imread(io.BytesIO(tab.locator(f"#{map_name} canvas").screenshot()))[..., :3]
    return int((drawn.max(axis=2) - drawn.min(axis=2) > 0.15).sum())


def test_both_maps_draw_their_points_and_pointing_names_the_cell(tab, small):
    assert tab.evaluate("scpretrain.points") == {"map-type": 300, "map-confidence": 300}
    for name in ("map-type", "map-confidence"):
        assert coloured_pixels(tab, name) > 500
        said = point_at(tab, name, f"cell 7 {EVIL}")
        assert f"cell 7 {EVIL}" in said and f"type: {EVIL}" in said
        assert f"confidence: {small.confidence[7]:.3f}" in said
        assert "second choice: Unknown" in said and "existing label: " in said


def test_a_click_on_a_name_shows_this_type_alone_and_back(tab):
    before = coloured_pixels(tab, "map-type")
    alpha = tab.locator(".legend button", has_text="alpha")
    alpha.click()
    until(tab, "scpretrain.points['map-type'] === 100 && scpretrain.points['map-confidence'] === 100")
    assert alpha.get_attribute("aria-pressed") == "true"
    assert tab.inner_text("#shown") == "1 of 3 types, 100 cells"
    assert 0 < coloured_pixels(tab, "map-type") < before
    tab.click("#all")
    until(tab, "scpretrain.points['map-type'] === 300")


def test_a_drag_zooms_both_maps_and_a_double_click_goes_back(tab):
    tab.locator("#map-type").scroll_into_view_if_needed()
    box, home, other = tab.locator("#map-type").bounding_box(), spot(tab, "cell-1"), spot(tab, "cell-4")
    x, y = home + [box["x"], box["y"]]
    tab.mouse.move(x - 40, y - 40)
    tab.mouse.down()
    tab.mouse.move(x, y, steps=4)
    tab.mouse.move(x + 40, y + 40, steps=4)
    tab.mouse.up()
    settled(tab)
    # the middle of what was dragged over is the middle of both maps
    middle = np.array([box["width"], box["height"]]) / 2
    np.testing.assert_allclose(spot(tab, "cell-1"), middle, atol=2)
    np.testing.assert_allclose(spot(tab, "cell-1", "map-confidence"), middle, atol=2)
    larger = box["width"] / 80
    np.testing.assert_allclose(spot(tab, "cell-4") - spot(tab, "cell-1"), larger * (other - home), rtol=0.05)
    tab.mouse.dblclick(box["x"] + middle[0], box["y"] + middle[1])
    settled(tab)
    np.testing.assert_allclose(spot(tab, "cell-1"), home, atol=0.1)


def test_keys_zoom_and_move_a_map(tab):
    tab.locator("#map-type").focus()
    home = spot(tab, "cell-1")
    tab.keyboard.press("+")
    settled(tab)
    before = spot(tab, "cell-1")
    assert np.abs(before - home).max() > 5
    tab.keyboard.press("ArrowLeft")
    settled(tab)
    np.testing.assert_allclose(spot(tab, "cell-1") - before, [40, 0], atol=0.5)
    tab.keyboard.press("Escape")
    settled(tab)
    np.testing.assert_allclose(spot(tab, "cell-1"), home, atol=0.1)


def test_two_fingers_zoom_and_a_tap_names_a_cell(browser, small, tmp_path):
    visit = Visit(browser, tmp_path / "annotated.html", small, has_touch=True, viewport={"width": 390, "height": 844})
    tab = visit.tab
    tab.locator("#map-type").scroll_into_view_if_needed()
    tab.touchscreen.tap(*tab.evaluate("name => scpretrain.place('map-type', name)", f"cell 7 {EVIL}"))
    tab.wait_for_selector("#tip:not([hidden])")
    assert f"type: {EVIL}" in tab.text_content("#tip")
    span = "Math.abs(scpretrain.place('map-type', 'cell-1')[0] - scpretrain.place('map-type', 'cell-2')[0])"
    before, box = tab.evaluate(span), tab.locator("#map-type").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = tab.context.new_cdp_session(tab)
    for kind, apart_by in (("touchStart", 30), ("touchMove", 45), ("touchMove", 60), ("touchEnd", None)):
        fingers = [] if apart_by is None else [{"x": x + s * apart_by, "y": y, "id": k} for k, s in enumerate((-1, 1))]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})
    settled(tab)
    assert tab.evaluate(span) == pytest.approx(2 * before, rel=0.1)
    visit.close()


def test_the_heat_map_says_counts_and_names_as_they_are(tab):
    mark = tab.locator("#confusion [data-tip]").first
    mark.scroll_into_view_if_needed()
    mark.hover()
    tab.wait_for_selector("#tip:not([hidden])")
    assert "cells" in tab.text_content("#tip") and "% of the label" in tab.text_content("#tip")
    assert EVIL[:20] in tab.text_content("#confusion")


def test_a_narrow_window_needs_no_sideways_scrolling(tab):
    tab.set_viewport_size({"width": 380, "height": 800})
    until(tab, "document.querySelector('#map-type canvas').clientWidth < 380")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 380
    tab.set_viewport_size({"width": 1280, "height": 900})


def test_fifty_thousand_cells_are_drawn_and_answer(browser, tmp_path):
    given = apart(annotation(n=50_000), "cell-12346")
    visit = Visit(browser, tmp_path / "annotated.html", given)
    assert visit.tab.evaluate("scpretrain.points") == {"map-type": 50_000, "map-confidence": 50_000}
    assert "cell-12346" in point_at(visit.tab, "map-confidence", "cell-12346")
    visit.close()


def test_table_and_maps_are_downloaded(tab, shared, small):
    name, text = saved(shared, '[data-save="csv"]')
    table = pd.read_csv(io.StringIO(text), keep_default_na=False).set_index("cell").loc[small.cells]
    assert name.endswith("_table.csv") and table["cell_type"].tolist() == small.cell_type.tolist()
    np.testing.assert_allclose(table["umap_1"], small.umap[:, 0], atol=1e-4)
    for what in ("By cell type", "By confidence"):
        name, text = saved(shared, f'[aria-label="Download this map as SVG: {what}"]')
        drawn = list(ElementTree.fromstring(text).iter())
        assert name.endswith(".svg") and sum(one.tag.endswith("circle") for one in drawn) >= 300
        if what == "By cell type":  # its legend tells what the colours are
            assert any((one.text or "").startswith(f"1  {EVIL[:20]}") for one in drawn)
        with tab.expect_download() as download:
            tab.click(f'[aria-label="Download this map as PNG: {what}"]')
        picture = pytest.importorskip("matplotlib.image").imread(download.value.path())
        assert (
            picture.shape[0] > 1000 and (picture[..., :3].max(axis=2) - picture[..., :3].min(axis=2) > 0.15).sum() > 900
        )


def test_unknown_lies_beneath_all_types(browser, tmp_path):
    given = annotation(n=400, types=("alpha", "Unknown"), confidence=np.full(400, 0.9))
    given.umap[:] = np.random.default_rng(0).normal(size=(400, 2)) * 0.001
    given.umap[:2] = [[-9, -9], [9, 9]]  # all others lie on one spot
    visit = Visit(browser, tmp_path / "annotated.html", given)
    visit.tab.uncheck("#names")
    settled(visit.tab)
    spot = (
        "const c = document.querySelector('#map-type canvas'); [...c.getContext('2d').getImageData(c.width / 2, "
        "c.height / 2, 1, 1).data]"
    )
    red, _, blue, alpha = visit.tab.evaluate(f"() => {{ {spot.replace('; [', '; return [')}; }}")
    assert alpha > 200 and blue - red > 100  # the blue of alpha, not grey
    visit.close()


def test_more_than_twenty_types_are_striped(browser, tmp_path):
    n, types = 4_000, [f"type {k}" for k in range(24)]
    given = annotation(n=n, types=types)
    visit = Visit(browser, tmp_path / "annotated.html", given)
    colours = visit.tab.evaluate(
        """() => { const c = document.querySelector('#map-type canvas');
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, seen = {};
        for (let i = 0; i < d.length; i += 4) { const k = [d[i] >> 4, d[i + 1] >> 4, d[i + 2] >> 4].join();
          seen[k] = (seen[k] || 0) + 1; } return seen; }"""
    )
    # 20 colours, 4 of them in a paler stripe too, white, and what lies between at the rim of a point
    assert sum(count > 150 for count in colours.values()) >= 24
    visit.close()


def with_genes(n=300, **changes):
    values = np.zeros((n, 3), np.float32)
    values[:, 0] = np.where(np.arange(n) % 3 == 0, 3, 0)  # the first type alone
    values[:, 1] = np.random.default_rng(0).random(n)
    values[:5, 2] = 1
    given = annotation(n=n, genes=(["GCG", "ACTB", "rare"], csr_matrix(values)))
    for name, value in changes.items():
        setattr(given, name, value)
    return given


def test_a_gene_colours_both_maps_and_has_its_violins_beside_them(browser, tmp_path):
    visit = Visit(browser, tmp_path / "annotated.html", with_genes())
    tab = visit.tab
    tab.fill("#gene", "gcg")  # as one types it
    tab.keyboard.press("Enter")
    until(tab, "scpretrain.gene === 'GCG'")
    settled(tab)
    assert tab.inner_text('[data-map="map-type"]').startswith("GCG")
    assert tab.inner_text('[data-map="map-confidence"]').startswith("GCG")
    assert [foot.inner_text().split("\n")[-1] for foot in tab.locator(".scale").all()] == [
        "3 log1p of counts per 10,000"
    ] * 2
    lines = [line.inner_text().split("\t") for line in tab.locator("#gene-bars tbody tr").all()]
    assert [lines[0][0].strip(), *lines[0][-2:]] == ["2 alpha", "3.00", "100 %"] and lines[1][-1] == "0 %"
    assert tab.locator("#gene-bars svg").count() == 3
    beside, map_ = tab.locator("#gene-bars").bounding_box(), tab.locator("#map-confidence").bounding_box()
    assert beside["x"] > map_["x"] + map_["width"] and abs(beside["y"] - map_["y"]) < 60
    tab.fill("#gene", "nonsense")
    tab.keyboard.press("Enter")
    until(tab, "document.getElementById('gene-said').textContent.includes('is none of the 3 genes')")
    tab.click("#no-gene")
    until(tab, "scpretrain.gene === '' && document.getElementById('gene-bars').hidden")
    visit.close()


def test_an_averaged_gene_says_so_and_keeps_its_shares(browser, tmp_path, monkeypatch):
    monkeypatch.setattr("annotation.report.genes._exact", lambda cells, value: "A" * 9_000)
    without = len(render(with_genes(genes=None)).encode())
    monkeypatch.setattr("annotation.report.page.ROOM", without + 20_000)  # for two of the three
    visit = Visit(browser, tmp_path / "annotated.html", with_genes())
    tab = visit.tab
    tab.fill("#gene", "ACTB")
    until(tab, "scpretrain.gene === 'ACTB'")
    assert "mean of up to 8 cells" in tab.inner_text("#gene-said")
    lines = [line.inner_text().split("\t") for line in tab.locator("#gene-bars tbody tr").all()]
    assert len(lines) == 3 and all(0.4 < float(line[-2]) < 0.6 and line[-1] == "100 %" for line in lines)
    visit.close()


def test_an_old_browser_draws_all_but_genes_and_says_so(browser, tmp_path):
    visit = Visit(browser, tmp_path / "annotated.html", with_genes(), before="delete window.DecompressionStream;")
    assert visit.tab.evaluate("scpretrain.points") == {"map-type": 300, "map-confidence": 300}
    visit.tab.fill("#gene", "GCG")
    until(visit.tab, "document.getElementById('gene-said').textContent.includes('browser is too old')")
    assert coloured_pixels(visit.tab, "map-type") > 500
    visit.close()


def test_a_label_never_covers_a_small_island(browser, tmp_path):
    chance = np.random.default_rng(0)
    sizes = {"a very long name indeed": 800, "island one": 12, "island two": 9, "island three": 15}
    places = np.array([[0, 0], [4.5, 0], [4.5, 0.6], [-4.5, 1]])
    names = np.repeat(np.array(list(sizes), dtype=object), list(sizes.values()))
    umap = np.repeat(places, list(sizes.values()), axis=0)
    umap = umap + chance.normal(size=umap.shape) * np.where(names == "a very long name indeed", 1, 0.08)[:, None]
    n = len(names)
    given = Annotation("islands", [f"c{i}" for i in range(n)], names, np.full(n, 0.9), umap=umap)
    visit = Visit(browser, tmp_path / "annotated.html", given)
    labels = visit.tab.evaluate("scpretrain.labels['map-type']")
    frame = visit.tab.locator("#map-type canvas").bounding_box()
    assert [label["text"] for label in labels] == ["a very long name inde…", "island three", "island one", "island two"]
    for cell in np.flatnonzero(names != "a very long name indeed"):
        x, y = visit.tab.evaluate("name => scpretrain.place('map-type', name)", f"c{cell}")
        x, y = x - frame["x"], y - frame["y"]
        assert not any(b[0] < x < b[2] and b[1] < y < b[3] for b in (label["box"] for label in labels))
    visit.close()
