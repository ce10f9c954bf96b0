"""From marker genes to a few sure cells of each type: which genes a file lists, how cells express them, who is sure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from annotation.given_labels import rows_of, some
from reading.source import Source
from voice import log

TYPE_NAMES = ("type", "cell_type", "celltype", "cellname", "cell_name")
GENE_NAMES = ("gene", "marker", "symbol", "gene_symbol", "genesymbol", "names")
SIGN_NAMES = ("sign", "direction")
POSITIVE, NEGATIVE = (
    ("+", "1", "+1", "1.0", "positive", "pos", "up", "yes"),
    ("-", "-1", "-1.0", "negative", "neg", "down"),
)
SCTYPE = ("cellname", "genesymbolmore1", "genesymbolmore2")  # columns of its table
OWN_SPECIES = 0.3  # share of a list's genes that a dataset of the same species has, however few genes it has
FULL = 99.0  # percentile of the cells that express a gene: all of what it can do
SEEDS = 60  # sure cells of a type at most
LEAST_SEEDS = 3  # fewer: the evidence is too thin
SHARE = 0.7  # of the cells that look most like a type, so many may be seeds
SHUFFLES = 5  # of every gene over the cells: what a type scores then by chance is no evidence
CHANCE, MANY = 99.0, 0.03  # percentile of these scores: more than this share of cells beyond it are evidence too


@dataclass(frozen=True)
class Markers:
    """Which genes speak for each type (+1), or against it (-1); and how else a gene may be spelled, in capitals."""

    path: Path
    genes: dict[str, dict[str, int]]  # type -> {gene as written: sign}
    spellings: dict[str, tuple[str, ...]]

    @property
    def types(self) -> list[str]:
        return sorted(self.genes)


# -- reading ----------------------------------------------------------------
def read(path: Path, orthologs: Mapping[str, str]) -> Markers:
    """A table of marker genes: type,gene[,sign]; genes x types of 0 and 1; or scType's positive and negative lists.

    orthologs: human -> mouse symbol, in capitals. Raises ValueError, or FileNotFoundError, with what to do.
    """
    path = Path(path)
    (head, *rows), _ = rows_of(path, "marker genes")
    for row in rows:
        if len(row) != len(head):
            raise ValueError(
                f"{path}: the row of {some(row[:1])!r} has {len(row)} values and the first row {len(head)}; a value "
                "that holds a comma must stand in quotes"
            )
    names = [name.strip().lower() for name in head]
    genes: dict[str, dict[str, int]] = {}
    if {*SCTYPE[:2]} <= set(names):
        triples = of_sctype(names, rows)
    elif kind := next((name for name in TYPE_NAMES if name in names), None):
        triples = of_rows(path, names, rows, names.index(kind))
    else:
        triples = of_wide(path, head, rows)
    for kind, gene, sign in triples:
        if kind and gene:
            genes.setdefault(kind, {})[gene] = sign
    if len(genes) < 2:
        only = f"only one type, {next(iter(genes))!r}," if genes else "no type"
        raise ValueError(f"{path}: {only} with marker genes in it, and two are needed to tell cells apart")
    back: dict[str, list[str]] = {}
    for human, mouse in orthologs.items():
        back.setdefault(mouse.upper(), []).append(human.upper())
    spellings = {}
    for gene in {gene for listed in genes.values() for gene in listed}:
        upper = gene.upper()
        other = orthologs.get(upper)
        spellings[gene] = tuple(dict.fromkeys([upper, *([other.upper()] if other else []), *back.get(upper, [])]))
    return Markers(path, genes, spellings)


def of_rows(path: Path, names: Sequence[str], rows: Sequence[Sequence[str]], kind: int) -> list[tuple[str, str, int]]:
    """type,gene[,sign]: a gene, or several with commas between, a row."""
    gene = next((names.index(name) for name in GENE_NAMES if name in names), None)
    if gene is None:
        raise ValueError(
            f"{path}: no column of genes; its columns are {some(names)}. The first row must be type,gene or "
            "type,gene,sign, or name the types beside a first column of genes"
        )
    sign = next((names.index(name) for name in SIGN_NAMES if name in names), None)
    found = []
    for row in rows:
        word = row[sign].strip().lower() if sign is not None else ""
        if word and word not in (*POSITIVE, *NEGATIVE):
            raise ValueError(f"{path}: the sign of {row[kind]}, {row[gene]} is {word!r}; it must be + or -")
        found += [(row[kind].strip(), one, -1 if word in NEGATIVE else 1) for one in listed(row[gene])]
    return found


def of_sctype(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[tuple[str, str, int]]:
    """A row a type, with a list of genes for it and one of genes against it."""
    found = []
    for row in rows:
        kind = row[names.index(SCTYPE[0])].strip()
        for column, sign in ((SCTYPE[1], 1), (SCTYPE[2], -1)):
            if column in names:
                found += [(kind, gene, sign) for gene in listed(row[names.index(column)])]
    return found


def of_wide(path: Path, head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[tuple[str, str, int]]:
    """Genes in the first column, a column a type, 1 where the gene speaks for it, 0 where it says nothing."""
    found = []
    for gene, *values in rows:
        for kind, value in zip(head[1:], values, strict=True):
            value = value.strip().lower()
            if value not in (*POSITIVE, *NEGATIVE, "0", "0.0", "", "no"):
                raise ValueError(
                    f"{path}: neither type,gene[,sign] nor a table of genes x types: {gene}, {kind} is {value!r}, not "
                    "0 or 1. Name the first columns type,gene"
                )
            if value in (*POSITIVE, *NEGATIVE):
                found.append((kind.strip(), gene.strip(), 1 if value in POSITIVE else -1))
    return found


def listed(text: str) -> list[str]:
    """The genes of a cell of a table: CD3D, or CD3D,CD3E."""
    return [gene for gene in re.split(r"[,;\s]+", text.strip()) if gene and gene.lower() not in ("nan", "na")]


# -- on the cells ----------------------------------------------------------------
def columns_of(markers: Markers, source: Source) -> dict[str, int | None]:
    """The column of the dataset that each gene is; None for a gene that is not measured."""
    place: dict[str, int] = {}
    for names in (source.genes, [name.upper() for name in source.spelled()]):  # a dataset's own spelling goes first
        place |= {name: column for column, name in reversed(list(enumerate(names)))}
    return {
        gene: next((place[name] for name in names if name in place), None) for gene, names in markers.spellings.items()
    }


def of_another_species(markers: Markers, source: Source) -> bool:
    """Whether so few genes are measured that their names seem to be those of another species."""
    column = columns_of(markers, source)
    return sum(where is not None for where in column.values()) < OWN_SPECIES * len(column)


def measured(markers: Markers, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """The columns (C,) of the dataset that are markers, and the sign of each for each type (L, C).

    Names the genes that are not measured; ValueError where none is, or fewer than two types have a gene left.
    """
    column = columns_of(markers, source)
    lost = sorted(gene for gene, where in column.items() if where is None)
    if len(lost) == len(column):
        raise ValueError(
            f"{markers.path}: none of its {len(lost):,} genes ({some(lost)}) is measured in {source.where}, whose "
            f"genes are called {some(source.spelled())}; markers must be gene symbols of this species or of one with "
            "orthologs"
        )
    if lost:
        log.info(f"{markers.path}: {len(lost):,} of its {len(column):,} genes are not measured: {some(lost, 20)}")
    columns = np.array(sorted({where for where in column.values() if where is not None}), dtype=int)
    signs = np.zeros((len(markers.types), len(columns)))
    for k, kind in enumerate(markers.types):
        for gene, sign in markers.genes[kind].items():
            if column[gene] is not None:
                signs[k, np.searchsorted(columns, column[gene])] = sign
    return columns, signs


def scores(values: csr_matrix, signs: np.ndarray, near: np.ndarray) -> np.ndarray:
    """How fully each cell and its neighbours (M, K) express the markers of each type: (M, L), -1 to 1.

    values (M, C): log1p of the markers, each then over the most that cells express of it; a gene of several types
    counts less. signs (L, C).
    """
    return expressed(values)[near].mean(axis=1) @ weights_of(signs).T


def expressed(values: csr_matrix) -> np.ndarray:
    """Each gene over the most that cells express of it, (M, C) from 0 to 1."""
    dense = values.toarray()
    most = np.array([np.percentile(x[x > 0], FULL) if (x > 0).any() else 1.0 for x in dense.T])
    return np.minimum(dense / most, 1.0).astype(np.float32)


def weights_of(signs: np.ndarray) -> np.ndarray:
    """What each gene counts for each type (L, C): little where many types have it; a type's positive ones sum to 1."""
    weights = signs / np.maximum(np.abs(signs).sum(axis=0), 1)
    return weights / np.maximum((weights * (signs > 0)).sum(axis=1, keepdims=True), 1e-12)


