"""The report: self-contained, escaped, complete, and alive in a real browser.

Run: python -m pytest tests/annotation/test_report.py

The tests with a browser need Chromium or Chrome on this machine and `pip install playwright` (no browser is
downloaded: the one that is installed is driven); without them they are skipped.
"""

import base64
import csv
import html.parser
import io
import json
import re
import shutil
import zlib

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from annotation import given_labels
from annotation.report import Annotation, genes, render, write_report
from annotation.report.annotation import COLOURS, UNKNOWN_COLOUR
from annotation.report.figures import MOST_LABELS
from annotation.report.page import SCALE
from stages.plot import seen

EVIL = "<script>alert(\"1\")</script> & 'é' 細胞 </script><!--"


def annotation(n=40, types=("alpha", EVIL, "Unknown"), seed=0, **changes):
    """A small world: n cells around as many places as there are types."""
    chance = np.random.default_rng(seed)
    code = np.arange(n) % len(types)
    places = chance.uniform(-10, 10, (len(types), 2))
    names = np.array(types, dtype=object)
    known = names[(code + (chance.random(n) < 0.2)) % len(types)]
    known[known == "Unknown"] = ""
    made = Annotation(
        title=f"{EVIL} annotated",
        cells=[f"cell {i} {EVIL}" if i % 7 == 0 else f"cell-{i}" for i in range(n)],
        cell_type=names[code],
        confidence=chance.random(n),
        umap=places[code] + chance.normal(size=(n, 2)),
        second_choice=names[(code + 1) % len(types)],
        known=known,
        overlap=[{"dataset": EVIL, "species": "human", "genes_present": 14312, "of": 15021, "share": 0.953}],
        warnings=[f"beware of {EVIL}"],
        notes=[f"note {EVIL}"],
        settings={"seed": 0, EVIL: EVIL},
        versions={"scpretrain": "0.1"},
        command=f"python annotate.py --query '{EVIL}'",
        ece=0.031,
        reliability=pd.DataFrame({"confidence": [0.3, 0.9], "accuracy": [0.25, 0.92], "n": [40, 1234]}),
        clusters=pd.DataFrame(
            {
                "cluster": [0, 1],
                "n": [4321, 8],
                "majority": ["alpha", EVIL],
                "share": [0.987, 0.5],
                "entropy": [0.05, 0.69],
                "mixed": [False, True],
            }
        ),
        markers=pd.DataFrame(
            {
                "type": ["alpha", EVIL],
                "gene": ["GCG", EVIL],
                "mean_in": [5.25, 1.0],
                "mean_out": [0.5, 0.25],
                "detected_in": [0.99, 0.8],
                "detected_out": [0.1, 0.2],
                "log2_fold_change": [6.85, 1.08],
                "score": [99.5, 7.25],
            }
        ),
        dots=pd.DataFrame(
            {
                "type": ["alpha", "alpha", EVIL, EVIL],
                "gene": ["GCG", EVIL] * 2,
                "mean": [5.25, 0.25, 0.5, 1.0],
                "detected": [0.99, 0.2, 0.1, 0.8],
            }
        ),
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


class Page(html.parser.HTMLParser):
    """What a browser would read: tags, addresses, texts, scripts."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.addresses, self.texts, self.scripts, self.styles = [], [], [], [], []
        self.open = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "input", "br"):
            self.open.append(tag)
        addresses = ("src", "href", "srcset", "action", "data", "poster", "background", "xlink:href")
        self.addresses += [value for name, value in attributes if name in addresses]
        self.styles += [value for name, value in attributes if name == "style"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        kept = {"script": self.scripts, "style": self.styles}.get(self.open[-1] if self.open else "", self.texts)
        kept.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    @property
    def data(self):
        return json.loads(self.scripts[0])


def unpack(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype=dtype)


@pytest.fixture(scope="module")
def page():
    return Page(render(annotation()))


# ------------------------------------------------------------------------------------------ without a browser


def test_the_page_names_no_other_address(page):
    assert all(a.startswith(("#", "data:")) for a in page.addresses)
    assert not any(re.search(r"url\(|@import|https?:", style) for style in page.styles)
    assert {"iframe", "img", "object", "embed", "base", "form"}.isdisjoint(tag for tag, _ in page.tags)
    ours = page.scripts[0] + page.scripts[-1]
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|WebSocket|sendBeacon", ours)


def test_the_page_forbids_itself_every_request(page):
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy and "*" not in policy and "connect-src" not in policy


def test_names_are_shown_and_never_run(page):
    # exactly the data, plotly.js and our own script: no name opened a fourth; every tag was closed
    assert len(page.scripts) == 3 and page.open == []
    shown = " ".join(EVIL.split())
    title, warning, command = f"{shown} annotated", f"beware of {shown}", f"--query '{shown}'"
    assert page.text.count(title) == 2 and warning in page.text and command in page.text
    assert not set(page.scripts[0]) & set("<>&")
    assert EVIL in page.data["names"] and f"cell 0 {EVIL}" in page.data["cells"]
    # plotly reads tags in its labels
    assert not re.search("<(?!br>)", json.dumps(page.data["figures"]).replace("<extra></extra>", ""))


def test_every_cell_is_on_the_page_with_its_numbers():
    given = annotation(n=500)
    data = Page(render(given)).data
    at = {cell: k for k, cell in enumerate(data["cells"])}
    order = [at[cell] for cell in given.cells]
    assert sorted(order) == list(range(500))
    names = np.array(data["names"], dtype=object)
    np.testing.assert_array_equal(unpack(data["x"], "<f4")[order], given.umap[:, 0].astype(np.float32))
    np.testing.assert_array_equal(unpack(data["y"], "<f4")[order], given.umap[:, 1].astype(np.float32))
    np.testing.assert_array_equal(unpack(data["confidence"], "<f4")[order], given.confidence.astype(np.float32))
    assert names[unpack(data["type"], "<u2")][order].tolist() == given.cell_type.tolist()
    assert names[unpack(data["second"], "<u2")][order].tolist() == given.second_choice.tolist()
    known = [names[k] if k != 0xFFFF else "" for k in unpack(data["known"], "<u2")[order]]
    assert known == given.known.tolist()


def test_the_tables_hold_the_numbers_that_were_handed_in(page):
    for said in ("14,312", "15,021", "95.3 %", "4,321", "98.7 %", "1 of 2 clusters holds", "0.031", "1,234"):
        assert said in page.text
    for said in ("GCG", "5.25", "6.85", "99.50", "0.920", "2 warnings", "cells 40"):
        assert said in page.text


def test_counts_of_all_cells_go_before_those_of_the_drawn_ones():
    page = Page(render(annotation(n=40, counts={"alpha": 900_000, EVIL: 90_000, "Unknown": 10_000})))
    assert "cells 1,000,000" in page.text and "The map shows 40 of 1,000,000 cells" in page.text
    assert "90.0 %" in page.text and "Unknown 1.0 %" in page.text
    assert page.data["counts"] == [900_000, 90_000, 10_000]


def test_unknown_comes_last_is_grey_and_lies_beneath():
    given = annotation(n=60, cell_type=np.array(["Unknown"] * 50 + ["alpha"] * 10, dtype=object))
    data = Page(render(given)).data
    assert data["names"][:2] == ["alpha", "Unknown"] and data["colours"][1] == UNKNOWN_COLOUR
    assert unpack(data["type"], "<u2").tolist() == [1] * 50 + [0] * 10


def test_a_hundred_types_are_told_apart_by_colour_and_shape():
    types = [f"type {k}" for k in range(100)]
    page = Page(render(annotation(n=400, types=types)))
    assert len(set(page.data["colours"])) == 20 == len(set(COLOURS))
    assert len(set(zip(page.data["colours"], page.data["shapes"], strict=True))) == 100
    shapes = [a["class"] for tag, a in page.tags if tag == "i" and a.get("class")]
    assert shapes[:100] == page.data["shapes"]
    forty = Page(render(annotation(n=400, types=types[:40])))
    assert np.array(forty.data["figures"]["confusion"]["data"][0]["z"]).shape == (40, 40)


def lightness_and_hue(colours):
    """Of hex colours, in CIE L*a*b*'s younger sister OKLab: L (C,), and places in a plane of hues (C, 2)."""
    lab = seen(np.array([[int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)] for colour in colours]))[0]
    return lab[:, 0], lab[:, 1:]


