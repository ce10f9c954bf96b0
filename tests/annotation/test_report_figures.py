"""Colours, heat map and dot plot of the report.

Run: python -m pytest tests/annotation/test_report_figures.py
"""

import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from pages import EVIL, Page, annotation

from annotation.report import figures, render
from annotation.report.annotation import COLOURS
from annotation.report.figures import MOST_LABELS
from annotation.report.page import SCALE
from stages.plot import seen


def drawn(svg):
    """Marks of a picture with what they say, and its words."""
    root = ElementTree.fromstring(svg)
    marks = [one for one in root.iter() if "data-tip" in one.attrib]
    return marks, [one.text or "" for one in root.iter() if one.tag.endswith("text")]


def test_a_hundred_types_are_told_apart_by_colour_and_shape():
    types = [f"type {k}" for k in range(100)]
    page = Page(render(annotation(n=400, types=types)))
    assert len(set(page.data["colours"])) == 20 == len(set(COLOURS))
    assert len(set(zip(page.data["colours"], page.data["shapes"], strict=True))) == 100
    shapes = [a["class"] for tag, a in page.tags if tag == "i" and a.get("class")]
    assert shapes[:100] == page.data["shapes"]


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
    text = render(annotation(confusion=confusion, confusion_note="Known labels were kept."))
    marks, words = drawn(re.search(r'<svg id="confusion".*?</svg>', text, re.S)[0])
    assert [mark.get("data-tip") for mark in marks] == [
        "b → b: 30 cells, 30.0 % of the label",
        "b → a: 10 cells, 10.0 % of the label",
        "b → new: 60 cells, 60.0 % of the label",
        "a → b: 1 cells, 25.0 % of the label",
        "a → a: 3 cells, 75.0 % of the label",
    ]
    places = [(float(mark.get("y")), float(mark.get("x"))) for mark in marks]
    assert places == sorted(places) and len({y for y, _ in places}) == 2 and len({x for _, x in places}) == 3
    assert [word for word in words if word in ("a", "b", "new")] == ["b", "a", "b", "a", "new"]
    page = Page(text)
    assert "33 of 104 cells" in page.text and "Known labels were kept." in page.text


def test_a_heat_map_of_very_many_labels_shows_the_most_frequent_and_says_so():
    given = annotation(n=2_000, known=np.array([f"label {k % 500}" for k in range(2_000)], dtype=object))
    text = render(given)
    _, words = drawn(re.search(r'<svg id="confusion".*?</svg>', text, re.S)[0])
    assert sum(word.startswith("label ") for word in words) == MOST_LABELS
    assert f"shows the {MOST_LABELS} most frequent names" in text


def test_a_dot_is_as_large_and_dark_as_the_gene_is_common_and_strong():
    marks, words = drawn(figures.dots(annotation().dots, f"dots of {EVIL}"))
    dots = {mark.get("data-tip"): mark for mark in marks}
    strong = dots["GCG in alpha: mean 5.25, found in 99.0 %"]
    weak = dots[f"{EVIL} in alpha: mean 0.25, found in 20.0 %"]
    assert len(dots) == 4 and strong.get("fill") == figures.DOTS[-1]
    assert float(strong.get("r")) > 2 * float(weak.get("r")) - 1 and {"alpha", "GCG"} <= set(words)


def test_the_diagonal_of_forty_labels_is_one_line_and_long_names_carry_their_number():
    names = [f"a type whose name is longer than the picture has room {k}" for k in range(40)]
    table = pd.DataFrame(np.eye(40, dtype=int) * 9, index=names, columns=names)
    svg = figures.confusion(table, dict.fromkeys(names, 9), "Unknown", "label")
    marks, words = drawn(svg)
    assert len(marks) == 40 and len({mark.get("fill") for mark in marks}) == 1
    steps = {float(a.get("x")) - float(b.get("x")) for a, b in zip(marks[1:], marks, strict=False)}
    assert len(steps) == 1 and "40 a type whose name is longer…" in words


def test_a_scale_is_exact_at_its_stops_and_even_between():
    assert figures.shade(["#000000", "#ffffff"], 0.5) in ("#808080", "#7f7f7f")
    assert [figures.shade(figures.HEAT, at) for at in (-1, 0, 1, 2)] == [*figures.HEAT[:1] * 2, *figures.HEAT[-1:] * 2]
    assert figures.shade(figures.HEAT, float("nan")) == figures.HEAT[0]