def seeds(
    values: csr_matrix, signs: np.ndarray, near: np.ndarray, seed: int, most: int = SEEDS
) -> tuple[np.ndarray, np.ndarray]:
    """A few sure cells of each type: labels (M,), -1 for all other cells; and the scores (M, L).

    A seed looks more like its type than like any other, more so than by chance (every gene shuffled over the cells),
    and expresses one of the markers itself. A type with hardly such a cell has none.
    """
    level, weights = expressed(values), weights_of(signs)
    score = level[near].mean(axis=1) @ weights.T  # (M, L)
    highest, usual = chance(level, weights, near, seed)
    relative = score - score.mean(axis=0)
    first = relative.argmax(axis=1)
    margin = relative[np.arange(len(score)), first] - np.partition(relative, -2, axis=1)[:, -2]
    own = (level > 0) @ (signs > 0).T  # (M, L) markers the cell itself expresses
    labels = np.full(len(score), -1)
    for k in range(len(signs)):
        mine = (first == k) & (own[:, k] > 0)
        rows = np.flatnonzero(mine & (score[:, k] > highest[k]))
        if len(rows) < LEAST_SEEDS:  # of a gene that many cells express shuffles make high scores too
            rows = np.flatnonzero(mine & (score[:, k] > usual[k]))
            rows = rows if len(rows) > MANY * len(score) else rows[:0]
        rows = rows[np.argsort(-margin[rows], kind="stable")]
        rows = rows[: max(LEAST_SEEDS, int(SHARE * len(rows)))]
        rows = spread(rows, most)
        if len(rows) >= LEAST_SEEDS:
            labels[rows] = k
    return labels, score