def test_no_two_colours_look_alike_and_none_is_lost_on_white():
    light, hue = lightness_and_hue(COLOURS)
    apart = np.hypot(light[:, None] - light, np.linalg.norm(hue[:, None] - hue, axis=-1)) + 9 * np.eye(len(light))
    assert apart[:10, :10].min() > 0.1 and apart.min() > 0.07  # black and white are 1 apart
    assert 0.35 < light.min() and light.max() < 0.85
    assert lightness_and_hue(SCALE)[0].max() < 0.8  # no confidence is pale on white
    assert lightness_and_hue(SCALE[-1:])[0] < 0.4


def test_the_heat_map_holds_shares_of_each_existing_label():
    confusion = pd.DataFrame({"b": [1, 30], "a": [3, 10], "new": [0, 60]}, index=["a", "b"])
    page = Page(render(annotation(confusion=confusion, confusion_note="Known labels were kept.")))
    figure = page.data["figures"]["confusion"]
    assert figure["layout"]["yaxis"]["ticktext"] == ["b", "a"]
    assert figure["layout"]["xaxis"]["ticktext"] == ["b", "a", "new"]
    assert figure["data"][0]["z"] == [[0.3, 0.1, 0.6], [0.25, 0.75, 0.0]]
    assert "60 cells, 60.0 % of the label" in figure["data"][0]["text"][0][2]
    assert "33 of 104 cells" in page.text and "Known labels were kept." in page.text


