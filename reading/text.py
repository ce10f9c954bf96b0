"""Text files of cells: a table (csv, tsv) in either orientation, and 10x's folder with matrix.mtx."""

from __future__ import annotations

import csv
import gzip
import re
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from reading.hdf5 import beside_ids
from reading.matrix import Unreadable, canonical, sparse, stack
from reading.names import as_text, ensembl_ids, gene_symbols, kind_of_names

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


def parse_table(path: Path, where: str):
    """(counts (N, G) csr, genes, cells, {column: values}, note, doubled) of a csv or tsv file, gzip-compressed or not.

    The first row and the first column hold names; which of them are genes is told from how they look. Columns
    that hold words are read as the cell table (rows are cells) or as further gene names (rows are genes).
    """
    import pandas as pd  # only this reader needs it

    header, first, separator = _first_lines(path, where)
    if len(first) == len(header) + 1:
        header = ["", *header]  # R writes no name over the row names
    if len(header) != len(first) or len(header) < 2:
        raise Unreadable(
            f"{where}: the first row has {len(header):,} fields, the second {len(first):,}; the first row "
            "must hold the "
            "names of the columns, the first column those of the rows"
        )
    numeric = [i for i in range(1, len(header)) if _is_number(first[i])]
    words = [i for i in range(1, len(header)) if not _is_number(first[i])]
    if not numeric:
        raise Unreadable(f"{where}: its second row holds no numbers; is {separator!r} what separates the fields?")
    chunks = pd.read_csv(
        path,
        sep=separator if separator != " " else r"\s+",
        header=None,
        names=range(len(header)),
        skiprows=1,
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
            rows.extend(as_text(chunk[0].to_numpy(dtype=object)).tolist())
            for i in words:
                table[i].extend(chunk[i].tolist())
            values = chunk[numeric].to_numpy(dtype=np.float32)  # (rows of the chunk, columns)
            yield canonical(sparse(values), where, "the table")

    try:
        counts = stack(blocks(), len(numeric))
    except Unreadable:
        raise
    except (ValueError, OverflowError, OSError, EOFError) as error:
        raise Unreadable(
            f"{where}: not a whole table of numbers ({' '.join(str(error).split())[:150]}); numbers need a "
            "decimal point, "
            "every row the same number of fields"
        ) from error
    columns = [header[i] for i in numeric]
    texts = {header[i]: table[i] for i in words}
    if rows_are_genes(rows, columns):
        genes, found = gene_symbols(rows, texts)
        note = f"table of genes x cells, genes from {found.replace('var_names', 'the first column')}"
        return canonical(counts.T.tocsr(), where, "the table"), genes, columns, {}, note, beside_ids(found)
    genes, found = gene_symbols(columns)
    note = f"table of cells x genes, genes from {found.replace('var_names', 'the first row')}"
    return counts, genes, rows, texts, note, beside_ids(found)


def rows_are_genes(rows: list[str], columns: list[str]) -> bool:
    """Whether a table lies as genes x cells; where the names do not tell, it is taken as cells x genes."""

    def score(names: list[str]) -> float:
        some = names[:: max(1, len(names) // 2000)]
        genes = sum(_GENE.match(name) is not None for name in some)
        cells = sum(_CELL.search(name) is not None for name in some)
        known = 0.05 * (kind_of_names(some) in ("symbol", "ensembl_human", "ensembl_mouse"))
        return known + (genes - cells) / max(1, len(some))

    return score(rows) > score(columns)


def _first_lines(path: Path, where: str) -> tuple[list[str], list[str], str]:
    """Fields of the first two lines, and what separates them."""
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    try:
        with (gzip.open if zipped else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
            lines = [file.readline(), file.readline()]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise Unreadable(f"{where}: cannot be read as text ({error}); fetch it again, or save it as UTF-8") from error
    if not lines[1].strip():
        raise Unreadable(
            f"{where}: it has {'one row' if lines[0].strip() else 'no rows'}, nothing to work with; fetch it again"
        )
    separator = max("\t,; ", key=lines[1].count)
    if not lines[1].count(separator):
        raise Unreadable(f"{where}: its rows have one field each; separate them by commas or tabs")
    if separator == " ":
        return *(line.replace('"', "").split() for line in lines), separator
    header, first = (next(csv.reader([line.rstrip("\r\n")], delimiter=separator)) for line in lines)
    return header, first, separator


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True


def parse_mtx(folder: Path, where: str):
    """(counts (N, G) csr, genes, cells, note) of a folder: matrix.mtx, features or genes.tsv, barcodes.tsv.

    Each may be gzip-compressed and have a prefix (GSM123_matrix.mtx.gz). Features that are not genes are left
    out.
    """
    from scipy.io import mmread  # reads gzip too

    matrix_path = _one_of(folder, ("matrix.mtx",), where)
    prefix = matrix_path.name[: matrix_path.name.index("matrix.mtx")]
    features_path = _one_of(folder, (prefix + "features.tsv", prefix + "genes.tsv"), where)
    barcodes_path = _one_of(folder, (prefix + "barcodes.tsv",), where)
    features, barcodes = _tsv(features_path, where), _tsv(barcodes_path, where)
    try:
        stored = mmread(matrix_path)
    except (ValueError, OSError, EOFError, OverflowError) as error:
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
    types = np.array([row[2] if len(row) > 2 else "Gene Expression" for row in features])
    if "Gene Expression" in types and (types != "Gene Expression").any():  # antibodies, guides
        keep = np.flatnonzero(types == "Gene Expression")
        counts, features = counts[:, keep], [features[i] for i in keep]
        note += f", {len(types) - len(keep):,} features that are not genes left out"
    names = [row[1] if len(row) > 1 else row[0] for row in features]
    index = [row[0] for row in features]
    genes, found = gene_symbols(index, {"gene_name": names})
    found = found.replace("var column 'gene_name'", f"the second column of {features_path.name}")
    return counts, genes, ensembl_ids(index), [row[0] for row in barcodes], f"{note}, genes from {found}"


def has_mtx(folder: Path) -> bool:
    """Whether a folder holds a matrix.mtx, compressed, prefixed or not."""
    return any(folder.glob("*matrix.mtx")) or any(folder.glob("*matrix.mtx.gz"))


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
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            return [line.rstrip("\r\n").split("\t") for line in file if line.strip()]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise Unreadable(f"{where}: {path.name} cannot be read ({error}); fetch it again") from error