def spread(rows: np.ndarray, most: int) -> np.ndarray:
    """`most` of the rows, evenly from the first to the last: the surest alone are one corner of their type.

    Learnt from such a corner, the rest of a type is called something else (other donors, other technologies).
    """
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(int)]


def chance(level: np.ndarray, weights: np.ndarray, near: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What each type scores (L,) where genes are shuffled over the cells: the highest, and a usual high one."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(SHUFFLES):
        shuffled = np.column_stack([rng.permutation(x) for x in level.T])
        found.append(shuffled[near].mean(axis=1) @ weights.T)
    return np.max(found, axis=(0, 1)), np.percentile(np.concatenate(found), CHANCE, axis=0)


def proposals(score: np.ndarray, of: np.ndarray, types: Sequence[str]) -> pd.DataFrame:
    """The type that each group's markers speak for most: a row a group with proposed ("" for none) and score.

    score (M, L); of (M,) the group of each cell.
    """
    relative = score - score.mean(axis=0)
    rows = []
    for k in range(of.max() + 1):
        mine = relative[of == k].mean(axis=0) if (of == k).any() else np.zeros(len(types))
        best = int(mine.argmax())
        rows.append((types[best], float(score[of == k, best].mean())) if mine[best] > 0 else ("", float("nan")))
    return pd.DataFrame(rows, columns=["proposed", "score"])