def test_a_heat_map_of_very_many_labels_shows_the_most_frequent_and_says_so():
    given = annotation(n=2_000, known=np.array([f"label {k % 500}" for k in range(2_000)], dtype=object))
    page = Page(render(given))
    assert len(page.data["figures"]["confusion"]["data"][0]["z"]) == MOST_LABELS
    assert f"shows the {MOST_LABELS} most frequent names" in page.text


@pytest.mark.parametrize("missing", ["umap", "second_choice", "known", "overlap", "clusters", "reliability", "dots"])
def test_what_was_not_handed_in_leaves_no_trace(missing):
    page = Page(render(annotation(**{missing: None})))
    heading = {
        "known": "agreement",
        "overlap": "overlap",
        "clusters": "clusters",
        "reliability": "calibration",
    }
    sections = {a.get("id") for tag, a in page.tags if tag == "section"}
    assert heading.get(missing) not in sections
    links = {a.get("href") for tag, a in page.tags if tag == "a"}
    assert links == {f"#{section}" for section in sections}


def test_one_cell_makes_a_page():
    bare = Annotation(
        title="one", cells=["c"], cell_type=["alpha"], confidence=np.array([np.nan]), umap=np.zeros((1, 2))
    )
    page = Page(render(bare))
    assert "cell 1 cell type 1" in page.text
    assert "No warnings." in page.text and len(page.data["cells"]) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cells": []}, "at least one cell"),
        ({"confidence": np.zeros(3)}, "3 values of confidence for 40 cells"),
        ({"umap": np.zeros((40, 3))}, "shape"),
        ({"umap": np.full((40, 2), np.nan)}, "80 UMAP coordinates are not numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(changes, said):
    with pytest.raises(ValueError, match=said):
        render(annotation(**changes))


def test_the_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "annotated.html"
    write_report(path, annotation())
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    before = path.read_bytes()
    with pytest.raises(ValueError):
        write_report(path, annotation(confidence=np.zeros(3)))
    assert path.read_bytes() == before
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        write_report(tmp_path / "file" / "annotated.html", annotation())
    (tmp_path / "file").unlink()
    assert [p.name for p in tmp_path.iterdir()] == ["annotated.html"]


def test_a_name_that_is_no_valid_unicode_does_not_cost_the_page(tmp_path):
    given = annotation()
    given.cells[3] = "bad \udcff name"
    given.cell_type[3] = "bad \udcff type"
    write_report(tmp_path / "annotated.html", given)
    page = Page((tmp_path / "annotated.html").read_text(encoding="utf-8"))
    assert "bad \udcff name" in page.data["cells"]


def test_the_same_annotation_makes_the_same_page():
    assert render(annotation()) == render(annotation())


def test_fifty_thousand_cells_add_little_to_the_page():
    small, large = len(render(annotation(n=40))), len(render(annotation(n=50_000)))
    assert large - small < 5_000_000


# ------------------------------------------------------------------------------------------------ groups, genes


def explored(n=200, **changes):
    """A page to name groups on: no types, four groups of equal size, the first gene on in group 1 alone."""
    chance = np.random.default_rng(3)
    group = np.arange(n) % 4 + 1
    places = np.array([[0, 0], [0, 8], [8, 0], [8, 8]])
    cells = [f'cell {i}, "{EVIL}"' if i % 7 == 0 else f"cell-{i}" for i in range(n)]
    values = chance.poisson(0.5, (n, 6)).astype(np.float32)
    values[:, 0] = np.where(group == 1, 3, 0)
    rows = [
        {
            "group": k,
            "n": int((group == k).sum()),
            "genes": [{"gene": EVIL if k == 2 else f"g{k}", "inside": 0.91, "outside": 0.04}],
            "suggested": [cells[k - 1]],
            "proposed": f"T cell, {EVIL}" if k == 2 else "",
            "score": 0.8 if k == 2 else np.nan,
            "mixed": k == 3,
        }
        for k in range(1, 5)
    ]
    made = Annotation(
        title=f'explored, "{EVIL}"',
        cells=cells,
        cell_type=np.full(n, "not labelled", dtype=object),
        confidence=np.full(n, np.nan),
        umap=places[group - 1] + chance.normal(0, 0.4, (n, 2)),
        called=False,
        group=group,
        groups=pd.DataFrame(rows),
        genes=([f"g{k}" for k in range(1, 7)], csr_matrix(values)),
        names=["B cell", EVIL],
        next_command="python annotate.py --query cells.h5ad --labels {labels} --out annotated.h5ad",
        save_as="explored.labels.csv",
        groups_file="explored.csv",
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def levels_of(packed, k, order):
    """A gene unpacked as the browser does it, in the order of the cells: (n,) of 0..LEVELS."""
    content = zlib.decompress(base64.b64decode(packed["data"][k]))
    on = int.from_bytes(content[:4], "little")
    steps, levels = np.frombuffer(content[4:-on], np.uint8), np.frombuffer(content[-on:], np.uint8)
    cells = (np.cumsum(steps.astype(int) + (steps < 255)) - 1)[steps < 255]
    found = np.zeros(len(order), dtype=int)
    found[order[cells]] = levels
    return found


def test_genes_are_packed_to_the_nearest_level_with_gaps_of_any_length():
    chance = np.random.default_rng(0)
    dense = chance.random((2_000, 3)) * (chance.random((2_000, 3)) < [0.5, 0.02, 0])
    dense[[0, 255, 256, 511, 1999], 1] = [5, 4, 3, 2, 1]
    order = chance.permutation(2_000)
    packed = genes.packed(csr_matrix(dense.astype(np.float32)), ["a", "b", "nowhere"], order, 10**6)
    assert packed["names"] == ["a", "b"]  # a gene that no cell expresses has no colours
    for k, highest in enumerate(packed["highest"]):
        level = levels_of(packed, k, order)
        np.testing.assert_array_equal(level > 0, dense[:, k] > 0)
        step = highest / genes.LEVELS
        assert np.abs(level * step - dense[:, k]).max() < step + 1e-3


def test_a_page_of_many_genes_stays_small_says_how_many_fit_and_keeps_the_listed_ones():
    n, chance = 50_000, np.random.default_rng(0)
    dense = chance.random((n, 300), dtype=np.float32)
    dense[dense < 0.4] = 0
    given = annotation(n=n, genes=([f"gene {k}" for k in range(300)], csr_matrix(dense)))
    given.markers.loc[0, "gene"] = "gene 299"
    text = render(given)
    kept = Page(text).data["genes"]
    assert 13_000_000 < len(text.encode()) < 15_000_000
    assert kept["names"][0] == "gene 299" and 50 < len(kept["names"]) < 300 == kept["all"]


def test_the_warnings_count_what_the_calls_give_reason_to_doubt():
    given = annotation(n=100, settings={"unknown": 0.05}, warnings=[])
    given.confidence = np.where(given.cell_type == "alpha", 0.95, 0.6)
    said = Page(render(given)).text
    assert "2 warnings" in said and "33.0 % of the cells are Unknown, more than the 5.0 %" in said
    assert f"1 of 2 types has a median confidence under 0.7: {' '.join(EVIL.split())} (0.60)." in said
    given.settings, given.confidence = {"unknown": 0.4}, np.full(100, 0.9)
    assert "No warnings." in Page(render(given)).text


def test_a_name_of_a_million_letters_is_shown_in_short():
    long = "x" * 1_000_000
    without = len(render(annotation()))
    text = render(annotation(types=["alpha", long, "Unknown"], clusters=None))
    assert long in Page(text).data["names"]
    assert len(text) - without < 1_500_000  # once, in the data


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"group": None}, "without the group of each cell"),
        ({"group": np.ones(3)}, "3 values of group for 200 cells"),
        ({"genes": (["a"], csr_matrix((3, 1)))}, "genes of shape"),
    ],
)
def test_groups_and_genes_that_do_not_fit_are_refused_by_name(changes, said):
    with pytest.raises(ValueError, match=said):
        render(explored(**changes))


