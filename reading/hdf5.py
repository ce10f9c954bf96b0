"""Where the matrix, the names and the cell table lie in an HDF5 file: Cell BLAST, .h5ad, 10x and loom."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from scipy.sparse import csr_matrix, hstack

from reading import guard
from reading.guard import named
from reading.matrix import REWRITE, Matrix, Unreadable
from reading.names import as_text, ensembl_ids, features_that_are_genes, gene_symbols, genome_of, species_of_genome

FROM_R = (
    "write it as .h5ad in R: library(zellkonverter); writeH5AD(as.SingleCellExperiment(readRDS(FILE)), 'cells.h5ad'), "
    "or library(anndataR); write_h5ad(as_AnnData(readRDS(FILE)), 'cells.h5ad')"
)
CHUNK_CACHE = 32 << 20  # bytes of decompressed HDF5 chunks kept: row blocks end in the middle of chunks


@dataclass
class Layout:
    """One open dataset: its matrix (N, G before `keep`), gene names (G), cell names (N) and the cell table.

    column(key) reads one column of the cell table. keep: the matrix columns that are genes, None for all.
    remedy: what to do where the matrix holds negative values. ids (G): Ensembl ids of the genes, where they are known.
    doubled: whether files of this kind have gene names twice; as symbols beside unique ids are in every 10x file.
    others: the matrix columns of genomes that were not chosen; a cell with more counts of these is read as empty.
    foreign: how many such cells there are, once `count_foreign` has looked.
    usual: the column of cell types where none is asked for, if the format has its own.
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
    others: np.ndarray | None = field(default=None)
    foreign: int = 0
    usual: str = ""

    def refuse_lengths(self, table) -> None:
        """Raise Unreadable where a column of the cell table has not one value a cell: known before learning."""
        for key in self.columns if isinstance(table, h5py.Group) else ():
            node = table[key]
            if isinstance(node, h5py.Group):  # categories, or numbers of which some lack
                node = node.get("codes", node.get("values"))
            if isinstance(node, h5py.Dataset) and node.shape and len(node) != self.matrix.shape[0]:
                raise Unreadable(
                    f"{self.matrix.where}: column {key!r} has {len(node):,} values for {self.matrix.shape[0]:,} "
                    f"cells; {REWRITE}"
                )

    def whole(self) -> csr_matrix:  # (N, G)
        """All rows."""
        return self._genes_only(self.matrix.whole())

    def rows(self, start: int, stop: int) -> csr_matrix:  # (stop - start, G)
        """Rows start..stop; not for a matrix stored by genes."""
        return self._genes_only(self.matrix.rows(start, stop))

    def _genes_only(self, counts: csr_matrix) -> csr_matrix:
        kept = counts if self.keep is None else counts[:, self.keep]
        if self.others is None:
            return kept
        mine, theirs = (np.asarray(part.sum(axis=1)).ravel() for part in (kept, counts[:, self.others]))
        kept = kept.copy()
        kept.data[np.repeat(theirs > mine, np.diff(kept.indptr))] = 0
        kept.eliminate_zeros()
        return kept

    def count_foreign(self) -> None:
        """Set `foreign`: cells with counts, but most of them of another genome."""
        if self.others is None:
            return
        n = self.matrix.shape[0]
        blocks = [self.matrix.whole()] if self.matrix.layout == "csc" else None
        for counts in blocks or (self.matrix.rows(a, min(a + 4096, n)) for a in range(0, n, 4096)):
            mine, theirs = (np.asarray(counts[:, part].sum(axis=1)).ravel() for part in (self.keep, self.others))
            self.foreign += int((theirs > mine).sum())


class Beside:
    """Matrices (N, G1), (N, G2) ... of the same cells, as one: a genome each of an old 10x file."""

    def __init__(self, parts: list[Matrix]):
        self.parts, self.layout = parts, "csr" if all(part.layout != "csc" for part in parts) else "csc"
        self.shape = parts[0].shape[0], sum(part.shape[1] for part in parts)
        self.entries = sum(part.entries for part in parts)

    def whole(self) -> csr_matrix:  # (N, G)
        return hstack([part.whole() for part in self.parts], format="csr")

    def rows(self, start: int, stop: int) -> csr_matrix:  # (stop - start, G)
        return hstack([part.rows(start, stop) for part in self.parts], format="csr")


