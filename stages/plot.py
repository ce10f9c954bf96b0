"""Draw on an axis and return it: paired scatter plots, cells in two dimensions, a legend of types; nothing is saved."""

import textwrap
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

STYLE = {  # for `matplotlib.rc_context`: letters stay letters in pdf and svg
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
}
ABOVE, BELOW = "#0072B2", "#D55E00"  # blue and vermilion of Okabe and Ito (2008), apart for every eye
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # but for yellow, and black: numbers
GREY = "#666666"
LEGEND_ROWS, LEGEND_COLUMNS, LEGEND_LETTERS = 20, 3, 40  # lines of a column before there is another, at most; of a line

# How linear RGB looks without red or green cones (Machado, Oliveira and Fernandes 2009, severity 1).
PROTANOPE = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
DEUTERANOPE = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
# Linear RGB to the OKLab space, in which distances are as large as they look (Ottosson 2020).
TO_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
TO_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


# -- colours ----------------------------------------------------------------
def seen(colours: np.ndarray) -> np.ndarray:
    """sRGB colours (C, 3) in 0..1 as OKLab (3, C, 3): as most people see them, without red, without green cones."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    eyes = [linear, *(np.clip(linear @ np.array(matrix).T, 0, 1) for matrix in (PROTANOPE, DEUTERANOPE))]
    return np.stack([np.cbrt(eye @ np.array(TO_CONES).T) @ np.array(TO_LAB).T for eye in eyes])


@lru_cache
def palette(count: int) -> tuple[str, ...]:
    """`count` colours, told apart on white by colour-blind eyes too as far as so many can be.

    The first six are those of Okabe and Ito; each further one is the colour farthest from all before it, for the
    eye that sees it nearest.
    """
    chosen = [[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in OKABE_ITO]
    steps = np.linspace(0, 1, 14)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    lightness = seen(grid)[0, :, 0]
    grid = grid[(lightness > 0.32) & (lightness < 0.9)]  # nearly black ones look alike in small points
    looks = seen(grid)
    distance = np.full(len(grid), np.inf)
    for place in range(count):
        if place >= len(chosen):
            chosen.append(list(grid[distance.argmax()]))
        look = seen(np.array([chosen[place]]))
        distance = np.minimum(distance, np.linalg.norm(looks - look, axis=-1).min(axis=0))
    return tuple(to_hex(colour) for colour in chosen[:count])


# -- cells ----------------------------------------------------------------
def point_area(cells: int) -> float:
    """Area of a point in square points: large where cells are few, a dot for 100,000."""
    return float(np.clip(12_000 / max(1, cells), 0.6, 24))


def embedding(
    axis: Axes, points: np.ndarray, labels: np.ndarray, types: int, *, title: str = "", seed: int = 0
) -> Axes:
    """Cells at `points` (N, 2), coloured by their type; each type's number stands on its cells.

    Points are pixels in a pdf too, so a file stays small, and come in random order, so no type hides another.
    """
    order = np.random.default_rng(seed).permutation(len(points))
    colours = np.array(palette(types))
    area = point_area(len(points))
    axis.scatter(*points[order].T, s=area, c=colours[labels[order]], linewidths=0, alpha=0.8, rasterized=True)
    present, extent = np.unique(labels), np.ptp(points, axis=0)
    places = spread_out(np.array([densest(points[labels == kind], extent) for kind in present]), extent)
    for kind, place in zip(present, places, strict=True):
        axis.text(
            *place,
            str(kind + 1),
            fontsize=8 if types <= 20 else 7,
            fontweight="bold",
            ha="center",
            va="center",
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )
    axis.set(title=title, xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    axis.set_box_aspect(1)
    return axis


def densest(points: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """The middle of where most of `points` (N, 2) are, in squares of a twelfth of the picture's `extent` (2,).

    The median of a type whose cells are in two places lies between them, where there may be none.
    """
    square = np.floor(points / np.where(extent > 0, extent, 1.0) * 12)  # (N, 2)
    _, of_point, counts = np.unique(square, axis=0, return_inverse=True, return_counts=True)
    return np.median(points[of_point == counts.argmax()], axis=0)


def spread_out(places: np.ndarray, extent: np.ndarray, *, apart: float = 0.05, rounds: int = 200) -> np.ndarray:
    """Places (L, 2) of labels pushed asunder until any two are `apart`, a share of the picture's `extent` (2,)."""
    extent = np.where(extent > 0, extent, 1.0)
    places = places / extent
    for _ in range(rounds):
        offset = places[:, None] - places[None]  # (L, L, 2)
        distance = np.linalg.norm(offset, axis=-1)
        near = (distance < apart) & ~np.eye(len(places), dtype=bool)
        if not near.any():
            break
        angle = np.arange(len(places)) * 2.4  # two labels on one spot go different ways
        way = np.where((distance > 1e-9)[..., None], offset, np.stack([np.cos(angle), np.sin(angle)], axis=-1)[:, None])
        way /= np.maximum(np.linalg.norm(way, axis=-1, keepdims=True), 1e-9)
        places = places + (way * (near * (apart - distance) / 2)[..., None]).sum(axis=1) * 0.6
    return places * extent