def test_a_page_without_types_shows_groups_and_no_grey_panel():
    page = Page(render(explored()))
    ids = {a.get("id") for _, a in page.tags}
    assert "map-group" in ids and not {"map-type", "map-confidence", "types"} & ids
    assert "groups 4" in page.text and "mixed: may want to be split" in page.text
    assert len(page.scripts) == 3 and page.open == []
    plain = {a.get("id") for _, a in Page(render(explored(groups=None, group=None))).tags}
    assert "map-type" in plain and not {"map-group", "map-confidence"} & plain
    without = {a.get("id") for _, a in Page(render(explored(umap=None))).tags}
    assert {"save", "gene"} <= without and "map-group" not in without


# --------------------------------------------------------------------------------------------- with a browser

FLAGS = (
    "--no-sandbox --no-first-run --disable-background-networking --disable-component-update --disable-sync "
    "--disable-quic --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader"
).split()
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def browser():
    """The machine's own Chromium, headless, drawing WebGL in software."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright to test in a browser")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser here: none of {', '.join(NAMES)} is on the PATH")
    with playwright.sync_playwright() as driver:
        try:
            chromium = driver.chromium.launch(executable_path=program, args=FLAGS, timeout=30_000)
        except playwright.Error as error:
            pytest.skip(f"{program} does not start here: {error}")
        yield chromium
        chromium.close()


class Visit:
    """A report opened as a user does, from disk, with all it asked for and complained of."""

    def __init__(self, browser, path, given, before=""):
        self.asked, self.complaints = [], []
        write_report(path, given)
        self.tab = browser.new_page(viewport={"width": 1280, "height": 900})
        self.tab.add_init_script(before)
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        self.tab.goto(path.as_uri(), timeout=60_000)
        self.tab.wait_for_function("window.scpretrain && window.scpretrain.ready", timeout=60_000)

    def close(self):
        self.tab.close()
        assert self.complaints == []
        assert [url for url in self.asked if not url.startswith(("file:", "data:", "blob:"))] == []


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
    """The small world's page, all types shown."""
    yield shared.tab
    assert shared.complaints == []