@contextmanager
def opened(path: Path, name: str):
    """An HDF5 file open for reading, and the words "NAME (PATH)"; read it inside `named`."""
    where = f"{name} ({path})"
    guard.regular(path, where)
    try:
        guard.looked_through(path, where)
        file = h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE)
    except FileNotFoundError:
        raise FileNotFoundError(f"{where}: no such file; check the spelling, or fetch it first") from None
    except Unreadable:
        raise
    except PermissionError:
        raise PermissionError(f"{where}: you may not read it; change its permissions") from None
    except OSError as error:
        if "truncated" in str(error):
            raise Unreadable(f"{where}: the HDF5 file is truncated (it ends too early); fetch it again") from error
        if not h5py.is_hdf5(path):
            raise Unreadable(f"{where}: not an HDF5 file, {seems(path)}; fetch it again or convert it") from error
        raise Unreadable(f"{where}: cannot be opened ({error}); fetch it again") from error
    with file:
        with named(where):
            guard.inside_only(file, where)
        yield file, where


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
    if head.startswith(b"PK\x03\x04"):
        return "it is a zip archive: unpack it with unzip"
    if head[:8] in (b"RDX2\nX\n\x00", b"RDX3\nX\n\x00") or head.startswith((b"X\n\x00\x00", b"RDX")):
        return "it is an R file; " + FROM_R
    return "it begins like something else"


def kind_of_hdf5(file: h5py.File) -> str:
    """'cellblast', 'h5ad', '10x' or 'loom'; 'cellblast' where nothing fits: its reader says what lacks."""
    if "exprs" in file:
        return "cellblast"
    if "mod" in file and isinstance(file["mod"], h5py.Group):
        return "h5mu"
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
    layout = Layout(matrix, genes, cells, columns, lambda key: table[key][...], "exprs", doubled=True)
    layout.refuse_lengths(table)
    return layout


def open_h5mu(file: h5py.File, where: str, *, modality: str | None = None, **which) -> Layout:
    """.h5mu of MuData: one modality, which is an .h5ad in a group: the one asked for, else that of the genes."""
    layout = open_h5ad(modality_of(file, where, modality), where, **which)
    layout.note = f"modality {layout.matrix.node.name.split('/')[2]}, {layout.note}"
    return layout


def modality_of(file: h5py.File, where: str, modality: str | None) -> h5py.Group:
    """The group of the modality asked for, else that of the genes. Raises Unreadable with the names there are."""
    found = {name: node for name, node in file["mod"].items() if isinstance(node, h5py.Group)}
    usual = [name for name in found if name.lower() in ("rna", "gex", "gene expression", "gene_expression", "mrna")]
    chosen = modality or (usual[0] if usual else next(iter(found), None) if len(found) == 1 else None)
    if chosen not in found:
        what = f"no modality {modality!r}" if modality else "no modality that is called rna or gex"
        raise Unreadable(f"{where}: {what} in this MuData file; name one with --modality: {listed(found)}")
    return found[chosen]


