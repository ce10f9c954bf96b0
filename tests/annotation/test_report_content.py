"""The report as a file: self-contained, escaped, complete, whole or not at all.

Run: python -m pytest tests/annotation/test_report_content.py
"""

import re

import numpy as np
import pytest
from pages import EVIL, Page, annotation, explored, unpack
from scipy.sparse import csr_matrix

from annotation.report import Annotation, render, write_report
from annotation.report.annotation import UNKNOWN_COLOUR


@pytest.fixture(scope="module")
def page():
    return Page(render(annotation()))


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
    assert "unsafe-eval" not in policy


def test_names_are_shown_and_never_run(page):
    # exactly the data and our own script: no name opened a third; every tag was closed
    assert len(page.scripts) == 2 and page.open == []
    shown = " ".join(EVIL.split())
    title, warning, command = f"{shown} annotated", f"beware of {shown}", f"--query '{shown}'"
    assert page.text.count(title) == 2 and warning in page.text and command in page.text
    assert not set(page.scripts[0]) & set("<>&")
    assert EVIL in page.data["names"] and f"cell 0 {EVIL}" in page.data["cells"]


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


def test_unknown_comes_last_and_is_grey():
    given = annotation(n=60, cell_type=np.array(["Unknown"] * 50 + ["alpha"] * 10, dtype=object))
    data = Page(render(given)).data
    assert data["names"][:2] == ["alpha", "Unknown"] and data["colours"][1] == UNKNOWN_COLOUR
    assert data["unknown"] == 1 and np.bincount(unpack(data["type"], "<u2")).tolist() == [10, 50]


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
    assert len(page.scripts) == 2 and page.open == []
    plain = {a.get("id") for _, a in Page(render(explored(groups=None, group=None))).tags}
    assert "map-type" in plain and not {"map-group", "map-confidence"} & plain
    without = {a.get("id") for _, a in Page(render(explored(umap=None))).tags}
    assert {"save", "gene"} <= without and "map-group" not in without