PLACE = """([map, name]) => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const floats = text => new Float32Array(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
  const div = document.getElementById(map), row = data.cells.indexOf(name);
  div.scrollIntoView({block: "center"});
  const box = div.getBoundingClientRect(), axes = div._fullLayout;
  return [box.left + axes.xaxis._offset + axes.xaxis.l2p(floats(data.x)[row]),
          box.top + axes.yaxis._offset + axes.yaxis.l2p(floats(data.y)[row])];
}"""


def coloured_pixels(tab, map_name):
    """Pixels of the drawn map that are neither white nor grey."""
    image = pytest.importorskip("matplotlib.image")
    drawn = image.imread(io.BytesIO(tab.locator(f"#{map_name} .plotly").first.screenshot()))[..., :3]
    return int((drawn.max(axis=2) - drawn.min(axis=2) > 0.15).sum())


def point_at(tab, map_name, cell):
    x, y = tab.evaluate(PLACE, [map_name, cell])
    tab.mouse.move(5, 5)
    tab.wait_for_selector("#tip", state="hidden")
    tab.mouse.move(x - 2, y - 2)
    tab.mouse.move(x, y)
    tab.wait_for_selector("#tip:not([hidden])", timeout=10_000)
    return tab.text_content("#tip")


def apart(given, cell):
    given.umap[given.cells.index(cell)] = given.umap.max(axis=0) + 3
    return given


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
    tab.wait_for_function("scpretrain.points['map-type'] === 100 && scpretrain.points['map-confidence'] === 100")
    assert alpha.get_attribute("aria-pressed") == "true"
    assert tab.inner_text("#shown") == "1 of 3 types, 100 cells"
    tab.wait_for_timeout(200)
    assert 0 < coloured_pixels(tab, "map-type") < before
    tab.click("#all")
    tab.wait_for_function("scpretrain.points['map-type'] === 300")


def test_a_drag_zooms_both_maps_and_a_double_click_goes_back(tab):
    ranges = "['map-type', 'map-confidence'].map(m => document.getElementById(m).layout.xaxis.range.join())"
    home = tab.evaluate(ranges)
    assert home[0] == home[1]
    box = tab.locator("#map-type .nsewdrag").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x - 80, y - 80)
    tab.mouse.down()
    tab.mouse.move(x, y, steps=4)
    tab.mouse.move(x + 80, y + 80, steps=4)
    tab.mouse.up()
    tab.wait_for_function(f"(r => r[0] === r[1] && r[0] !== '{home[0]}')({ranges})")
    tab.wait_for_timeout(500)  # plotly counts a click within 0.3 s of another as its second
    tab.mouse.dblclick(x, y)
    tab.wait_for_function(f"(r => r[0] === r[1] && r[0] === '{home[0]}')({ranges})")


