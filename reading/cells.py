"""Open a file of cells, whatever its format, as sparse counts with genes and labels; whole or by rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, vstack

from reading import store
from reading.guard import named, regular
from reading.hdf5 import (
    FROM_R,
    Layout,
    beside_ids,
    h5ad_nodes,
    kind_of_hdf5,
    modality_of,
    no_column,
    numbered,
    open_10x,
    open_cellblast,
    open_h5ad,
    open_h5mu,
    open_loom,
    opened,
)
from reading.matrix import AS_CSR, REWRITE, Unreadable, canonical, refuse_negative, sparse, stack
from reading.names import (
    as_labels,
    as_text,
    ensembl_ids,
    features_that_are_genes,
    gene_symbols,
    kind_of_names,
    species_from_case,
)
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
    foreign: cells that are mostly of another genome, and were therefore read as empty.
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
    foreign: int = 0


def read(path, *, name=None, label_key=None, layer=None, use_raw=False, genome=None, modality=None) -> Cells:
    """The cells in a file or folder of any format that format_of knows.

    label_key: column of cell types; by default the first of LABEL_KEYS that exists. layer, use_raw: which
    matrix of an .h5ad (X by default). genome: the species whose genes are wanted of a file that has two.
    modality: of an .h5mu. Raises FileNotFoundError, or ValueError with dataset, file and remedy.
    """
    path = Path(path)
    wanted = {"layer": layer, "use_raw": use_raw, "genome": genome, "modality": modality}
    with open_layout(path, name or name_of(path), **wanted) as (layout, where), named(where):
        labels = labels_of(layout.columns, layout.column, label_key, layout.usual)
        cells = Cells(name or name_of(path), path, layout.whole(), layout.genes, layout.cells, labels)
        cells.columns, cells.note, cells.ids = layout.columns, layout.note, layout.ids
        cells.doubled, cells.foreign = layout.doubled, layout.foreign
        return checked(cells, layout.remedy)


@contextmanager
def open_layout(path: Path, name: str, **wanted) -> Iterator[tuple[Layout, str]]:
    """A file or folder of any format, opened: where its parts lie, and the words "NAME (PATH)". Errors as `read`."""
    kind = FORMATS[format_of(path)]
    which = options(kind, f"{name} ({path})", wanted)
    if not kind.hdf5:
        with named(f"{name} ({path})"):
            layout = kind.open(path, f"{name} ({path})", **which)
        yield layout, f"{name} ({path})"
        return
    with opened(path, name) as (file, where):
        with named(where):
            layout = kind.open(file, where, **which)
        yield layout, where  # outside `named`: what the caller raises is not the file's fault


def options(kind: Format, where: str, wanted: dict) -> dict:
    """Those of layer, use_raw, genome and modality that a format has; Unreadable for one that was asked of another."""
    if "layer" not in kind.options and (wanted.get("layer") is not None or wanted.get("use_raw")):
        raise Unreadable(f"{where}: only .h5ad files have layers and .raw; leave the option out")
    if "modality" not in kind.options and wanted.get("modality") is not None:
        raise Unreadable(f"{where}: only .h5mu files have modalities; leave --modality out")
    return {key: value for key, value in wanted.items() if key in kind.options}


def open_zarr(path: Path, where: str, *, layer: str | None = None, use_raw: bool = False) -> Layout:
    """An AnnData in a .zarr store, as anndata reads it: whole, in memory."""
    found = of_anndata(read_zarr_store(path), name_of(path))
    words = ".raw" if use_raw else "X" if layer is None else f"layers[{layer!r}]"
    if words not in found:
        raise Unreadable(f"{where}: it has no {words}; use {' or '.join(found)}")
    return layout_of(found[words])


def read_zarr_store(path: Path):
    """The AnnData of a store; ValueError where it is one that a library should not be given."""
    store.look_through(path, f"{name_of(path)} ({path})")
    from anndata.io import read_zarr as read_store

    return read_store(path)


def of_anndata(adata, name: str) -> dict[str, Cells]:
    """The matrices of an AnnData, in the order to look for counts: words -> cells with these values."""
    found = {}
    if adata.raw is not None:
        found[".raw"] = adata.raw.X, adata.raw.var
    for layer in sorted(adata.layers, key=lambda layer: (layer != "counts", layer)):
        found[f"layers[{layer!r}]"] = adata.layers[layer], adata.var
    if adata.X is not None:
        found["X"] = adata.X, adata.var
    if not found:
        raise Unreadable(f"{name}: it has no matrix, neither X nor layers nor .raw")
    table = {str(key): adata.obs[key].to_numpy(dtype=object) for key in adata.obs}
    names = [str(cell) for cell in adata.obs_names]
    cells = {}
    for words, (matrix, var) in found.items():
        values = in_memory_csr(matrix)
        index = [str(gene) for gene in var.index]
        columns = {str(key): var[key].to_numpy(dtype=object) for key in var}
        keep, left_out = features_that_are_genes(index, columns)
        if keep is not None:
            values, index = values[:, keep], [index[i] for i in keep]
            columns = {key: column[keep] for key, column in columns.items()}
        genes, where = gene_symbols(index, columns)
        note = f"{words}{', ' + left_out if left_out else ''}, genes from {where}"
        ids, doubled = ensembl_ids(index, columns), beside_ids(where)
        cells[words] = Cells(
            name,
            Path(name),
            values,
            genes,
            names,
            columns=list(table),
            note=note,
            table=table,
            ids=ids,
            doubled=doubled,
        )
    return cells


def in_memory_csr(matrix) -> csr_matrix:
    """A matrix of any kind an AnnData may hold (backed, dask, sparse array, CSC, dense) as canonical csr float32."""
    for method in ("to_memory", "compute"):
        if hasattr(matrix, method):
            matrix = getattr(matrix, method)()
    values = csr_matrix(matrix, dtype=np.float32)
    values.sum_duplicates()
    return values


class InMemory:
    """A matrix (N, G) that is in memory already, behind the methods of one that is read from a file."""

    layout = "csr"

    def __init__(self, counts: csr_matrix):
        self.counts, self.shape, self.entries = counts, counts.shape, counts.nnz

    def whole(self) -> csr_matrix:
        return self.counts

    def rows(self, start: int, stop: int) -> csr_matrix:
        return self.counts[start:stop]


def layout_of(cells: Cells) -> Layout:
    """Cells in memory as a layout."""
    return Layout(
        matrix=InMemory(cells.counts), genes=cells.genes, cells=cells.cells, columns=cells.columns,
        column=cells.table.__getitem__, note=cells.note, ids=cells.ids, doubled=cells.doubled, foreign=cells.foreign,
    )  # fmt: skip


def open_mtx(path: Path, where: str) -> Layout:
    """A folder (or the matrix.mtx in it) as 10x, kallisto, alevin-fry or Parse write it. It has no labels."""
    counts, genes, ids, cells, note = parse_mtx(path if path.is_dir() else path.parent, where)
    refuse_negative(counts, where, note.split(",")[0], "")
    return Layout(
        matrix=InMemory(counts),
        genes=genes,
        cells=cells,
        columns=[],
        column=no_column,
        note=note,
        ids=ids,
        doubled=True,
    )


def open_table(path: Path, where: str) -> Layout:
    """A .csv or .tsv (.gz), cells x genes or genes x cells; the note says how it was taken."""
    counts, genes, cells, table, note, doubled = parse_table(path, where)
    refuse_negative(counts, where, note.split(",")[0], "")
    return Layout(
        matrix=InMemory(counts), genes=genes, cells=cells, columns=list(table),
        column=lambda key: np.array(table[key], dtype=object), note=note, doubled=doubled,
    )  # fmt: skip


def open_numpy(folder: Path, where: str) -> Layout:
    """A folder with feature.npy (N, G), gene_list.npy (G,) and, where there are labels, label.npy (N,)."""
    values = load_npy(folder / "feature.npy", where)
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
    refuse_negative(counts, where, "feature.npy", "")
    if labels is not None and len(labels) != len(values):
        raise Unreadable(f"{where}: {len(labels):,} labels for {len(values):,} cells; {REWRITE}")
    table = {} if labels is None else {"label.npy": labels}
    return Layout(
        matrix=InMemory(counts), genes=genes, cells=numbered(len(values)), columns=list(table),
        column=table.__getitem__, note="feature.npy", usual="label.npy",
    )  # fmt: skip


def load_npy(path: Path, where: str) -> np.ndarray:
    """One .npy file, mapped, so that its stated shape is compared with its size before memory is taken.

    Pickled objects are never opened, because opening them runs what they say.
    """
    regular(path, where)
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise Unreadable(
            f"{where}: no {path.name} in it; the folder needs feature.npy (cells x genes), gene_list.npy and label.npy"
        ) from None
    except MemoryError:
        raise  # said at the boundary
    except Exception as error:  # a damaged header is parsed as Python: SyntaxError, TokenError, SystemError
        if "object" in str(error).lower():
            raise Unreadable(
                f"{where}: {path.name} holds Python objects, which are not opened because that could run a "
                "program; save "
                f"plain values: numpy.save({path.name!r}, values.astype(str)), or a dense array of numbers "
                "for feature.npy"
            ) from None
        raise Unreadable(f"{where}: {path.name} is not a whole .npy file ({error}); save it again") from error
    if not isinstance(values, np.ndarray):
        raise Unreadable(f"{where}: {path.name} is an .npz archive; save one array a file with numpy.save")
    return values


class RowBlocks:
    """A dataset that is read a few thousand cells at a time: open_rows makes one.

    n_cells, n_genes; genes (G) and cells (N) lists of names; columns: names of the cell table's columns;
    note: where values and genes came from. Values may be negative here: the sample tells what they are.
    """

    def __init__(self, name: str, path: Path, layout: Layout):
        self.name, self.path, self.where = name, path, f"{name} ({path})"
        self.genes, self.cells, self.columns, self.note = layout.genes, layout.cells, layout.columns, layout.note
        self.ids = layout.ids  # (G,) Ensembl ids of the genes, or none
        self.doubled = layout.doubled  # gene names that occur twice are usual in such a file
        self.foreign = layout.foreign  # cells mostly of another genome, read as empty
        self.n_cells, self.n_genes = len(self.cells), len(self.genes)
        self.remedy = layout.remedy
        self._layout, self._whole = layout, None
        genes = layout.matrix.shape[1] if layout.keep is None else len(layout.keep)
        check_sizes(self.where, layout.matrix.shape[0], genes, self.n_genes, self.n_cells)
        if layout.matrix.layout == "csc":
            self.note += "; stored by genes, so it is read whole"

    @property
    def entries(self) -> int:
        """Stored entries of the matrix; all of them where it is dense."""
        return self._layout.matrix.entries

    @property
    def streamed(self) -> bool:
        """Whether blocks are read from the file one by one, instead of the whole at once."""
        return self._layout.matrix.layout != "csc" and not isinstance(self._layout.matrix, InMemory)

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
            return np.asarray(self._layout.column(key))

    def labels(self, key: str | None = None) -> np.ndarray | None:  # (N,) object
        """Cell types as text, "" for a cell without one; None where the column does not exist."""
        with named(self.where):
            return labels_of(self.columns, self.column, key, self._layout.usual)

    def rows(self, start: int, stop: int) -> csr_matrix:  # (stop - start, G)
        """Cells start..stop, canonical float32; ValueError where a value is NaN or infinite."""
        if self._layout.matrix.layout != "csc":
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
def open_rows(path, *, name=None, layer=None, use_raw=False, genome=None, modality=None) -> Iterator[RowBlocks]:
    """A dataset to be read by blocks: `with open_rows(path) as rows: for start, counts in rows.blocks(): ...`

    HDF5 files are never loaded whole, unless stored by genes; text and numpy files are. Errors as read().
    """
    path = Path(path)
    name = name or name_of(path)
    wanted = {"layer": layer, "use_raw": use_raw, "genome": genome, "modality": modality}
    with open_layout(path, name, **wanted) as (layout, _):
        yield RowBlocks(name, path, layout)


def matrices(path, modality: str | None = None) -> dict[str, dict]:
    """The matrices of a file, in the order to look for counts: words -> arguments for read and open_rows."""
    path = Path(path)
    kind = format_of(path)
    if kind == "zarr":
        with named(f"{name_of(path)} ({path})"):
            adata = read_zarr_store(path)
        found = [f"layers[{layer!r}]" for layer in sorted(adata.layers, key=lambda layer: (layer != "counts", layer))]
        found = [*([".raw"] if adata.raw is not None else []), *found, *(["X"] if adata.X is not None else [])]
        which = {".raw": {"use_raw": True}, "X": {}}
        return {words: which.get(words, {"layer": words[len("layers['") : -2]}) for words in found}
    if kind not in ("h5ad", "h5mu"):
        return {"X": {}}
    with opened(path, name_of(path)) as (file, where), named(where):
        if kind == "h5mu":
            file = modality_of(file, where, modality)
        which = {"X": {}, ".raw": {"use_raw": True}}
        which |= {f"layers[{layer!r}]": {"layer": layer} for layer in file.get("layers", ())}
        return {words: which[words] for words in h5ad_nodes(file)}


@dataclass(frozen=True)
class Format:
    """How a format is opened: handed the open HDF5 file or the path, the words for messages, and its `options`."""

    open: Callable[..., Layout]
    hdf5: bool = False
    options: tuple[str, ...] = ()


FORMATS = {  # the one list of them; `format_of` says which of them a file is
    "cellblast": Format(open_cellblast, hdf5=True),
    "h5ad": Format(open_h5ad, hdf5=True, options=("layer", "use_raw", "genome")),
    "h5mu": Format(open_h5mu, hdf5=True, options=("layer", "use_raw", "genome", "modality")),
    "10x": Format(open_10x, hdf5=True, options=("genome",)),
    "loom": Format(open_loom, hdf5=True),
    "zarr": Format(open_zarr, options=("layer", "use_raw")),
    "mtx": Format(open_mtx),
    "table": Format(open_table),
    "numpy": Format(open_numpy),
}


def format_of(path: Path) -> str:
    """The key of FORMATS that a file or folder is: HDF5 by content, others by name.

    Raises Unreadable with what to do for what is no file of cells: an address, an archive, R's formats.
    """
    name = name_of(path)
    if foreign := not_cells(path):
        raise Unreadable(f"{name} ({path}): {foreign}")
    if not path.exists():
        raise FileNotFoundError(f"{name} ({path}): no such file or folder; check the spelling, or fetch it first")
    if path.is_dir():
        if any((path / part).exists() for part in (".zgroup", "zarr.json", ".zattrs")):
            return "zarr"
        if has_mtx(path):
            return "mtx"
        if not (path / "feature.npy").exists() and not (path / "gene_list.npy").exists():
            inside = ", ".join(sorted(item.name for item in path.iterdir())[:5]) or "nothing"
            raise Unreadable(
                f"{name} ({path}): a folder without a matrix ({inside}); it may hold matrix.mtx, features.tsv and "
                "barcodes.tsv, kallisto's cells_x_genes files, a .zarr store, or feature.npy and gene_list.npy"
            )
        return "numpy"
    regular(path, f"{name} ({path})")
    bare = path.name.lower().removesuffix(".gz")
    if bare.endswith(TABLES):
        return "table"
    if bare.endswith(".mtx"):
        return "mtx"
    with opened(path, name) as (file, where), named(where):
        if path.suffix == ".loom":
            return "loom"
        if path.suffix == ".h5ad" and "mod" not in file:
            return "h5ad"
        return kind_of_hdf5(file)


def not_cells(path: Path) -> str:
    """What a path that is known by its name to be no file of cells is, and what to do; "" where it may be one."""
    text, lower = str(path), path.name.lower()
    if re.match(r"(https?|ftp|s3|gs):/", text):
        return "an address; download the file first, then give its path"
    if lower.endswith((".rds", ".rdata", ".rda", ".robj", ".h5seurat", ".rds.gz")):
        return f"an R file; {FROM_R}"
    if lower.endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".zip", ".7z", ".rar")):
        how = "unzip" if lower.endswith(".zip") else "tar -xf" if ".t" in lower else "its program"
        return f"an archive; unpack it ({how}) and give a file or folder that was in it"
    if lower.endswith((".h5ad.gz", ".h5.gz", ".loom.gz", ".h5mu.gz")):
        return "gzip-compressed; unpack it with gunzip and give the file without .gz"
    if lower.endswith((".bam", ".fastq", ".fastq.gz", ".fq.gz", ".cram")):
        return "reads, not counts; count them first (Cell Ranger, STARsolo, kallisto-bustools, alevin-fry)"
    return ""


def name_of(path: Path) -> str:
    """A dataset's name from its path: Quake_10x.h5ad -> Quake_10x."""
    stem = path.name or path.resolve().name
    for ending in (".gz", ".zarr", ".h5mu", ".h5ad", ".h5", ".hdf5", ".loom", ".csv", ".tsv", ".txt", ".tab", ".mtx"):
        stem = stem.removesuffix(ending)
    return stem


def labels_of(columns: Iterable[str], column, wanted: str | None, usual: str = "") -> np.ndarray | None:
    """The wanted column as cell types, else `usual` or the first of LABEL_KEYS; None where there is none of them."""
    columns = set(columns)
    key = next((key for key in ([wanted] if wanted else [usual, *LABEL_KEYS]) if key in columns), None)
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