def open_h5ad(
    file: h5py.File | h5py.Group,
    where: str,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    genome: str | None = None,
) -> Layout:
    """.h5ad of any anndata version: X, layers[layer] or .raw; the gene table is searched for symbols.

    genome: of files with genes of two, the species whose genes are wanted; None: the one with most genes.
    """
    for part in ("obs", "var"):
        if part not in file:
            raise Unreadable(f"{where}: no {part!r} in it (it holds {listed(file)}), so it is not an .h5ad; {REWRITE}")
    nodes = h5ad_nodes(file)
    wanted = ".raw" if use_raw else "X" if layer is None else f"layers[{layer!r}]"
    if wanted not in nodes:
        what = {".raw": "no .raw", "X": "no X (it is empty)"}.get(wanted, f"no layer {layer!r}")
        raise Unreadable(f"{where}: it has {what}; {'use ' + ' or '.join(nodes) if nodes else 'supply a matrix'}")
    node, var = nodes.pop(wanted)
    index, columns = as_text(table_index(var)).tolist(), Columns(var)
    keep, note = features_that_are_genes(index, columns)
    if keep is None and var is not file["var"] and use_raw:  # .raw has fewer columns: told by the table of X
        whole = dict(zip(as_text(table_index(file["var"])).tolist(), _feature_types(file["var"]), strict=False))
        keep, note = features_that_are_genes(index, {"feature_types": [whole.get(name, "") for name in index]})
    keep, others, more = one_genome(index, keep, genome)
    if keep is not None:
        index, columns = [index[i] for i in keep], {key: np.asarray(columns[key])[keep] for key in columns}
    note = "".join(f", {words}" for words in (note, more) if words)
    genes, found = gene_symbols(index, columns)
    obs = file["obs"]
    cells = as_text(table_index(obs)).tolist()
    remedy = f"use {' or '.join(nodes)} of the same file if it holds counts" if nodes else ""
    layout = Layout(
        Matrix(node, where),
        genes,
        cells,
        table_columns(obs),
        lambda key: table_column(obs, key),
        f"{wanted}{note}, genes from {found}",
        remedy,
        keep=keep,
        ids=ensembl_ids(index, columns),
        doubled=beside_ids(found),
        others=others,
    )
    layout.refuse_lengths(obs)
    layout.count_foreign()
    return layout


def _feature_types(var) -> list[str]:
    """The feature type of each row of a gene table, "" where it has no such column."""
    columns = Columns(var)
    key = next((key for key in columns if key.lower() in ("feature_types", "feature_type", "modality")), None)
    return as_text(columns[key]).tolist() if key else []


def one_genome(
    names: list[str], keep: np.ndarray | None, wanted: str | None
) -> tuple[np.ndarray | None, np.ndarray | None, str]:
    """Of features with genomes before their names, the places of one genome's and of the others', and words for it.

    `keep`: the places of genes so far, None for all. wanted: a species; None, or one that is not there: the genome
    with most genes. The places come back as they were where there are not two genomes.
    """
    places = np.arange(len(names)) if keep is None else keep
    of = np.array([genome_of(names[i]) for i in places], dtype=object)
    genomes, counts = np.unique(of[of != ""].astype(str), return_counts=True)
    genomes = [genome for genome, count in zip(genomes, counts, strict=True) if count * 20 >= len(places)]
    if len(genomes) < 2 or (of != "").mean() < 0.9:
        return keep, None, ""
    fitting = [genome for genome in genomes if wanted and species_of_genome(genome) == wanted]
    chosen = fitting[0] if fitting else max(genomes, key=lambda genome: (of == genome).sum())
    words = f"genome {chosen.rstrip('_-')} of {', '.join(genome.rstrip('_-') for genome in genomes)}"
    return places[of == chosen], places[(of != chosen) & (of != "")], words


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


def open_10x(file: h5py.File, where: str, *, genome: str | None = None) -> Layout:
    """10x .h5 of Cell Ranger 2 or later: only genes; of several genomes that of the species `genome`.

    None, or a species that is not there: the genome with most values.
    """
    groups = genomes_10x(file)
    if not groups:
        raise Unreadable(
            f"{where}: no group with barcodes and data (it holds {listed(file)}), so not a 10x file; {REWRITE}"
        )
    fitting = [key for key in groups if genome and species_of_genome(key) == genome]
    chosen = fitting[0] if fitting else max(groups, key=lambda key: len(file[key]["data"]))
    group = file[chosen]
    matrix = Matrix(group, where, transposed=True)
    keep, others, note = None, None, f"{chosen} of a 10x file"
    if "features" in group:
        features = group["features"]
        ids, names = as_text(features["id"][...]), as_text(features["name"][...])
        types = as_text(features["feature_type"][...]) if "feature_type" in features else None
        if types is not None and (types != "Gene Expression").any():
            keep = np.flatnonzero(types == "Gene Expression")
            note += f", {len(types) - len(keep):,} features that are not genes left out"
        keep, others, words = one_genome(names.tolist(), keep, genome)
        if others is None:  # Cell Ranger 3 says it beside the names, too
            keep, others, words = one_genome(_prefixed(features, names), keep, genome)
        if keep is not None:
            ids, names = ids[keep], names[keep]
        note += f", {words}" if words else ""
    else:
        ids, names = as_text(group["genes"][...]), as_text(group["gene_names"][...])
    if len(groups) > 1:
        note += f" (of {', '.join(groups)})"
        matrix, keep, others = _two_genomes(file, where, groups, chosen, matrix)
    if keep is None and len(names) != matrix.shape[1]:
        raise Unreadable(f"{where}: {len(names):,} gene names for {matrix.shape[1]:,} genes in the matrix; {REWRITE}")
    genes, found = gene_symbols(ids.tolist(), {"gene_name": names})
    cells = as_text(group["barcodes"][...]).tolist()
    note += f", genes from {found}"
    layout = Layout(
        matrix, genes, cells, [], no_column, note, keep=keep, ids=ensembl_ids(ids), doubled=True, others=others
    )
    layout.count_foreign()
    return layout