def test_the_heat_map_says_counts_and_names_as_they_are(tab):
    tab.locator("#confusion").scroll_into_view_if_needed()
    box = tab.locator("#confusion .nsewdrag").bounding_box()
    tab.mouse.move(box["x"] + 5, box["y"] + 5)
    tab.mouse.move(box["x"] + 12, box["y"] + 12)
    tab.wait_for_selector("#confusion .hoverlayer .hovertext", timeout=10_000)
    said = tab.text_content("#confusion .hoverlayer")
    assert "cells" in said and "% of the label" in said
    assert EVIL[:20] in tab.text_content("#confusion .infolayer + *, #confusion svg.main-svg")


def test_no_button_sends_the_cells_away(tab):
    titles = tab.evaluate("[...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)")
    allowed = {
        "Download plot as a PNG",
        "Download plot as a png",
        "Zoom",
        "Pan",
        "Zoom in",
        "Zoom out",
        "Reset axes",
    }
    assert titles and set(titles) <= allowed


def test_a_narrow_window_needs_no_sideways_scrolling(tab):
    tab.set_viewport_size({"width": 380, "height": 800})
    tab.wait_for_function("document.getElementById('map-type')._fullLayout.width < 380")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 380


NO_WEBGL = """const real = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
  return kind.includes("webgl") ? null : real.call(this, kind, ...rest);
};"""


def test_a_browser_without_webgl_draws_every_nth_cell_and_says_so(browser, tmp_path):
    visit = Visit(browser, tmp_path / "annotated.html", annotation(n=6_000), before=NO_WEBGL)
    assert visit.tab.evaluate("scpretrain.points['map-type']") == 3_000
    assert "1 cell in 2 (3,000 of 6,000)" in visit.tab.locator(".no-webgl").first.inner_text()
    visit.close()


def test_fifty_thousand_cells_are_drawn_and_answer(browser, tmp_path):
    given = apart(annotation(n=50_000), "cell-12346")
    visit = Visit(browser, tmp_path / "annotated.html", given)
    assert visit.tab.evaluate("scpretrain.points") == {"map-type": 50_000, "map-confidence": 50_000}
    assert "cell-12346" in point_at(visit.tab, "map-confidence", "cell-12346")
    visit.close()


# ------------------------------------------------------------------------------- naming groups, in the browser


def open_page(browser, path, given):
    visit = Visit(browser, path, given)
    visit.row = lambda number: visit.tab.locator(f'li.group[data-group="{number}"]')
    return visit


def saved(visit, button="#save"):
    """What a click on the button downloads: its name and its text."""
    with visit.tab.expect_download() as download:
        visit.tab.click(button)
    path = download.value.path()
    return download.value.suggested_filename, path.read_bytes().decode()


def labels(text):
    """A saved table as any reader of CSV takes it: comments aside, {cell: type}."""
    csv.field_size_limit(1 << 27)
    body = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    rows = list(csv.reader(io.StringIO(body)))
    assert all(len(row) == 2 for row in rows)
    return rows[0], dict(rows[1:])


def test_groups_are_named_saved_recalled_and_loaded_back(browser, tmp_path):
    given = explored()
    visit = open_page(browser, tmp_path / "explored.html", given)
    tab, row = visit.tab, visit.row
    assert tab.is_disabled("#save") and "0 of 4 groups named" in tab.inner_text("#progress")
    row(1).locator(".called").fill(f'B, "{EVIL}"')
    row(3).locator(".skip").check()
    row(4).locator(".same").select_option("1")
    assert "2 of 4 groups named (100 of 200 cells). 1 proposal to be confirmed." in tab.inner_text("#progress")
    name, text = saved(visit)
    assert name == "explored.labels.csv" and text.startswith("# ") and "# left unlabelled: 3\n" in text
    head, found = labels(text)
    assert head == ["cell", "cell_type"]
    # the proposal of group 2 was not confirmed, so it is not in the file
    assert found == {cell: f'B, "{EVIL}"' for cell, k in zip(given.cells, given.group, strict=True) if k in (1, 4)}
    assert tab.inner_text("#command") == given.next_command.replace("{labels}", "explored.labels.csv")
    row(2).locator(".confirm").click()
    assert tab.is_hidden("#next")  # what was saved is no longer what is chosen
    _, more = saved(visit)
    assert set(labels(more)[1].values()) == {f'B, "{EVIL}"', f"T cell, {EVIL}"}

    tab.reload()
    tab.wait_for_function("window.scpretrain && window.scpretrain.ready")
    assert saved(visit)[1] == more  # recalled by the browser
    visit.close()

    (tmp_path / "saved.csv").write_text(more, encoding="utf-8")
    assert given_labels.read(tmp_path / "saved.csv").types == labels(more)[1]  # as the second run reads it
    other = open_page(browser, tmp_path / "elsewhere.html", given)  # a new window knows nothing of the other
    assert "0 of 4 groups named" in other.tab.inner_text("#progress")
    other.tab.set_input_files("#load", tmp_path / "saved.csv")
    other.tab.wait_for_function("document.getElementById('progress').textContent.includes('Loaded: 3 groups named.')")
    assert saved(other)[1] == more
    other.close()


