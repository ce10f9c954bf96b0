"""What the page is handed, checked and filled in; and the colours of its types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

# Chosen one by one, each as far as possible (OKLab distance) from all before it and from the grey of Unknown,
# the nearest of normal, deuteranope and protanope sight counting; the first six are Okabe and Ito's (2008).
# Beyond 40 types the colours repeat: the numbers on the map and the legend still tell them apart.
COLOURS = (
    "#0072b2 #e69f00 #009e73 #d55e00 #cc79a7 #56b4e9 #69001e #0f00a5 #4b00ff #874b4b "
    "#8778ff #003c5a #00d287 #c31e96 #c30000 #0f3cc3 #f05a69 #006978 #96000f #c33cd2 "
    "#ff78d2 #3c3c87 #00d2ff #4b5aff #c369d2 #693c3c #ffa569 #0f962d #7896ff #3c4b69 "
    "#690f4b #87694b #87b4a5 #3c1e78 #ff96c3 #3c5ab4 #d2965a #0000e1 #5a2da5 #8778b4"
).split()
UNKNOWN_COLOUR = "#d3d3d3"


@dataclass
class Annotation:
    """What the page says about n drawn cells, out of possibly many more that were annotated.

    title           heading of the page
    cells           (n,) names of the drawn cells
    cell_type       (n,) the call of each, `unknown` where none was made
    confidence      (n,) 0..1, NaN where there is none
    umap            (n, 2) finite coordinates, or None: no map
    second_choice   (n,) the runner-up, "" for none; or None
    known           (n,) labels the cells came with, "" for none; or None
    counts          {type: cells} over all cells; None: the drawn cells are all there are
    confusion       cells, existing label (index) x predicted type (columns), over all cells; or None: from `known`
    confusion_note  a sentence under it, e.g. that known labels were kept
    markers         what `marker_genes` returns
    dots            what `marker_dots` returns
    overlap         gene overlap, a row per dataset, columns as they are to be headed ("share" is a fraction)
    clusters        consensus: cluster, n, majority, share, entropy, mixed (bool)
    ece             expected calibration error, a fraction
    reliability     calibration bins: confidence, accuracy, n
    warnings        sentences, shown at the top
    notes           sentences, shown under the map, e.g. how cells were sampled
    settings, versions, command   how the page came about
    unknown         the name that stands for "no known type"
    called          False: cells have no types, the page is about their embedding
    group           (n,) int, the group of each drawn cell; or None: no groups were made
    groups          a row a group: group, n (of all cells), genes (list of dicts gene, inside, outside: the shares of
                    cells that express it), suggested (list of names of cells, to be looked at first), proposed
                    (a type, or ""), score (of the proposal, NaN for none), mixed (bool: may want to be split)
    genes           (names of K genes, csr (n, K) float32): log1p values of the drawn cells in the most telling genes
    names           names of types used before, to choose from
    next_command    what to type once the groups have names; {labels} stands for the saved file
    save_as         the file name for the labels, e.g. explored.labels.csv
    groups_file     the .csv beside the page in which column `group` tells every cell's group, e.g. explored.csv
    """

    title: str
    cells: Sequence[str]
    cell_type: Sequence[str] | np.ndarray
    confidence: np.ndarray
    umap: np.ndarray | None = None
    second_choice: Sequence[str] | np.ndarray | None = None
    known: Sequence[str] | np.ndarray | None = None
    counts: Mapping[str, int] | None = None
    confusion: pd.DataFrame | None = None
    confusion_note: str = ""
    markers: pd.DataFrame | None = None
    dots: pd.DataFrame | None = None
    overlap: pd.DataFrame | Sequence[Mapping] | None = None
    clusters: pd.DataFrame | None = None
    ece: float | None = None
    reliability: pd.DataFrame | None = None
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    unknown: str = "Unknown"
    called: bool = True
    group: np.ndarray | None = None
    groups: pd.DataFrame | None = None
    genes: tuple[Sequence[str], csr_matrix] | None = None
    names: Sequence[str] = ()
    next_command: str = ""
    save_as: str = ""
    groups_file: str = ""

    @property
    def total(self) -> int:
        """Cells annotated, drawn or not, once the counts are filled in."""
        return sum(self.counts.values())

    def colour(self, k: int, name: str) -> str:
        """Of type k, the k-th most frequent."""
        return UNKNOWN_COLOUR if name == self.unknown else COLOURS[k % len(COLOURS)]


def checked(a: Annotation) -> Annotation:
    """The same with columns as arrays, counts and confusion filled in, tables in the order of the types, None if empty.

    Raises ValueError where the arrays do not fit each other.
    """
    n = len(a.cells)
    if n == 0:
        raise ValueError(f"{a.title}: a report needs at least one cell")
    for name in ("cell_type", "confidence", "second_choice", "known"):
        values = getattr(a, name)
        if values is not None and len(values) != n:
            raise ValueError(f"{a.title}: {len(values):,} values of {name} for {n:,} cells")
    umap = None
    if a.umap is not None:
        umap = np.asarray(a.umap, dtype=np.float32)  # (n, 2)
        if umap.shape != (n, 2):
            raise ValueError(f"{a.title}: UMAP coordinates are of shape {umap.shape}, not ({n}, 2)")
        if not np.isfinite(umap).all():
            raise ValueError(f"{a.title}: {int((~np.isfinite(umap)).sum()):,} UMAP coordinates are not numbers")
    types = _names(a.cell_type)
    known = None if a.known is None else _names(a.known)
    counts = _counts(a, types)
    confusion = a.confusion
    if confusion is None and known is not None:
        labelled = known != ""
        confusion = pd.crosstab(pd.Series(known[labelled], dtype=object), pd.Series(types[labelled], dtype=object))
    return replace(
        a,
        cells=[str(cell) for cell in a.cells],
        cell_type=types,
        confidence=np.asarray(a.confidence, dtype=np.float32),
        umap=umap,
        second_choice=None if a.second_choice is None else _names(a.second_choice),
        known=known,
        counts=counts,
        confusion=None if confusion is None or confusion.size == 0 else confusion,
        markers=_in_order(_filled(a.markers), counts),
        dots=_in_order(_filled(a.dots), counts),
        overlap=_filled(a.overlap),
        clusters=_filled(a.clusters),
        reliability=_filled(a.reliability),
    )


def _names(values) -> np.ndarray:
    """(n,) object array of str; missing values become ""."""
    values = np.asarray(values, dtype=object)
    return np.array(["" if v is None or v != v else str(v) for v in values], dtype=object)


def _counts(a: Annotation, types: np.ndarray) -> dict[str, int]:
    """{type: cells} over all cells, most first, Unknown last."""
    drawn = pd.Series(types, dtype=object).value_counts()
    counts = {str(k): int(v) for k, v in (drawn if a.counts is None else a.counts).items()}
    for name in drawn.index:  # a caller's table that forgets a type must not make its cells vanish
        counts.setdefault(name, int(drawn[name]))
    return dict(sorted(counts.items(), key=lambda item: (item[0] == a.unknown, -item[1], item[0])))


def _filled(table) -> pd.DataFrame | None:
    return pd.DataFrame(table) if table is not None and len(table) else None


def _in_order(table: pd.DataFrame | None, counts: Mapping[str, int]) -> pd.DataFrame | None:
    """Rows by type as everywhere on the page; the order within a type stays."""
    if table is None:
        return None
    place = {name: k for k, name in enumerate(counts)}
    return table.iloc[np.argsort([place.get(name, len(place)) for name in table["type"]], kind="stable")]
