"""Text files of cells: a table (csv, tsv) in either orientation, and 10x's folder with matrix.mtx."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
from scipy.sparse import csr_matrix

from reading import bounded
from reading.guard import DAMAGE, matrix_market
from reading.hdf5 import beside_ids
from reading.matrix import Unreadable, canonical, sparse, stack
from reading.names import as_text, ensembl_ids, features_that_are_genes, gene_symbols, kind_of_names

CHUNK_VALUES = 4 << 20  # numbers of a table in memory at once, besides its non-zeros

# Names that tell genes from cells in any tissue: large families of symbols, and ids.
_GENE = re.compile(
    r"(ENS[A-Z]*G\d{11}(\.\d+)?|(RP[LS]|SLC|ZNF|ZFP|TMEM|FAM|CCDC|KRT|COL|CD|IL|MIR|LINC|LOC|GM|RAB|PSM|NDUF|ATP|"
    r"TRIM|USP|DDX|EIF|HSP|HIST|HOX|KIF|POL[RDE]|PPP|PRK|MAP|SNX|UBE|VPS|WDR|COX|CDK|STAT|TNF|CCL|CXCL|GPR)\w*\d\w*|"
    r"MT-\w+|HLA-\w+|C\d+ORF\d+|\w+RIK|ACTB|GAPDH|B2M|MALAT1|EEF1A1|TMSB4X|FTH1|FTL|(GENE|G)[_ -]?\d+)$",
    re.IGNORECASE,
)
_CELL = re.compile(
    r"(^|[^A-Za-z])[ACGTN]{8,}([^A-Za-z]|$)|cell|sample|barcode|plate|well|lib\d|^[SE]RR\d+|^GSM\d+", re.I
)


# Columns that describe cells, and that describe genes: what they hold is no count. Rows that HTSeq adds likewise.
_OF_CELLS = re.compile(
    r"n_?(genes|counts|umis?|features?)(_by_counts|_rna)?|n(Count|Feature)_\w+|n(UMI|Gene)s?|"
    r"total_(counts|umis?|features)\w*|log1p_(n_genes|total)\w*|pct_counts_\w+|"
    r"(percent|pct|perc|frac|fraction)([._ -]?(counts))?[._ -]?(mt|mito\w*|ribo\w*|rb|hb|in_top\w*)\w*|"
    r"leiden\w*|louvain\w*|(seurat_)?clusters?|orig\.ident|batch|sample(_id)?|donor(_id)?|phase|"
    r"s_score|g2m_score|s\.score|g2m\.score|doublet_?scores?|scrublet\w*|library_size|size_?factors?|"
    r"umap_?[12]|tsne_?[12]|pc_?\d+",
    re.IGNORECASE,
)
_OF_GENES = re.compile(
    r"chr|chrom|chromosome(_name)?|seqnames?|start|end|stop|strand|length|gene_?length|width|biotype|gene_?(bio)?type|"
    r"description|entrez(_?id|gene_?id)?|gc(_content)?|start_position|end_position|exon_?length|feature_?length|"
    r"n_cells(_by_counts)?|mean_counts|highly_variable|means|dispersions(_norm)?",
    re.IGNORECASE,
)
_SUMMARY = re.compile(
    r"__(no_feature|ambiguous|too_low_aqual|not_aligned|alignment_not_unique)|N_(unmapped|multimapping|noFeature|ambiguous)",
    re.IGNORECASE,
)


def parse_table(path: Path, where: str):
    """(counts (N, G) csr, genes, cells, {column: values}, note, doubled) of a csv or tsv file, gzip-compressed or not.

    The first row and the first column hold names; which of them are genes is told from how they look. Columns
    that hold words are read as the cell table (rows are cells) or as further gene names (rows are genes).
    """
    header, first, separator, skipped, decimal = _first_lines(path, where)
    if len(first) == len(header) + 1:
        header = ["", *header]  # R writes no name over the row names
    if len(header) != len(first) or len(header) < 2:
        raise Unreadable(
            f"{where}: the first row has {len(header):,} fields, the second {len(first):,}; the first row "
            "must hold the "
            "names of the columns, the first column those of the rows"
        )
    about = [i for i in range(1, len(header)) if _OF_CELLS.fullmatch(header[i]) or _OF_GENES.fullmatch(header[i])]
    words = [i for i in range(1, len(header)) if i in about or not _is_number(first[i], decimal)]
    numeric = sorted(set(range(1, len(header))) - set(words))
    if not numeric:
        raise Unreadable(f"{where}: its second row holds no numbers; is {separator!r} what separates the fields?")
    with bounded.opened(path, where, bounded.longest_of(len(header))) as file:
        counts, rows, table = _numbers_and_words(file, header, numeric, words, (separator, skipped, decimal), where)
    columns = [header[i] for i in numeric]
    texts = {header[i]: table[i] for i in words}
    left_out = ", ".join(header[i] for i in about)
    left_out = f"; {left_out} {'is' if len(about) == 1 else 'are'} no {{}} and left out" if about else ""
    if rows_are_genes(rows, columns):
        genes, found = gene_symbols(rows, texts)
        note = f"table of genes x cells, genes from {found.replace('var_names', 'the first column')}"
        note += left_out.format("cells")
        return canonical(counts.T.tocsr(), where, "the table"), genes, columns, {}, note, beside_ids(found)
    genes, found = gene_symbols(columns)
    note = f"table of cells x genes, genes from {found.replace('var_names', 'the first row')}"
    return counts, genes, rows, texts, note + left_out.format("genes"), beside_ids(found)


def _numbers_and_words(
    file: BinaryIO, header: list[str], numeric: list[int], words: list[int], how: tuple[str, int, str], where: str
) -> tuple[csr_matrix, list[str], dict[int, list]]:
    """What stands below the head of a table: its numbers, the names of its rows, and its columns of words.

    how: what separates the fields, lines of comment before the head, decimal sign.
    """
    import pandas as pd  # only this reader needs it

    chunks = pd.read_csv(
        file,
        sep=how[0] if how[0] != " " else r"\s+",
        header=None,
        names=range(len(header)),
        skiprows=how[1] + 1,
        decimal=how[2],
        dtype=dict.fromkeys(numeric, np.float32) | dict.fromkeys([0, *words], str),
        keep_default_na=True,
        na_filter=True,
        chunksize=max(1, CHUNK_VALUES // len(header)),
        comment=None,
        skip_blank_lines=True,
        low_memory=False,
    )
    rows: list[str] = []
    table: dict[int, list] = {i: [] for i in words}

    def blocks():
        for chunk in chunks:
            chunk = chunk[~chunk[0].astype(str).str.fullmatch(_SUMMARY)]
            rows.extend(as_text(chunk[0].to_numpy(dtype=object)).tolist())
            for i in words:
                table[i].extend(chunk[i].tolist())
            values = chunk[numeric].to_numpy(dtype=np.float32)  # (rows of the chunk, columns)
            yield canonical(sparse(values), where, "the table")

    try:
        counts = stack(blocks(), len(numeric))
    except Unreadable:
        raise
    except DAMAGE as error:
        raise Unreadable(
            f"{where}: not a whole table of numbers ({' '.join(str(error).split())[:150]}); numbers need a "
            "decimal point, "
            "every row the same number of fields"
        ) from error
    return counts, rows, table


def rows_are_genes(rows: list[str], columns: list[str]) -> bool:
    """Whether a table lies as genes x cells; where the names do not tell, it is taken as cells x genes."""

    def score(names: list[str]) -> float:
        some = names[:: max(1, len(names) // 2000)]
        genes = sum(_GENE.match(name) is not None for name in some)
        cells = sum(_CELL.search(name) is not None for name in some)
        known = 0.05 * (kind_of_names(some) in ("symbol", "ensembl_human", "ensembl_mouse"))
        return known + (genes - cells) / max(1, len(some))

    return score(rows) > score(columns)


_DECIMAL_COMMA = re.compile(r"(^|[;\t\"])-?\d+,\d+([;\t\"]|\s*$)")


def _first_lines(path: Path, where: str) -> tuple[list[str], list[str], str, int, str]:
    """Fields of the first two lines, what separates them, the lines of comment before them, the decimal sign."""
    try:
        with bounded.opened(path, where) as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as file:
            skipped, line = 0, file.readline()
            while line.startswith(("#", "%")) and skipped < 1000:  # as featureCounts begins its tables
                skipped, line = skipped + 1, file.readline()
            lines = [line, file.readline()]
            more = [*lines[1:], *(file.readline() for _ in range(100))]
    except Unreadable:
        raise
    except DAMAGE as error:
        raise Unreadable(f"{where}: cannot be read as text ({error}); fetch it again, or save it as UTF-8") from error
    if not lines[1].strip():
        raise Unreadable(
            f"{where}: it has {'one row' if lines[0].strip() else 'no rows'}, nothing to work with; fetch it again"
        )
    separator = _separator(lines)
    if max(line.count(separator) for line in lines) > bounded.MOST:
        raise Unreadable(f"{where}: more than {bounded.MOST:,} fields in a row; fetch it again, or give it as .h5ad")
    decimal = "," if separator in ";\t" and any(_DECIMAL_COMMA.search(line) for line in more) else "."
    if not lines[1].count(separator):
        raise Unreadable(f"{where}: its rows have one field each; separate them by commas or tabs")
    if separator == " ":
        header, first = (line.replace('"', "").split() for line in lines)
    else:
        header, first = (next(csv.reader([line.rstrip("\r\n")], delimiter=separator)) for line in lines)
    return header, first, separator, skipped, decimal


def _separator(lines: list[str]) -> str:
    """What separates the fields: what is as often in the first as in the second line, or once less, and most often."""
    counts = {sign: tuple(line.count(sign) for line in lines) for sign in "\t,; "}
    fitting = [sign for sign, (top, below) in counts.items() if top and 0 <= below - top <= 1]
    return max(fitting or counts, key=lambda sign: counts[sign][1])


def _is_number(text: str, decimal: str = ".") -> bool:
    try:
        float(text.replace(decimal, ".") or "nan")
    except ValueError:
        return False
    return True


def parse_mtx(folder: Path, where: str):
    """(counts (N, G) csr, genes, cells, note) of a folder: matrix.mtx, features or genes.tsv, barcodes.tsv.

    Each may be gzip-compressed and have a prefix (GSM123_matrix.mtx.gz). Features that are not genes are left
    out.
    """
    from scipy.io import mmread  # reads gzip too

    matrix_path, features_path, features, barcodes = _mtx_parts(folder, where)
    try:
        matrix_market(matrix_path, where)
        stored = mmread(matrix_path)
    except Unreadable:
        raise
    except DAMAGE as error:
        words = " ".join(str(error).split())[:150]
        raise Unreadable(
            f"{where}: {matrix_path.name} is not a whole Matrix Market file ({words}); fetch it again"
        ) from error
    shape = stored.shape
    if shape == (len(features), len(barcodes)):
        stored = stored.T
    elif shape != (len(barcodes), len(features)):
        raise Unreadable(
            f"{where}: {matrix_path.name} is {shape[0]:,} x {shape[1]:,}, but there are {len(features):,} "
            "features and "
            f"{len(barcodes):,} barcodes; the three files must be of one run"
        )
    counts = canonical(csr_matrix(stored, dtype=np.float32), where, matrix_path.name)
    note = matrix_path.name
    types = [row[2] if len(row) > 2 else "Gene Expression" for row in features]
    keep, left_out = features_that_are_genes([row[0] for row in features], {"feature_types": types})
    if keep is not None:  # antibodies, guides, peaks
        counts, features = counts[:, keep], [features[i] for i in keep]
        note += f", {left_out}"
    names = [row[1] if len(row) > 1 else row[0] for row in features]
    index = [row[0] for row in features]
    genes, found = gene_symbols(index, {"gene_name": names})
    found = found.replace("var column 'gene_name'", f"the second column of {features_path.name}")
    return counts, genes, ensembl_ids(index), [row[0] for row in barcodes], f"{note}, genes from {found}"


# What else writes a Matrix Market file, and what it calls its parts: matrix, genes, cells.
MTX_FOLDERS = (
    ("cells_x_genes.mtx", ("cells_x_genes.genes.txt",), ("cells_x_genes.barcodes.txt",)),  # kallisto-bustools
    ("cells_x_genes.total.mtx", ("cells_x_genes.genes.txt",), ("cells_x_genes.barcodes.txt",)),
    ("quants_mat.mtx", ("quants_mat_cols.txt",), ("quants_mat_rows.txt",)),  # alevin-fry
    ("count_matrix.mtx", ("all_genes.csv",), ("cell_metadata.csv",)),  # Parse, split-pipe 1
    ("DGE.mtx", ("all_genes.csv", "genes.csv"), ("cell_metadata.csv",)),
)


def _mtx_parts(folder: Path, where: str) -> tuple[Path, Path, list[list[str]], list[list[str]]]:
    """The matrix file, the file of genes, and the rows of the latter (id, symbol, type) and of the cells."""
    for matrix, genes, cells in MTX_FOLDERS:
        if not any((folder / (matrix + end)).exists() for end in ("", ".gz")):
            continue
        paths = [_one_of(folder, names, where) for names in ((matrix,), genes, cells)]
        features, barcodes = (_csv(path, where) if ".csv" in path.name else _tsv(path, where) for path in paths[1:])
        symbols = folder / "cells_x_genes.genes.names.txt"
        if symbols.exists() and len(spoken := _tsv(symbols, where)) == len(features):
            features = [[row[0], name[0]] for row, name in zip(features, spoken, strict=True)]
        return paths[0], paths[1], [row[:2] for row in features], barcodes
    matrix_path = _one_of(folder, ("matrix.mtx",), where)
    prefix = matrix_path.name[: matrix_path.name.index("matrix.mtx")]
    features_path = _one_of(folder, (prefix + "features.tsv", prefix + "genes.tsv"), where)
    barcodes_path = _one_of(folder, (prefix + "barcodes.tsv",), where)
    return matrix_path, features_path, _tsv(features_path, where), _tsv(barcodes_path, where)


def _csv(path: Path, where: str) -> list[list[str]]:
    """The rows of a .csv below its head."""
    return [next(csv.reader(["\t".join(row)])) for row in _tsv(path, where)[1:]]


def has_mtx(folder: Path) -> bool:
    """Whether a folder holds a matrix.mtx, compressed, prefixed or not, or what MTX_FOLDERS knows."""
    names = ["*matrix.mtx", *(matrix for matrix, _, _ in MTX_FOLDERS)]
    return any(any(folder.glob(name + end)) for name in names for end in ("", ".gz"))


def _one_of(folder: Path, names: tuple[str, ...], where: str) -> Path:
    found = [folder / (name + end) for name in names for end in ("", ".gz") if (folder / (name + end)).exists()]
    if not found and names == ("matrix.mtx",):
        found = sorted([*folder.glob("*matrix.mtx"), *folder.glob("*matrix.mtx.gz")])
        if len(found) > 1:
            some = ", ".join(path.name for path in found[:3])
            raise Unreadable(
                f"{where}: several matrices ({some}); put each with its two tables into a folder of its own"
            )
    if not found:
        raise Unreadable(
            f"{where}: no {' or '.join(names)} (or .gz); the folder needs matrix.mtx, features.tsv (or "
            "genes.tsv) and "
            "barcodes.tsv, as 10x writes them"
        )
    return found[0]


def _tsv(path: Path, where: str) -> list[list[str]]:
    try:
        return [line.split("\t") for line in bounded.lines(path, where) if line.strip()]
    except Unreadable:
        raise
    except DAMAGE as error:
        raise Unreadable(f"{where}: {path.name} cannot be read ({error}); fetch it again") from error
