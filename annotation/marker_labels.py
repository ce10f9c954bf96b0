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
HALVES = 20  # times that half of every list is asked
HALVED = 4  # genes of a list at least, for its halves to confirm each other
CONFIRMED = 0.5  # share of the halves; between .4 and .6 nothing changes
SUREST = 0.25  # share of the cells that one half calls a type by which the other half is judged: a rare type's few
CLEARLY, CERTAIN = 0.1, 0.9  # by so much more than where genes are shuffled; from this share on, whatever they do
LEAST_SEEDS = 3  # sure cells of a type; fewer: the evidence is too thin
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


def seeds(values: csr_matrix, signs: np.ndarray, near: np.ndarray, seed: int) -> np.ndarray:
    """The sure cells of each type: labels (M,), -1 for all other cells.

    values (M, C): log1p of the markers; signs (L, C); near (M, K) of each cell, itself first. A cell's type is that
    whose markers, each in standard deviations, it and its neighbours express most. Of every list only half is asked,
    HALVES times: a sure cell comes out the same in most of them, and expresses one of the markers itself. A type has
    sure cells only where the two halves of its list confirm each other: those of a type that is not there do not.
    """
    dense = values.toarray().astype(np.float32)  # (M, C)
    signs = signs * (dense > dense.min(axis=0)).any(axis=0)  # a gene that no cell differs in says nothing
    z = (dense - dense.mean(axis=0)) / np.maximum(dense.std(axis=0), 1e-9)
    around = z[near].mean(axis=1)  # (M, C)
    score = of_list(around, signs)  # (M, L)
    first = score.argmax(axis=1)
    rng = np.random.default_rng(seed)
    again, confirmed = asked_by_halves(around, signs, score, rng)
    least = CONFIRMED
    for _ in range(SHUFFLES):  # of two or three types one half says by chance what the other says
        shuffled = np.column_stack([rng.permutation(x) for x in z.T])[near].mean(axis=1)
        least = max(least, asked_by_halves(shuffled, signs, of_list(shuffled, signs), rng)[1].max() + CLEARLY)
    short = (signs > 0).sum(axis=1) < HALVED  # such a list's halves are hardly two opinions
    fit = np.where(short, beyond_chance(expressed(values), signs, near, first, seed), confirmed >= min(least, CERTAIN))
    there = [k for k in np.flatnonzero(fit) if (first == k).sum() >= LEAST_SEEDS]
    labels = np.full(len(score), -1)
    if not there:
        return labels
    first = np.array(there)[score[:, there].argmax(axis=1)]
    for k in there:
        rows = np.flatnonzero((first == k) & (again[:, k] >= CONFIRMED) & ((dense > 0) @ (signs[k] > 0)))
        if len(rows) >= LEAST_SEEDS:
            labels[rows] = k
    return labels


def asked_by_halves(
    around: np.ndarray, signs: np.ndarray, score: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """What halves of the lists say: the share of them by which each type comes first in a cell (M, L), and (L,) the
    share of the cells that one half calls a type most surely and of which the other half says the same.
    """
    others = np.stack([np.delete(score, k, axis=1).max(axis=1) for k in range(len(signs))], axis=1)  # (M, L)
    again, same = np.zeros_like(score), np.zeros((HALVES, len(signs)))
    for draw in range(HALVES):
        half = half_of(signs, rng)
        one, other = of_list(around, half) - others, of_list(around, signs - half) - others  # (M, L) how far ahead
        first = of_list(around, half).argmax(axis=1)
        again[np.arange(len(first)), first] += 1 / HALVES
        for k in range(len(signs)):
            rows = np.flatnonzero(one[:, k] > 0)
            rows = rows[np.argsort(-one[rows, k], kind="stable")][: max(LEAST_SEEDS, int(SUREST * len(rows)))]
            same[draw, k] = (other[rows, k] > 0).mean() if len(rows) >= LEAST_SEEDS else 0
    return again, np.median(same, axis=0)


def of_list(around: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """The mean of each type's markers (M, L), those against it negative; a type without a gene comes last."""
    score = around @ (signs / np.maximum(np.abs(signs).sum(axis=1, keepdims=True), 1)).T.astype(np.float32)
    score[:, ~(signs > 0).any(axis=1)] = -1e9  # below all others, and a number that can be subtracted
    return score


def half_of(signs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of each type's markers by chance (L, C), at least one."""
    kept = np.zeros_like(signs)
    for k, mine in enumerate(signs):
        genes = rng.permutation(np.flatnonzero(mine))
        genes = genes[: (len(genes) + 1) // 2]
        kept[k, genes] = mine[genes]
    return kept


def beyond_chance(level: np.ndarray, signs: np.ndarray, near: np.ndarray, first: np.ndarray, seed: int) -> np.ndarray:
    """Whether cells of each type (L,) score more than any cell does where every gene is shuffled over the cells.

    level (M, C) as `expressed` gives it; first (M,) the type of each cell. Of genes that many cells express shuffles
    make high scores too: many cells beyond a usual one will do. A list of one gene has no other evidence.
    """
    weights = weights_of(signs)
    score = level[near].mean(axis=1) @ weights.T  # (M, L)
    highest, usual = chance(level, weights, near, seed)
    found = np.zeros(len(signs), dtype=bool)
    for k in range(len(signs)):
        mine = score[first == k, k]
        found[k] = (mine > highest[k]).sum() >= LEAST_SEEDS or (mine > usual[k]).sum() > MANY * len(score)
    return found


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