def legend_words(classes: Sequence[str], counts: Sequence[int]) -> list[str]:
    """What a legend says of each type: its number, its name as the file spells it, how many cells."""
    return [
        "\n   ".join(textwrap.wrap(f"{number}  {name} ({count:,})", LEGEND_LETTERS))
        for number, (name, count) in enumerate(zip(classes, counts, strict=True), start=1)
    ]


def legend_size(words: Sequence[str]) -> tuple[int, float, float]:
    """Columns of a legend, and its width and height in inches."""
    lines = np.array([text.count("\n") + 1 for text in words])
    columns = int(np.clip(-(-lines.sum() // LEGEND_ROWS), 1, LEGEND_COLUMNS))
    rows = max(part.sum() for part in np.array_split(lines, columns))
    letters = max(len(line) for text in words for line in text.split("\n"))
    return columns, columns * (0.45 + 0.075 * letters), 0.6 + 0.19 * rows


def type_legend(figure: Figure, words: Sequence[str]) -> Legend:
    """One legend right of all axes of a figure that has `legend_size` to spare, with the words of `legend_words`."""
    handles = [
        Line2D([], [], marker="o", linestyle="none", markersize=6, color=colour) for colour in palette(len(words))
    ]
    return figure.legend(
        handles,
        words,
        loc="outside right center",
        frameon=False,
        fontsize=8,
        ncols=legend_size(words)[0],
        handletextpad=0.2,
        columnspacing=1.0,
        title="cell type (cells)",
    )


# -- two arms ----------------------------------------------------------------
def paired_scatter(
    axis: Axes,
    without: np.ndarray,
    with_: np.ndarray,
    *,
    errors: tuple[np.ndarray, np.ndarray] | None = None,
    title: str = "",
    below: str = "",
    arms: tuple[str, str] = ("scPretrain", "Without pretraining"),
    tie: float = 0.0,
) -> Axes:
    """One point a dataset, (D,) against (D,): above the dashed diagonal pre-training helped.

    `errors` are standard deviations over repeats, for x and y. `below` is a line under the title, such as the number
    of points above. A difference below `tie` is grey. The axes are square with the same limits.
    """
    errors = errors if errors is not None else (np.zeros(len(without)), np.zeros(len(with_)))
    colours = np.select([np.abs(with_ - without) < tie, with_ > without], [GREY, ABOVE], BELOW)
    if errors[0].any() or errors[1].any():
        axis.errorbar(
            without, with_, xerr=errors[0], yerr=errors[1], fmt="none", ecolor="#BBBBBB", elinewidth=0.8, zorder=1
        )
    area = float(np.clip(600 / max(1, len(with_)), 14, 40))
    axis.scatter(
        without,
        with_,
        s=area,
        c=colours,
        edgecolors="white",
        linewidths=0.5,
        zorder=2,
        clip_on=False,
    )
    low = float(min((without - errors[0]).min(), (with_ - errors[1]).min()))
    high = float(max((without + errors[0]).max(), (with_ + errors[1]).max()))
    room = max(0.05 * (high - low), 0.01)
    limits = (low - room, high + room)
    axis.plot(limits, limits, linestyle="--", color=GREY, linewidth=0.9, zorder=0)
    axis.set(xlim=limits, ylim=limits, xlabel=arms[1], ylabel=arms[0])
    axis.set_aspect("equal", adjustable="box")
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axis.set_yticks(axis.get_xticks())
    axis.set(xlim=limits, ylim=limits)
    axis.set_title(title, fontweight="bold", pad=18 if below else 6)
    if below:
        axis.text(0.5, 1.02, below, transform=axis.transAxes, ha="center", va="bottom", fontsize=7.5, color=GREY)
    return axis