def test_loading_says_what_matches_nothing_and_what_is_no_table(browser, tmp_path):
    visit = open_page(browser, tmp_path / "explored.html", explored())
    load = tmp_path / "labels.tsv"
    for text, said in (
        ("group\tcell_type\n1\tB\n9\tC\n", "Loaded: 1 group named. 1 line match"),
        ("hello", "no table of labels"),
        ("", "no table of labels"),
        ("# \n,cell_type\r\ncell-1,B\r\ncell-5,B\r\ncell-9,C\r\n", "1 group had several names"),
    ):
        load.write_text(text)
        visit.tab.set_input_files("#load", load)
        visit.tab.wait_for_function("s => document.getElementById('progress').textContent.includes(s)", arg=said)
    visit.close()


def test_the_keyboard_alone_is_enough(browser, tmp_path):
    visit = open_page(browser, tmp_path / "explored.html", explored())
    tab = visit.tab
    visit.row(1).locator(".called").focus()
    tab.keyboard.type("B cell")
    tab.keyboard.press("Enter")  # on to group 2, whose proposal Enter confirms
    assert tab.evaluate("document.activeElement.getAttribute('aria-label')") == "Name of group 2"
    tab.keyboard.press("Enter")
    tab.keyboard.press("Tab")  # from the name of group 3 to the box beside it
    assert "skip" in tab.evaluate("document.activeElement.className")
    tab.keyboard.press("Space")
    assert "left unlabelled" in visit.row(3).inner_text()
    visit.row(4).locator(".called").focus()
    tab.keyboard.type("NK")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "save" and tab.is_hidden("#next")
    with tab.expect_download() as download:
        tab.keyboard.press("Enter")
    assert set(labels(download.value.path().read_text())[1].values()) == {"B cell", f"T cell, {EVIL}", "NK"}
    visit.close()


def test_a_circle_of_groups_that_are_the_same_has_no_name(browser, tmp_path):
    visit = open_page(browser, tmp_path / "explored.html", explored())
    visit.row(1).locator(".same").select_option("3")
    visit.row(3).locator(".same").select_option("1")
    assert visit.tab.is_disabled("#save") and "waits for group 3" in visit.row(1).inner_text()
    visit.close()


def test_pointing_at_a_row_lights_its_cells_and_a_click_on_a_cell_goes_to_its_row(browser, tmp_path):
    given = explored()
    visit = open_page(browser, tmp_path / "explored.html", given)
    tab = visit.tab
    assert tab.evaluate("scpretrain.points") == {"map-group": 200}
    visit.row(2).locator("h3").hover()
    tab.wait_for_function("scpretrain.points['map-group'] === 50 && scpretrain.lit === '2'")
    tab.mouse.move(5, 5)
    tab.wait_for_function("scpretrain.points['map-group'] === 200")
    x, y = tab.evaluate(PLACE, ["map-group", "cell-3"])  # of group 4
    tab.mouse.move(x, y)
    tab.wait_for_selector("#tip:not([hidden])")
    assert "group: 4" in tab.text_content("#tip")
    tab.mouse.click(x, y)
    tab.wait_for_function("document.activeElement.getAttribute('aria-label') === 'Name of group 4'")
    visit.close()


