"""Labels from a file of their own, by cell or by group: what the page saved, or any table of two columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from reading.guard import regular
from reading.source import Source
from voice import log

GROUP = "scpretrain_group"  # the column of obs with each cell's group
OF_CELLS = ("cell", "", "index", "cell_id", "cell_name", "barcode", "barcodes", "obs_names")
OF_GROUPS = ("group", GROUP)
OF_TYPES = ("cell_type", "celltype", "type", "label")
NONE = ("", "nan", "na", "unassigned")  # the last is cellxgene's word
GROUPS_LINE = "groups:"  # in a comment: which table tells every cell's group


@dataclass(frozen=True)
class Given:
    """What a file of labels says."""

    path: Path
    by_group: bool
    types: dict[str, str]  # of cells, or of groups; "" takes a label away
    column: str = ""  # what its column of types is called
    groups_file: str = ""  # the table that tells every cell's group, as the file names it
    notes: tuple[str, ...] = ()  # sentences to warn with
    groups: dict[str, str] = field(default_factory=dict)  # of cells, where the file names both

    @property
    def names(self) -> list[str]:
        """Its types, sorted."""
        return sorted(set(self.types.values()) - {""})


# -- reading ----------------------------------------------------------------
def read(path: Path, label_key: str | None = None) -> Given:
    """A table `cell,cell_type` or `group,cell_type`, with commas or tabs; lines that begin with # are comments.

    A cell or group that occurs twice has its later type, which is said. label_key: the column of types, where there
    are several. Raises ValueError, or FileNotFoundError, naming the file and what to do.
    """
    path = Path(path)
    (head, *rows), comments = rows_of(path)
    key, by_group = key_column(path, [name.strip().lower() for name in head])
    column = type_column(path, head, key, label_key)
    grouped = next((i for i, name in enumerate(head) if i != key and name.strip().lower() in OF_GROUPS), None)
    types, groups, changed = {}, {}, []
    for row in rows:
        if len(row) != len(head):
            raise ValueError(
                f"{path}: the row of {some(row[:1])!r} has {len(row)} values and the first row {len(head)}; a name "
                'that holds a comma must stand in quotes: "T cell, naive"'
            )
        name, found = row[key].strip(), row[column].strip()
        found = "" if found.lower() in NONE else found
        if types.get(name, found) != found:
            changed.append(name)
        types[name] = found
        if grouped is not None and found:
            groups[name] = row[grouped].strip()
    if not any(types.values()):
        raise ValueError(f"{path}: none of its {len(rows):,} rows has a type; name some, then use it again")
    changed = list(dict.fromkeys(changed))
    one = several(len(changed), "group" if by_group else "cell")
    notes = (f"{path}: {one} named twice ({some(changed)}); the later line counts",) if changed else ()
    groups_file = next((line[len(GROUPS_LINE) :].strip() for line in comments if line.startswith(GROUPS_LINE)), "")
    return Given(path, by_group, types, head[column].strip(), groups_file, notes, groups)


def rows_of(path: Path, of: str = "labels") -> tuple[list[list[str]], list[str]]:
    """The rows of a table of text, the first of them the head, and its comments; of: what it is a table of.

    Raises FileNotFoundError, or ValueError for a folder, for what is no text, and for no row.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}, a table of {of}; check the spelling")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a table of {of}, .csv or .tsv")
    regular(path, str(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: it is not plain text; save the table as .csv (UTF-8)") from None
    first = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    tabs = path.suffix == ".tsv" or ("\t" in first and "," not in first)
    csv.field_size_limit(1 << 27)  # a name of a megabyte is odd, but no reason to fail
    text, comments = without_comments(text)
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",") if any(row)]
    if not rows:
        head = "cell,cell_type or group,cell_type" if of == "labels" else "type,gene"
        raise ValueError(f"{path}: it is empty; it needs a first row {head} and rows below")
    return rows, comments


def without_comments(text: str) -> tuple[str, list[str]]:
    """The lines of a table, and its comments: lines that begin with #, but for those in quotes, which are names."""
    kept, comments, inside = [], [], False
    for line in io.StringIO(text, newline=""):
        if line.startswith("#") and not inside:
            comments.append(line.strip("# ,\t\r\n"))
        else:
            kept.append(line)
            inside ^= line.count('"') % 2 == 1
    return "".join(kept), comments


def key_column(path: Path, names: Sequence[str]) -> tuple[int, bool]:
    """Which column names the cells, or the groups; whether it is groups. Cells go before groups."""
    for wanted, by_group in ((OF_CELLS, False), (OF_GROUPS, True)):
        for name in wanted:
            if name in names:
                return names.index(name), by_group
    raise ValueError(
        f"{path}: no column tells which cell or group a row is about; its columns are {some(names)}. The first row "
        "must be cell,cell_type or group,cell_type"
    )


