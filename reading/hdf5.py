"""Where the matrix, the names and the cell table lie in an HDF5 file: Cell BLAST, .h5ad, 10x and loom."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from scipy.sparse import csr_matrix

from reading.matrix import REWRITE, Matrix, Unreadable
from reading.names import as_text, ensembl_ids, gene_symbols

CHUNK_CACHE = 32 << 20  # bytes of decompressed HDF5 chunks kept: row blocks end in the middle of chunks


@dataclass
class Layout:
    """One open dataset: its matrix (N, G before `keep`), gene names (G), cell names (N) and the cell table.

    column(key) reads one column of the cell table. keep: the matrix columns that are genes, None for all.
    remedy: what to do where the matrix holds negative values. ids (G): Ensembl ids of the genes, where they are known.
    doubled: whether files of this kind have gene names twice; as symbols beside unique ids are in every 10x file.
    """

    matrix: Matrix
    genes: list[str]
    cells: list[str]
    columns: list[str]
    column: Callable[[str], np.ndarray]
    note: str
    remedy: str = ""
    keep: np.ndarray | None = field(default=None)
    ids: list[str] = field(default_factory=list)
    doubled: bool = False

    def whole(self) -> csr_matrix:  # (N, G)
        """All rows."""
        return self._genes_only(self.matrix.whole())

    def rows(self, start: int, stop: int) -> csr_matrix:  # (stop - start, G)
        """Rows start..stop; not for a matrix stored by genes."""
        return self._genes_only(self.matrix.rows(start, stop))

    def _genes_only(self, counts: csr_matrix) -> csr_matrix:
        return counts if self.keep is None else counts[:, self.keep]


@contextmanager
def opened(path: Path, name: str):
    """An HDF5 file open for reading, and the words "NAME (PATH)"; read it inside `named`."""
    where = f"{name} ({path})"
    try:
        file = h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE)
    except FileNotFoundError:
        raise FileNotFoundError(f"{where}: no such file; check the spelling, or fetch it first") from None
    except PermissionError:
        raise PermissionError(f"{where}: you may not read it; change its permissions") from None
    except OSError as error:
        if "truncated" in str(error):
            raise Unreadable(f"{where}: the HDF5 file is truncated (it ends too early); fetch it again") from error
        if not h5py.is_hdf5(path):
            raise Unreadable(f"{where}: not an HDF5 file, {seems(path)}; fetch it again or convert it") from error
        raise Unreadable(f"{where}: cannot be opened ({error}); fetch it again") from error
    with file:
        yield file, where


@contextmanager
def named(where: str):
    """Whatever a library raises over a damaged file becomes Unreadable, with its name and what to do."""
    try:
        yield
    except (Unreadable, FileNotFoundError, PermissionError, UnicodeEncodeError):
        raise
    except (
        OSError,
        EOFError,
        RuntimeError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
    ) as error:
        words = " ".join(str(error).split())[:200]
        raise Unreadable(f"{where}: cannot be read as cells ({words}); {REWRITE}") from error


def seems(path: Path) -> str:
    """What a file that is no HDF5 seems to be."""
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        return "it is empty"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page: the address answered with a message instead of the data"
    if head.startswith(b"\x1f\x8b"):
        return "it is gzip-compressed: unpack it with gunzip"
    return "it begins like something else"


def kind_of_hdf5(file: h5py.File) -> str:
    """'cellblast', 'h5ad', '10x' or 'loom'; 'cellblast' where nothing fits: its reader says what lacks."""
    if "exprs" in file:
        return "cellblast"
    if "obs" in file and "var" in file:
        return "h5ad"
    if "row_attrs" in file and "col_attrs" in file:
        return "loom"
    return "10x" if genomes_10x(file) else "cellblast"


def open_cellblast(file: h5py.File, where: str) -> Layout:
    """Cell BLAST .h5: exprs (CSR group or 2-D dataset), var_names, obs_names, obs/COLUMN."""
    for part in ("exprs", "var_names"):
        if part not in file:
            raise Unreadable(
                f"{where}: no {part!r} in it (it holds {listed(file)}); a Cell BLAST file has exprs, "
                "var_names, "
                "obs_names and obs. Convert it, or give an .h5ad"
            )
    genes = as_text(file["var_names"][...]).tolist()
    node = file["exprs"]
    rows = len(node["indptr"]) - 1 if isinstance(node, h5py.Group) and "indptr" in node else 0
    matrix = Matrix(node, where, shape=(rows, len(genes)))
    cells = as_text(file["obs_names"][...]).tolist() if "obs_names" in file else numbered(matrix.shape[0])
    table = file.get("obs", {})
    columns = sorted(key for key in table if isinstance(table[key], h5py.Dataset) and table[key].ndim == 1)
    return Layout(matrix, genes, cells, columns, lambda key: table[key][...], "exprs", doubled=True)


def open_h5ad(file: h5py.File, where: str, *, layer: str | None = None, use_raw: bool = False) -> Layout:
    """.h5ad of any anndata version: X, layers[layer] or .raw; the gene table is searched for symbols."""
    for part in ("obs", "var"):
        if part not in file:
            raise Unreadable(f"{where}: no {part!r} in it (it holds {listed(file)}), so it is not an .h5ad; {REWRITE}")
    nodes = h5ad_nodes(file)
    wanted = ".raw" if use_raw else "X" if layer is None else f"layers[{layer!r}]"
    if wanted not in nodes:
        what = {".raw": "no .raw", "X": "no X (it is empty)"}.get(wanted, f"no layer {layer!r}")
        raise Unreadable(f"{where}: it has {what}; {'use ' + ' or '.join(nodes) if nodes else 'supply a matrix'}")
    node, var = nodes.pop(wanted)
    index = as_text(table_index(var)).tolist()
    genes, found = gene_symbols(index, Columns(var))
    obs = file["obs"]
    cells = as_text(table_index(obs)).tolist()
    remedy = f"use {' or '.join(nodes)} of the same file if it holds counts" if nodes else ""
    note = f"{wanted}, genes from {found}"
    return Layout(
        Matrix(node, where),
        genes,
        cells,
        table_columns(obs),
        lambda key: table_column(obs, key),
        note,
        remedy,
        ids=ensembl_ids(index, Columns(var)),
        doubled=beside_ids(found),
    )


def h5ad_nodes(file: h5py.File) -> dict[str, tuple]:
    """The matrices of an .h5ad, in the order to look for counts: words -> (matrix, gene table)."""
    nodes = {}
    raw = file.get("raw")
    if isinstance(raw, h5py.Group) and "X" in raw and "var" in raw:
        nodes[".raw"] = raw["X"], raw["var"]
    elif "raw.X" in file and "raw.var" in file:  # before anndata 0.7
        nodes[".raw"] = file["raw.X"], file["raw.var"]
    for layer in sorted(file.get("layers", ()), key=lambda layer: (layer != "counts", layer)):
        nodes[f"layers[{layer!r}]"] = file["layers"][layer], file["var"]
    if "X" in file and not (isinstance(file["X"], h5py.Dataset) and file["X"].shape in (None, ())):
        nodes["X"] = file["X"], file["var"]
    return nodes


def genomes_10x(file: h5py.File) -> list[str]:
    """The groups of a 10x .h5 that hold a matrix: 'matrix' (Cell Ranger 3 on) or one a genome (before)."""
    found = [key for key, node in file.items() if isinstance(node, h5py.Group) and {"barcodes", "data"} <= set(node)]
    return ["matrix"] if "matrix" in found else found


def open_10x(file: h5py.File, where: str) -> Layout:
    """10x .h5 of Cell Ranger 2 or later: only genes; of several genomes, the one with most values."""
    groups = genomes_10x(file)
    if not groups:
        raise Unreadable(
            f"{where}: no group with barcodes and data (it holds {listed(file)}), so not a 10x file; {REWRITE}"
        )
    chosen = max(groups, key=lambda key: len(file[key]["data"]))
    group = file[chosen]
    matrix = Matrix(group, where, transposed=True)
    keep, note = None, f"{chosen} of a 10x file"
    if "features" in group:
        features = group["features"]
        ids, names = as_text(features["id"][...]), as_text(features["name"][...])
        types = as_text(features["feature_type"][...]) if "feature_type" in features else None
        if types is not None and (types != "Gene Expression").any():
            keep = np.flatnonzero(types == "Gene Expression")
            ids, names = ids[keep], names[keep]
            note += f", {len(types) - len(keep):,} features that are not genes left out"
    else:
        ids, names = as_text(group["genes"][...]), as_text(group["gene_names"][...])
    if len(groups) > 1:
        note += f" (of {', '.join(groups)}: the one with most values)"
    if keep is None and len(names) != matrix.shape[1]:
        raise Unreadable(f"{where}: {len(names):,} gene names for {matrix.shape[1]:,} genes in the matrix; {REWRITE}")
    genes, found = gene_symbols(ids.tolist(), {"gene_name": names})
    cells = as_text(group["barcodes"][...]).tolist()
    note += f", genes from {found}"
    return Layout(matrix, genes, cells, [], no_column, note, "", keep, ensembl_ids(ids), doubled=True)


def open_loom(file: h5py.File, where: str) -> Layout:
    """.loom: matrix (genes x cells), row_attrs (genes), col_attrs (cells); needs no further library."""
    for part in ("matrix", "row_attrs", "col_attrs"):
        if part not in file:
            raise Unreadable(
                f"{where}: no {part!r} in it (it holds {listed(file)}), so it is not a loom file; {REWRITE}"
            )
    matrix = Matrix(file["matrix"], where, transposed=True)
    rows, columns = file["row_attrs"], file["col_attrs"]
    key = next(
        (key for key in ("Gene", "gene_names", "var_names", "GeneName", "Name", "Accession") if key in rows),
        None,
    )
    if key is None:
        raise Unreadable(f"{where}: no gene names among row_attrs ({listed(rows)}); name them row_attrs/Gene")
    others = {name: as_text(rows[name][...]) for name in rows if name != key and rows[name].ndim == 1}
    index = as_text(rows[key][...]).tolist()
    genes, found = gene_symbols(index, others)
    cell = next((key for key in ("CellID", "cell_names", "obs_names", "CellName", "Cell") if key in columns), None)
    cells = as_text(columns[cell][...]).tolist() if cell else numbered(matrix.shape[0])
    names = sorted(name for name in columns if name != cell and columns[name].ndim == 1)
    return Layout(
        matrix,
        genes,
        cells,
        names,
        lambda key: columns[key][...],
        f"matrix, genes from {found.replace('var_names', f'row_attrs/{key}')}",
        ids=ensembl_ids(index, others),
        doubled=beside_ids(found),
    )


OPENERS = {"cellblast": open_cellblast, "h5ad": open_h5ad, "10x": open_10x, "loom": open_loom}


def beside_ids(found: str) -> bool:
    """Whether `gene_symbols` found the symbols beside, or as a part of, the names that the matrix is indexed by."""
    return not found.startswith("var_names")


def no_column(key: str) -> np.ndarray:
    """The cell table of a format that has none."""
    raise KeyError(key)


def table_index(table) -> np.ndarray:
    """The row names of obs or var, of whatever anndata wrote it."""
    if isinstance(table, h5py.Dataset):  # before anndata 0.7: a table of records
        return table[table.dtype.names[0]]
    return read_element(table[_index_key(table)])


def table_columns(table) -> list[str]:
    """The column names of obs or var, without the index, in their own order."""
    if isinstance(table, h5py.Dataset):
        return list(table.dtype.names[1:])
    stated = [str(as_text([key])[0]) for key in table.attrs.get("column-order", ())]
    index = _index_key(table)
    rest = [key for key in table if key not in stated and key != index and not key.startswith("__")]
    return [key for key in stated if key in table] + rest


def table_column(table, key: str) -> np.ndarray:
    """One column of obs or var as an object array, categories spelled out, "" where a cell has none."""
    categories = None
    codes = table[key]
    if isinstance(table, h5py.Dataset):
        categories = table.file.get(f"uns/{key}_categories")
    elif isinstance(codes, h5py.Dataset) and "categories" in codes.attrs:  # anndata 0.7
        categories = table.file[codes.attrs["categories"]]
    elif not isinstance(table, h5py.Dataset):
        return np.asarray(read_element(codes), dtype=object)
    if categories is None:
        return np.asarray(codes)
    spelled = np.append(as_text(categories[...]), "")  # code -1, no category, takes the last
    return spelled[np.asarray(codes)]


def _index_key(table: h5py.Group) -> str:
    return table.attrs.get("_index", "index" if "index" in table else "_index")


def read_element(node):
    """One element of an .h5ad as anndata reads it."""
    from anndata.io import read_elem  # a second of imports that only .h5ad files need

    return read_elem(node)


class Columns(dict):
    """The columns of a gene table, each read when it is first asked for."""

    def __init__(self, table):
        super().__init__(dict.fromkeys(table_columns(table)))
        self.table = table

    def __getitem__(self, key):
        return table_column(self.table, key)


def numbered(n: int) -> list[str]:
    """Cell names for a file that has none."""
    return [f"cell_{i}" for i in range(n)]


def listed(keys: Iterable[str], most: int = 8) -> str:
    """A few names, for a message."""
    keys = list(keys)
    return (", ".join(keys[:most]) + (", ..." if len(keys) > most else "")) or "nothing"
