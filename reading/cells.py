"""Open a file of cells, whatever its format, as sparse counts with genes and labels; whole or by rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, vstack

from reading.hdf5 import OPENERS, Layout, beside_ids, h5ad_nodes, kind_of_hdf5, named, numbered, opened
from reading.matrix import AS_CSR, REWRITE, Unreadable, canonical, refuse_negative, sparse, stack
from reading.names import as_labels, as_text, ensembl_ids, gene_symbols, kind_of_names, species_from_case
from reading.text import has_mtx, parse_mtx, parse_table

__all__ = [
    "ensembl_ids",
    "Cells",
    "RowBlocks",
    "Unreadable",
    "beside_ids",
    "gene_symbols",
    "kind_of_names",
    "open_rows",
    "read",
    "species_from_case",
]

LABEL_KEYS = (
    "cell_ontology_class",
    "cell_type",
)  # the published catalogue's column, then the usual one elsewhere
ROWS_PER_BLOCK = 4096  # 32 MB at 1,000 genes seen in a cell: larger blocks are no faster
WHOLE_BYTES = 3 << 30  # a matrix stored by genes is turned over in memory up to this size
TABLES = (".csv", ".tsv", ".txt", ".tab")


@dataclass
class Cells:
    """One dataset as its file holds it.

    counts (N, G) csr float32, canonical, nothing below 0. genes (G): as the file spells them, duplicates
    kept; where it indexes by ids and lists symbols too, the symbols. cells (N): cell names. labels (N,)
    object array of str, "" for a cell without one; None where the file has no such column. columns: every
    column of its cell table, for a message that lists them. note: where values and genes came from.
    table: the columns themselves, where the file is text. ids (G): Ensembl ids of the genes, where they are known.
    doubled: whether gene names that occur twice are usual in such a file.
    """

    name: str
    path: Path
    counts: csr_matrix
    genes: list[str]
    cells: list[str]
    labels: np.ndarray | None = None
    columns: list[str] = field(default_factory=list)
    note: str = ""
    table: dict[str, Sequence] = field(default_factory=dict, repr=False)
    ids: list[str] = field(default_factory=list, repr=False)
    doubled: bool = False


def read(path, *, name=None, label_key=None, layer=None, use_raw=False) -> Cells:
    """The cells in a file or folder of any format that format_of knows.

    label_key: column of cell types; by default the first of LABEL_KEYS that exists. layer, use_raw: which
    matrix of an .h5ad (X by default). Raises FileNotFoundError, or ValueError with dataset, file and remedy.
    """
    path = Path(path)
    kind = format_of(path)
    if kind == "h5ad":
        return read_h5ad(path, name=name, label_key=label_key, layer=layer, use_raw=use_raw)
    if layer is not None or use_raw:
        raise Unreadable(
            f"{name or name_of(path)} ({path}): only .h5ad files have layers and .raw; leave the option out"
        )
    readers = {
        "cellblast": read_cellblast,
        "10x": read_10x_h5,
        "loom": read_loom,
        "numpy": read_numpy,
        "mtx": read_10x_mtx,
        "table": read_table,
    }
    return readers[kind](path, name=name, label_key=label_key)


def read_cellblast(path, *, name=None, label_key=None) -> Cells:
    """A Cell BLAST .h5: exprs (CSR group or 2-D dataset), var_names, obs_names, obs/COLUMN."""
    return _read_hdf5("cellblast", path, name, label_key)


def read_h5ad(path, *, name=None, label_key=None, layer=None, use_raw=False) -> Cells:
    """An .h5ad of any anndata version: X, layers[layer] or .raw, by cells, by genes or dense."""
    return _read_hdf5("h5ad", path, name, label_key, layer=layer, use_raw=use_raw)


def read_10x_h5(path, *, name=None, label_key=None) -> Cells:
    """A 10x .h5 (Cell Ranger 2 and later); only its genes, not antibodies or guides. It has no labels."""
    return _read_hdf5("10x", path, name, label_key)


def read_loom(path, *, name=None, label_key=None) -> Cells:
    """A .loom file: matrix (genes x cells), row_attrs, col_attrs."""
    return _read_hdf5("loom", path, name, label_key)


def _read_hdf5(kind: str, path, name, label_key, **which) -> Cells:
    path = Path(path)
    name = name or name_of(path)
    with opened(path, name) as (file, where), named(where):
        layout = OPENERS[kind](file, where, **which)
        labels = labels_of(layout.columns, layout.column, label_key)
        cells = Cells(name, path, layout.whole(), layout.genes, layout.cells, labels, layout.columns, layout.note)
        cells.ids, cells.doubled = layout.ids, layout.doubled
    return checked(cells, layout.remedy)


def read_10x_mtx(path, *, name=None, label_key=None) -> Cells:
    """A folder (or the matrix.mtx in it) as 10x writes it, compressed or not. It has no labels."""
    path = Path(path)
    name = name or name_of(path)
    folder = path if path.is_dir() else path.parent
    counts, genes, ids, cells, note = parse_mtx(folder, f"{name} ({path})")
    return checked(Cells(name, path, counts, genes, cells, note=note, ids=ids, doubled=True))


def read_table(path, *, name=None, label_key=None) -> Cells:
    """A .csv or .tsv (.gz), cells x genes or genes x cells; the note says how it was taken."""
    path = Path(path)
    name = name or name_of(path)
    where = f"{name} ({path})"
    with named(where):
        counts, genes, cells, table, note, doubled = parse_table(path, where)
    labels = labels_of(list(table), table.get, label_key)
    return checked(Cells(name, path, counts, genes, cells, labels, list(table), note, table, doubled=doubled))


def read_numpy(path, *, name=None, label_key=None) -> Cells:
    """A folder with feature.npy (N, G), gene_list.npy (G,) and, where there are labels, label.npy (N,)."""
    folder = Path(path)
    name = name or name_of(folder)
    where = f"{name} ({folder})"
    values = load_npy(folder / "feature.npy", where, mmap=True)
    if values.ndim != 2 or values.dtype.kind not in "iufb":
        raise Unreadable(
            f"{where}: feature.npy holds {values.dtype} of shape {values.shape}, not a table of numbers, "
            "cells x genes; "
            "save it with numpy.save('feature.npy', counts), counts being a plain 2-D array"
        )
    genes = as_text(load_npy(folder / "gene_list.npy", where).ravel()).tolist()
    step = max(1, (32 << 20) // (8 * max(1, values.shape[1])))
    blocks = (canonical(sparse(values[a : a + step]), where, "feature.npy") for a in range(0, values.shape[0], step))
    counts = stack(blocks, values.shape[1])
    labels = as_labels(load_npy(folder / "label.npy", where).ravel()) if (folder / "label.npy").exists() else None
    table = {} if labels is None else {"label.npy": labels}
    cells = numbered(len(values))
    return checked(Cells(name, folder, counts, genes, cells, labels, list(table), "feature.npy", table))


def load_npy(path: Path, where: str, mmap: bool = False) -> np.ndarray:
    """One .npy file; pickled objects are never opened, because opening them runs what they say."""
    try:
        return np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except FileNotFoundError:
        raise Unreadable(
            f"{where}: no {path.name} in it; the folder needs feature.npy (cells x genes), gene_list.npy and label.npy"
        ) from None
    except (OSError, ValueError, EOFError) as error:
        if "object" in str(error).lower():
            raise Unreadable(
                f"{where}: {path.name} holds Python objects, which are not opened because that could run a "
                "program; save "
                f"plain values: numpy.save({path.name!r}, values.astype(str)), or a dense array of numbers "
                "for feature.npy"
            ) from None
        raise Unreadable(f"{where}: {path.name} is not a whole .npy file ({error}); save it again") from error


class RowBlocks:
    """A dataset that is read a few thousand cells at a time: open_rows makes one.

    n_cells, n_genes; genes (G) and cells (N) lists of names; columns: names of the cell table's columns;
    note: where values and genes came from. Values may be negative here: the sample tells what they are.
    """

    def __init__(self, name: str, path: Path, layout: Layout | None = None, cells: Cells | None = None):
        source = layout or cells
        self.name, self.path, self.where = name, path, f"{name} ({path})"
        self.genes, self.cells, self.columns, self.note = source.genes, source.cells, source.columns, source.note
        self.ids = source.ids  # (G,) Ensembl ids of the genes, or none
        self.doubled = source.doubled  # gene names that occur twice are usual in such a file
        self.n_cells, self.n_genes = len(self.cells), len(self.genes)
        self.remedy = layout.remedy if layout else ""
        self._layout, self._read = layout, cells
        self._whole = cells.counts if cells else None
        if layout:
            genes = layout.matrix.shape[1] if layout.keep is None else len(layout.keep)
            check_sizes(self.where, layout.matrix.shape[0], genes, self.n_genes, self.n_cells)
            if layout.matrix.layout == "csc":
                self.note += "; stored by genes, so it is read whole"

    @property
    def streamed(self) -> bool:
        """Whether blocks are read from the file one by one, instead of the whole at once."""
        return self._layout is not None and self._layout.matrix.layout != "csc"

    @property
    def obs(self):
        """The cell table as a pandas DataFrame (N rows, index: cell names)."""
        import pandas as pd

        return pd.DataFrame({key: self.column(key) for key in self.columns}, index=pd.Index(self.cells, dtype=object))

    def column(self, key: str) -> np.ndarray:  # (N,)
        """One column of the cell table; KeyError where there is none of that name."""
        if key not in self.columns:
            raise KeyError(key)
        with named(self.where):
            return np.asarray(self._layout.column(key) if self._layout else self._read.table[key])

    def labels(self, key: str | None = None) -> np.ndarray | None:  # (N,) object
        """Cell types as text, "" for a cell without one; None where the column does not exist."""
        if key is None and self._read:
            return self._read.labels
        with named(self.where):
            return labels_of(self.columns, self.column, key)

    def rows(self, start: int, stop: int) -> csr_matrix:  # (stop - start, G)
        """Cells start..stop, canonical float32; ValueError where a value is NaN or infinite."""
        if self.streamed:
            with named(self.where):
                return self._layout.rows(start, stop)
        if self._whole is None:
            needed = 16 * self._layout.matrix.entries  # both orders exist for a moment
            if needed > WHOLE_BYTES:
                raise Unreadable(
                    f"{self.where}: {self.note.split(',')[0]} is stored by genes (CSC) and would take "
                    f"{needed / 2**30:.1f} GB to turn over; {AS_CSR}"
                )
            with named(self.where):
                self._whole = self._layout.whole()
        return self._whole[start:stop]

    def blocks(self, rows_per_block: int = ROWS_PER_BLOCK) -> Iterator[tuple[int, csr_matrix]]:
        """(first row, csr of the next rows_per_block rows), in order, to the last cell."""
        for start in range(0, self.n_cells, rows_per_block):
            yield start, self.rows(start, min(start + rows_per_block, self.n_cells))

    def sample(self, n: int = 500) -> csr_matrix:  # (min(n, N), G)
        """About n cells in ten runs evenly spread over the file: enough to tell what the values are."""
        if n >= self.n_cells:
            return self.rows(0, self.n_cells)
        run = max(1, n // 10)
        starts = np.linspace(0, self.n_cells - run, max(1, n // run)).astype(int).tolist()
        return vstack([self.rows(a, a + run) for a in sorted(set(starts))], format="csr")


@contextmanager
def open_rows(path, *, name=None, layer=None, use_raw=False) -> Iterator[RowBlocks]:
    """A dataset to be read by blocks: `with open_rows(path) as rows: for start, counts in rows.blocks(): ...`

    HDF5 files are never loaded whole, unless stored by genes; text and numpy files are. Errors as read().
    """
    path = Path(path)
    kind = format_of(path)
    name = name or name_of(path)
    if kind not in OPENERS:
        yield RowBlocks(name, path, cells=read(path, name=name, layer=layer, use_raw=use_raw))
        return
    if kind != "h5ad" and (layer is not None or use_raw):
        raise Unreadable(f"{name} ({path}): only .h5ad files have layers and .raw; leave the option out")
    which = {"layer": layer, "use_raw": use_raw} if kind == "h5ad" else {}
    with opened(path, name) as (file, where):
        with named(where):
            rows = RowBlocks(name, path, layout=OPENERS[kind](file, where, **which))
        yield rows  # outside `named`: what the caller raises is not the file's fault


def matrices(path) -> dict[str, dict]:
    """The matrices of a file, in the order to look for counts: words -> arguments for read and open_rows."""
    path = Path(path)
    if format_of(path) != "h5ad":
        return {"X": {}}
    with opened(path, name_of(path)) as (file, where), named(where):
        which = {"X": {}, ".raw": {"use_raw": True}}
        which |= {f"layers[{layer!r}]": {"layer": layer} for layer in file.get("layers", ())}
        return {words: which[words] for words in h5ad_nodes(file)}


def format_of(path: Path) -> str:
    """'cellblast', 'h5ad', '10x', 'loom', 'numpy', 'mtx' or 'table': HDF5 by content, others by name.""" ""
    name = name_of(path)
    if not path.exists():
        raise FileNotFoundError(f"{name} ({path}): no such file or folder; check the spelling, or fetch it first")
    if path.is_dir():
        return "mtx" if has_mtx(path) else "numpy"
    bare = path.name.lower().removesuffix(".gz")
    if bare.endswith(TABLES):
        return "table"
    if bare.endswith(".mtx"):
        return "mtx"
    with opened(path, name) as (file, where), named(where):
        return "h5ad" if path.suffix == ".h5ad" else "loom" if path.suffix == ".loom" else kind_of_hdf5(file)


def name_of(path: Path) -> str:
    """A dataset's name from its path: Quake_10x.h5ad -> Quake_10x."""
    stem = path.name or path.resolve().name
    for ending in (".gz", ".h5ad", ".h5", ".hdf5", ".loom", ".csv", ".tsv", ".txt", ".tab", ".mtx"):
        stem = stem.removesuffix(ending)
    return stem