def type_column(path: Path, head: Sequence[str], key: int, label_key: str | None) -> int:
    """Which column holds the types: `label_key`, else a usual name, else the only one that is left."""
    names = [name.strip() for name in head]
    others = [i for i in range(len(names)) if i != key and names[i].lower() not in (*OF_CELLS, *OF_GROUPS)]
    for name in (label_key, *OF_TYPES):
        found = [i for i in others if name is not None and names[i].lower() == name.lower()]
        if found:
            return found[0]
    if len(others) == 1:
        return others[0]
    what = f"several columns beside ({some([names[i] for i in others])})" if others else "no column beside"
    raise ValueError(
        f"{path}: there is {what} {names[key] or 'the index'!r}, and none is called cell_type; call the one with the "
        "types so, or name it with --label_key"
    )


# -- on the cells ----------------------------------------------------------------
def keys_of(given: Given, cells: Source, places: Sequence[Path] = ()) -> list[str]:  # (N,)
    """What the file calls every cell by: its group, or its name. places: where the table of groups may lie."""
    return groups_of(given, cells, places) if given.by_group else [str(name) for name in cells.rows.cells]


def labels_of(
    given: Given, cells: Source, places: Sequence[Path] = (), keys: Sequence[str] | None = None
) -> np.ndarray:  # (N,) object
    """The label of every cell, "" where the file has none, None where it says nothing.

    places, keys: as in, and of, `keys_of`. Raises ValueError where nothing of the file is in the query.
    """
    keys = keys_of(given, cells, places) if keys is None else keys
    known = set(keys) - {""}
    lost = [name for name in given.types if name not in known]
    if given.by_group and lost:
        numbers = sorted(known, key=lambda name: (len(name), name))
        raise ValueError(
            f"{given.path}: there is no group {some(lost)} among the query's cells; its groups are {some(numbers, 30)}"
        )
    if len(lost) == len(given.types):
        raise ValueError(
            f"{given.path}: none of its {len(lost):,} cells ({some(lost)}) is in {cells.where}, whose cells are called "
            f"{some([str(name) for name in cells.rows.cells])}; use the names of the query's cells"
        )
    cells.warnings += given.notes
    if lost:
        cells.warnings.append(
            f"{given.path}: of its {len(given.types):,} cells {len(lost):,} {'is' if len(lost) == 1 else 'are'} not in "
            f"{cells.name} ({some(lost)}) and left aside"
        )
    return np.array([given.types.get(key) for key in keys], dtype=object)


def groups_of(given: Given, cells: Source, places: Sequence[Path]) -> list[str]:  # (N,)
    """The group of every cell: of the query's own column, else of the table that the file names or lies beside."""
    if GROUP in cells.rows.columns:
        return [str(name).removesuffix(".0") for name in cells.rows.column(GROUP)]
    stem = given.path.name.removesuffix(".csv").removesuffix(".labels")
    wanted = list(dict.fromkeys(name for name in (given.groups_file, f"{stem}.csv") if name))
    folders = dict.fromkeys([given.path.parent, *places])
    for path in (folder / Path(name).name for name in wanted for folder in folders):
        if path.exists() and path.absolute() != given.path.absolute():
            return from_table(path, cells)
    raise ValueError(
        f"{given.path}: it names groups, but no table tells which cells they are: {cells.name} has no column {GROUP}, "
        f"and {' or '.join(wanted)} is not found beside it. Put what --explore wrote (.csv) there, or take its .h5ad "
        "as --query"
    )


def from_table(path: Path, cells: Source) -> list[str]:
    """The group of every cell from the table that --explore wrote; "" for a cell that it does not know."""
    (head, *rows), _ = rows_of(path)
    if not {"cell", "group"} <= set(head):
        raise ValueError(f"{path}: it has no columns cell and group; name the .csv that --explore wrote")
    cell, group = head.index("cell"), head.index("group")
    found = {row[cell]: row[group] for row in rows if len(row) == len(head)}
    names = [str(name) for name in cells.rows.cells]
    missing = [name for name in names if name not in found]
    if len(missing) == len(names):
        raise ValueError(f"{path}: none of its cells is in {cells.where}; it was made of other cells")
    if missing:
        cells.warnings.append(
            f"{path}: {several(len(missing), 'cell')} missing there of the {len(names):,} of {cells.name} "
            f"({some(missing)})"
        )
    log.info(f"groups of cells: from {path}")
    return [found.get(name, "") for name in names]


def merged(labels: np.ndarray, column: np.ndarray | None, given: Given, cells: Source) -> np.ndarray:
    """Labels of the file (N,), None where it says nothing, over those of the query's column; says where they differ."""
    said = np.array([label is not None for label in labels])
    if column is None:
        return np.where(said, labels, "")
    differ = int((said & (column != "") & (labels != column)).sum())
    if differ:
        sentence = f"{given.path} and the column of {cells.name} differ in {differ:,} cells; the file counts"
        cells.warnings.append(sentence)
    return np.where(said, labels, column)


def some(names: Sequence[str], most: int = 5) -> str:
    """A few names, the long ones cut."""
    shown = ", ".join(name if len(name) <= 60 else f"{name[:57]}..." for name in names[:most])
    return f"{shown} ..." if len(names) > most else shown


def several(n: int, thing: str) -> str:
    """1 cell is, 2 cells are."""
    return f"{n:,} {thing} is" if n == 1 else f"{n:,} {thing}s are"