def test_where_not_all_cells_are_drawn_the_file_names_groups_and_where_they_are(browser, tmp_path):
    given = explored()
    given.groups["n"] *= 40
    visit = open_page(browser, tmp_path / "explored.html", given)
    visit.row(2).locator(".called").fill("B cell")
    text = saved(visit)[1]
    (tmp_path / "saved.csv").write_text(text)
    read = given_labels.read(tmp_path / "saved.csv")
    assert read.by_group and read.groups_file == "explored.csv" and read.types == {"2": "B cell"}
    assert "# groups: explored.csv\n" in text and labels(text) == (["group", "cell_type"], {"2": "B cell"})
    assert "The map shows 200 of 8,000 cells" in visit.tab.inner_text("#name")
    assert "(2,000 of 8,000 cells)" in visit.tab.inner_text("#progress")
    visit.close()


def test_a_name_of_a_million_letters_is_saved_whole(browser, tmp_path):
    given = explored()
    given.groups.loc[1, "proposed"] = "y" * 1_000_000
    visit = open_page(browser, tmp_path / "explored.html", given)
    visit.row(3).locator(".called").fill("z" * 1_000_000)
    visit.row(3).locator(".called").fill("short")
    visit.row(2).locator(".confirm").click()
    visit.row(1).locator(".skip").check()
    visit.row(4).locator(".skip").check()
    found = set(labels(saved(visit)[1])[1].values())
    assert found == {"short", "y" * 1_000_000}
    visit.close()


def test_a_gene_colours_the_maps_and_has_a_bar_a_group(browser, tmp_path):
    visit = open_page(browser, tmp_path / "explored.html", explored())
    tab = visit.tab
    tab.fill("#gene", "G1")  # as one types it
    tab.keyboard.press("Enter")
    tab.wait_for_function("scpretrain.gene === 'g1'")
    assert tab.inner_text('[data-map="map-group"]') == "g1, log1p of counts per 10,000"
    bars = [line.inner_text().split("\t") for line in tab.locator("#gene-bars tbody tr").all()]
    assert [bars[0][0], *bars[0][-2:]] == ["group 1", "3.00", "100 %"] and bars[1][-1] == "0 %"
    tab.fill("#gene", "nonsense")
    tab.keyboard.press("Enter")
    tab.wait_for_function("document.getElementById('gene-said').textContent.includes('is none of the 6 genes')")
    tab.click("#no-gene")
    tab.wait_for_function("scpretrain.gene === '' && document.getElementById('gene-bars').hidden")
    visit.row(1).locator("button.gene").click()
    tab.wait_for_function("scpretrain.gene === 'g1'")
    assert visit.row(2).locator("button.gene").is_disabled()  # not among the page's genes
    visit.close()


def test_table_and_map_are_downloaded(tab, shared, small):
    name, text = saved(shared, '[data-save="csv"]')
    table = pd.read_csv(io.StringIO(text), keep_default_na=False).set_index("cell").loc[small.cells]
    assert name.endswith("_table.csv") and table["cell_type"].tolist() == small.cell_type.tolist()
    np.testing.assert_allclose(table["umap_1"], small.umap[:, 0], atol=1e-4)
    assert saved(shared, '[data-save="svg"]')[1].startswith("<svg")
    with tab.expect_download() as download:
        tab.click('[data-save="png"]')
    assert download.value.path().read_bytes()[:4] == b"\x89PNG"


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
    boxes = visit.tab.evaluate(
        "[...document.querySelectorAll('#map-type .annotation-text-g')].map(g => g.getBoundingClientRect().toJSON())"
    )
    assert len(boxes) == 4
    for cell in np.flatnonzero(names != "a very long name indeed"):
        x, y = visit.tab.evaluate(PLACE.replace('div.scrollIntoView({block: "center"});', ""), ["map-type", f"c{cell}"])
        assert not any(b["left"] < x < b["right"] and b["top"] < y < b["bottom"] for b in boxes)
    visit.close()


def test_the_page_to_name_groups_fits_a_phone(browser, tmp_path):
    visit = open_page(browser, tmp_path / "explored.html", explored(overlap=[{"dataset": "x" * 90, "genes": 1}]))
    visit.tab.set_viewport_size({"width": 390, "height": 844})
    visit.tab.wait_for_function("document.getElementById('map-group')._fullLayout.width < 390")
    assert visit.tab.evaluate("document.documentElement.scrollWidth") <= 390
    visit.row(4).scroll_into_view_if_needed()
    map_ = visit.tab.locator("#map-group").bounding_box()
    assert 0 <= map_["y"] < 60 and map_["height"] < 844 / 2  # it stays in sight, and leaves room
    assert "wide" in visit.tab.locator("#overlap .scroll").get_attribute("class")
    visit.close()
