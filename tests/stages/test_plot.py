"""Drawing, read back from the axes: run with `python -m pytest tests/stages/test_plot.py`."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from stages import plot


def axis():
    return Figure(figsize=(3, 3)).add_subplot()


def test_thirty_colours_differ_for_every_kind_of_eye():
    colours = plot.palette(30)
    assert len(set(colours)) == 30
    assert [colour.upper() for colour in colours[:6]] == list(plot.OKABE_ITO)
    rgb = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in colours])
    for look in plot.seen(rgb):
        distance = np.linalg.norm(look[:, None] - look[None], axis=-1)
        assert distance[~np.eye(30, dtype=bool)].min() > 0.05


def test_a_longer_palette_begins_with_the_shorter():
    assert plot.palette(40)[:12] == plot.palette(12)


def test_points_shrink_as_cells_grow():
    areas = [plot.point_area(cells) for cells in (0, 50, 1000, 10_000, 100_000)]
    assert areas == sorted(areas, reverse=True) and areas[-1] > 0


def test_every_cell_is_drawn_once_in_the_colour_of_its_type():
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(60, 2)), np.repeat([0, 1, 2], 20)
    drawn = plot.embedding(axis(), points, labels, 4, title="cells")
    [cells] = drawn.collections
    offsets, colours = cells.get_offsets(), cells.get_facecolors()
    assert cells.get_rasterized() and len(offsets) == 60
    for point, kind in zip(points, labels, strict=True):
        place = np.abs(offsets - point).sum(axis=1).argmin()
        assert np.allclose(offsets[place], point)
        assert to_hex(colours[place]) == plot.palette(4)[kind]
    assert [text.get_text() for text in drawn.texts] == ["1", "2", "3"]  # the fourth type has no cell here


def test_a_number_stands_where_most_cells_of_its_type_are():
    points = np.concatenate([np.zeros((20, 2)), np.full((15, 2), 10.0)])
    assert (plot.densest(points, np.ptp(points, axis=0)) == 0).all()
    assert (plot.densest(points[:1], np.zeros(2)) == points[0]).all()


def test_labels_on_one_spot_are_pushed_asunder_and_lonely_ones_stay():
    places = np.array([[0.0, 0.0], [0.0, 0.0], [0.01, 0.0], [10.0, 10.0]])
    moved = plot.spread_out(places, np.array([10.0, 10.0]))
    distance = np.linalg.norm((moved[:, None] - moved[None]) / 10, axis=-1)[np.triu_indices(4, 1)]
    assert distance.min() > 0.045
    assert (moved[3] == places[3]).all()


@pytest.mark.parametrize("types", [2, 30, 81])
def test_one_legend_names_every_type_within_the_page(types):
    names = [f"a rather long name of a cell type, positive, number {kind}" for kind in range(types)]
    words = plot.legend_words(names, [1000] * types)
    _, width, height = plot.legend_size(words)
    figure = Figure(figsize=(4.4 + width, max(4.6, height)), layout="constrained")
    square = figure.add_subplot()
    legend = plot.type_legend(figure, words)
    figure.draw_without_rendering()
    inside, page = legend.get_window_extent(), figure.bbox
    assert inside.x0 >= 0 and inside.y0 >= 0 and inside.x1 <= page.x1 and inside.y1 <= page.y1
    assert square.get_window_extent().width > 3 * figure.dpi  # what is left for the cells
    shown = [" ".join(text.get_text().split()) for text in legend.get_texts()]
    assert shown == [f"{kind + 1} {name} (1,000)" for kind, name in enumerate(names)]


def test_the_scatter_shows_the_numbers_it_was_given():
    without, with_ = np.array([0.5, 0.9, 0.7]), np.array([0.8, 0.6, 0.7])
    drawn = plot.paired_scatter(axis(), without, with_, title="macro F1", below="1 of 3 above", tie=1e-3)
    [points] = drawn.collections
    assert np.allclose(points.get_offsets(), np.stack([without, with_], axis=1))
    assert [to_hex(colour).upper() for colour in points.get_facecolors()] == [plot.ABOVE, plot.BELOW, plot.GREY]
    assert drawn.get_xlim() == drawn.get_ylim() and drawn.get_aspect() == 1
    [diagonal] = drawn.lines
    assert (diagonal.get_xdata() == np.array(diagonal.get_ydata())).all() and diagonal.get_linestyle() == "--"
    assert (drawn.get_xlabel(), drawn.get_ylabel()) == ("Without pretraining", "scPretrain")
    assert [text.get_text() for text in drawn.texts] == ["1 of 3 above"]


def test_error_bars_reach_as_far_as_they_are_long_and_stay_inside():
    without, with_, error = np.array([0.5, 0.9]), np.array([0.8, 0.6]), np.array([0.1, 0.2])
    drawn = plot.paired_scatter(axis(), without, with_, errors=(error, error / 2))
    horizontal, vertical = (lines.get_segments() for lines in drawn.collections[:2])
    assert np.allclose([segment[:, 0] for segment in horizontal], [[0.4, 0.6], [0.7, 1.1]])
    assert np.allclose([segment[:, 1] for segment in vertical], [[0.75, 0.85], [0.5, 0.7]])
    assert drawn.get_xlim()[0] < 0.4 and drawn.get_xlim()[1] > 1.1


def test_equal_results_still_have_room_to_be_drawn():
    drawn = plot.paired_scatter(axis(), np.array([1.0]), np.array([1.0]))
    assert drawn.get_xlim()[1] > drawn.get_xlim()[0]