def labels_of(columns: Iterable[str], column, wanted: str | None) -> np.ndarray | None:
    """The wanted column as cell types, else the first of LABEL_KEYS; None where there is none of them."""
    columns = set(columns)
    key = next((key for key in ([wanted] if wanted else LABEL_KEYS) if key in columns), None)
    return None if key is None else as_labels(column(key))


def checked(cells: Cells, remedy: str = "") -> Cells:
    """cells, or ValueError where its parts do not fit each other or a value is negative."""
    where = f"{cells.name} ({cells.path})"
    n, g = cells.counts.shape
    check_sizes(where, n, g, len(cells.genes), len(cells.cells))
    if cells.labels is not None and len(cells.labels) != n:
        raise Unreadable(f"{where}: {len(cells.labels):,} labels for {n:,} cells; {REWRITE}")
    refuse_negative(cells.counts, where, cells.note.split(",")[0], remedy)
    return cells


def check_sizes(where: str, n: int, g: int, genes: int, cells: int) -> None:
    """ValueError unless a matrix of n cells x g genes has as many names, and at least one of each."""
    if n == 0 or g == 0:
        raise Unreadable(f"{where}: {n:,} cells x {g:,} genes, nothing to work with; leave it out or fetch it again")
    if genes != g:
        raise Unreadable(f"{where}: {genes:,} gene names (var_names) for {g:,} genes in the matrix; {REWRITE}")
    if cells != n:
        raise Unreadable(f"{where}: {cells:,} cell names (obs_names) for {n:,} cells in the matrix; {REWRITE}")
