"""What the page is handed, checked and filled in; and the colours of its types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

# Chosen by hand so that each has a hue of its own, none is near white, black or the grey of Unknown, and the first,
# Okabe and Ito's (2008), are told apart by colour-blind eyes. Beyond 20 the colours repeat in another shape.
COLOURS = (
    "#0072b2 #e69f00 #009e73 #d55e00 #cc79a7 #56b4e9 #a5102f #6a3db8 #9bd32e #5e3a16 "
    "#00b8b8 #e5399e #1f5c34 #b5a100 #9d9bf0 #f08a78 #2c3e9e #7fd6a4 #7d1f4f #4f6d7a"
).split()
SHAPES = "circle diamond triangle-up square triangle-down".split()
UNKNOWN_COLOUR = "#d3d3d3"
NUMBERS = ("mean_in", "mean_out", "detected_in", "detected_out", "log2_fold_change", "score")  # of a marker gene


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

    def shape(self, k: int, name: str) -> str:
        return SHAPES[0] if name == self.unknown else SHAPES[k // len(COLOURS) % len(SHAPES)]


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
        **_checked_groups(a, n),
    )


def _checked_groups(a: Annotation, n: int) -> dict[str, Any]:
    """The fields of the groups and the genes, of one size with the cells."""
    groups = _filled(a.groups)
    if groups is not None and a.group is None:
        raise ValueError(f"{a.title}: a table of groups without the group of each cell")
    if a.group is not None and len(a.group) != n:
        raise ValueError(f"{a.title}: {len(a.group):,} values of group for {n:,} cells")
    if a.genes is not None and a.genes[1].shape != (n, len(a.genes[0])):
        shape = a.genes[1].shape
        raise ValueError(f"{a.title}: genes of shape {shape} for {n:,} cells and {len(a.genes[0]):,} names")
    return {
        "group": None if groups is None else np.asarray(a.group),
        "groups": groups,
        "names": list(dict.fromkeys(str(name) for name in a.names if str(name))),
        "genes": None if a.genes is None or not len(a.genes[0]) else a.genes,
    }


def _names(values) -> np.ndarray:
    """(n,) object array of str; missing values become ""."""
    values = np.asarray(values, dtype=object)
    return np.array(["" if v is None or v != v else str(v) for v in values], dtype=object)


def _counts(a: Annotation, types: np.ndarray) -> dict[str, int]:
    """{type: cells} over all cells, most first, Unknown last."""
    drawn = pd.Series(types, dtype=object).value_counts()
    if a.counts is None and not a.called and a.groups is not None and len(drawn) == 1:
        return {str(drawn.index[0]): int(a.groups["n"].sum())}
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
