"""Gene symbols of two species in one spelling, the genes datasets share, columns in a given order."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from reading.guard import DAMAGE, regular
from reading.names import mangled

ORTHOLOG_FILE = "ncbi_mgi_ensembl__mouse-lemur_human_mouse__orthologs__gene_names__one2one.csv"
ORTHOLOG_URL = f"https://raw.githubusercontent.com/ruiyi-zhang/scPretrain/main/dataset/{ORTHOLOG_FILE}"
HUMAN_COLUMN, MOUSE_COLUMN = "human__gene_name", "mouse__gene_name"


def read_orthologs(path: Path) -> dict[str, str]:
    """Human symbol -> mouse symbol, both upper-cased, from the one-to-one table.

    Raises ValueError where the file lacks one of the two columns or holds no pair.
    """
    again = "delete the file to have it downloaded again"
    regular(path, str(path))
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            names, lines = set(rows.fieldnames or ()), list(rows)
    except FileNotFoundError:
        raise
    except DAMAGE as error:
        raise ValueError(f"{path}: the ortholog table cannot be read ({error}); {again}") from error
    if missing := {HUMAN_COLUMN, MOUSE_COLUMN} - names:
        raise ValueError(f"{path}: the ortholog table has no column {', '.join(sorted(missing))}; {again}")
    if any(row[HUMAN_COLUMN] is None or row[MOUSE_COLUMN] is None for row in lines):
        raise ValueError(f"{path}: the ortholog table ends too early, or a line of it does; {again}")
    pairs = {row[HUMAN_COLUMN].upper(): row[MOUSE_COLUMN].upper() for row in lines if row[HUMAN_COLUMN]}
    if not pairs:
        raise ValueError(f"{path}: the ortholog table is empty; {again}")
    return pairs


def shared_names(genes: Sequence[str], species: str, orthologs: Mapping[str, str]) -> list[str]:
    """Upper-cased mouse symbols for the genes of one dataset; "" for a column that an earlier one already gives.

    A name that a spreadsheet has made a date of counts for none. A symbol listed twice counts once, its first column
    (as published). A human gene named like the ortholog of
    another one gives way to it: the table knows better than the spelling.
    """
    dates = mangled(genes)
    upper = ["" if gene in dates else gene.upper() for gene in genes]
    if species != "human":
        return _first_only(upper)
    mapped = [orthologs.get(gene, gene) for gene in upper]
    from_table = {orthologs[gene] for gene in upper if gene in orthologs}
    clear = [
        "" if name in from_table and gene not in orthologs else name for gene, name in zip(upper, mapped, strict=True)
    ]
    return _first_only(clear)


def _first_only(names: list[str]) -> list[str]:
    seen: set[str] = set()
    return ["" if name in seen else (seen.add(name) or name) for name in names]


def vocabulary(names: Sequence[Sequence[str]], species: Sequence[str]) -> list[str]:
    """Sorted genes the corpus shares: in any mouse and in any human dataset (as published).

    With one species only, or one dataset only: the genes of at least two datasets, or of the one.
    """
    by_species: dict[str, set[str]] = {}
    for dataset, kind in zip(names, species, strict=True):
        by_species.setdefault(kind, set()).update(dataset)
    if len(by_species) > 1:
        shared = set.intersection(*by_species.values())
    else:
        found_in = Counter(gene for dataset in names for gene in set(dataset))
        shared = {gene for gene, count in found_in.items() if count >= min(2, len(names))}
    return sorted(shared - {""})


def align(counts: csr_matrix, names: Sequence[str], wanted: Sequence[str]) -> csr_matrix:
    """The columns of `counts` (N, G) in the order `wanted`, (N, len(wanted)); a missing gene is a zero column."""
    column_of = {name: column for column, name in enumerate(names) if name}
    target = np.array([place for place, gene in enumerate(wanted) if gene in column_of], dtype=np.int32)
    source = np.array([column_of[wanted[place]] for place in target], dtype=np.int32)
    taken = counts[:, source]  # (N, genes found): sparse, in the order of `wanted`
    return csr_matrix((taken.data, target[taken.indices], taken.indptr), shape=(counts.shape[0], len(wanted)))


def overlap(names: Sequence[str], wanted: Sequence[str]) -> int:
    """How many of the `wanted` genes are among `names`."""
    return len(set(names) & set(wanted))