def _prefixed(features: h5py.Group, names: np.ndarray) -> list[str]:
    """Names (G,) with the genome that a Cell Ranger 3 file has beside them put before them, where there are two."""
    if "genome" not in features:
        return names.tolist()
    genomes = as_text(features["genome"][...])
    if len(genomes) != len(names) or len(set(genomes) - {""}) < 2:
        return names.tolist()
    return [f"{genome}_{name}" if genome else name for genome, name in zip(genomes, names, strict=True)]


def _two_genomes(
    file: h5py.File, where: str, groups: list[str], chosen: str, matrix: Matrix
) -> tuple[Matrix | Beside, np.ndarray | None, np.ndarray | None]:
    """The chosen group's matrix beside those of other genomes, its columns and theirs, if the cells are the same."""
    barcodes = file[chosen]["barcodes"][...]
    same = [key for key in groups if key != chosen and np.array_equal(file[key]["barcodes"][...], barcodes)]
    if not same:
        return matrix, None, None
    parts = [matrix, *(Matrix(file[key], where, transposed=True) for key in same)]
    wide = matrix.shape[1]
    beside = Beside(parts)
    return beside, np.arange(wide), np.arange(wide, beside.shape[1])


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
    index = as_text(rows[key][...]).tolist()
    if key != "Accession" and "Accession" in rows and len(set(index)) < len(index):  # as velocyto writes them
        ids = as_text(rows["Accession"][...]).tolist()
        if len(set(ids)) == len(ids):
            key, index = "Accession", ids
    others = {name: as_text(rows[name][...]) for name in rows if name != key and rows[name].ndim == 1}
    genes, found = gene_symbols(index, others)
    cell = next((key for key in ("CellID", "cell_names", "obs_names", "CellName", "Cell") if key in columns), None)
    cells = as_text(columns[cell][...]).tolist() if cell else numbered(matrix.shape[0])
    names = sorted(name for name in columns if name != cell and columns[name].ndim == 1)
    layout = Layout(
        matrix,
        genes,
        cells,
        names,
        lambda key: columns[key][...],
        f"matrix, genes from {found.replace('var_names', f'row_attrs/{key}')}",
        ids=ensembl_ids(index, others),
        doubled=beside_ids(found),
    )
    layout.refuse_lengths(columns)
    return layout


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
    rest = [key for key in rest if isinstance(table[key], h5py.Dataset) or table[key].attrs.get("encoding-type")]
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
        levels = table.get(f"__categories/{key}")  # SeuratDisk writes no link from the codes to these
        if not (isinstance(levels, h5py.Dataset) and isinstance(codes, h5py.Dataset) and codes.dtype.kind in "iuf"):
            return np.asarray(read_element(codes), dtype=object)
        categories = levels
    if categories is None or np.asarray(codes).dtype.kind not in "iuf":
        return np.asarray(codes)
    spelled = np.append(as_text(categories[...]), "")  # a code that is no category takes the last
    found = np.nan_to_num(np.asarray(codes, dtype=float), nan=-1).astype(np.int64)
    return spelled[np.where((found >= 0) & (found < len(spelled) - 1), found, len(spelled) - 1)]


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
