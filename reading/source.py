"""One dataset to annotate or to learn from: what its file holds is decided once, then it is read as log1p by rows."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, vstack

from reading import align, normalize
from reading.cells import (
    Cells,
    RowBlocks,
    Unreadable,
    kind_of_names,
    layout_of,
    matrices,
    open_rows,
    species_from_case,
)
from reading.names import mangled, no_types, other_species
from voice import log

KINDS = {
    "symbol": "gene symbols",
    "ensembl_human": "human Ensembl ids",
    "ensembl_mouse": "mouse Ensembl ids",
    "entrez": "Entrez ids",
    "probe/other": "names that are neither symbols nor Ensembl ids",
}
LOW_OVERLAP, LEAST_OVERLAP = 0.5, 0.1  # share of the checkpoint's genes: below it a warning, a refusal
SURE_OF_SPECIES = 0.8  # share of telling names that must agree before a flag is doubted
NEARBY = 64  # rows whose distance in the file is smaller are read in one go


@dataclass
class Source:
    """A dataset that is read by rows: genes in the shared spelling, values as log1p of 10,000 counts a cell."""

    rows: RowBlocks
    values: normalize.Values
    matrix: str  # where in the file the values are: "X", ".raw", "layers['counts']"
    species: str
    kind: str  # of gene names, a key of KINDS
    genes: list[str]  # shared names of the columns in use
    columns: np.ndarray = field(repr=False)  # (len(genes),) their places in the file
    warnings: list[str] = field(default_factory=list)
    told: str = ""  # what told the species

    @property
    def name(self) -> str:
        return self.rows.name

    @property
    def where(self) -> str:
        return self.rows.where

    def __len__(self) -> int:
        return self.rows.n_cells

    def kind_of_genes(self) -> str:
        """What its gene names are, in words."""
        return f"{self.species} {KINDS[self.kind]}" if self.kind in ("symbol", "entrez") else KINDS[self.kind]

    def spelled(self) -> list[str]:
        """The genes in use as the file spells them."""
        return [self.rows.genes[column] for column in self.columns]

    def log(self, counts: csr_matrix) -> tuple[csr_matrix, np.ndarray]:
        """A block as it was read -> (log1p (B, G) of the columns in use, which cells hold no count (B,) bool)."""
        try:
            values = normalize.to_log1p(counts, self.values)
        except ValueError as error:
            raise Unreadable(f"{self.where}: {error}") from None
        empty = np.asarray(counts.sum(axis=1)).ravel() == 0
        return self._used(values), empty

    def plain(self, counts: csr_matrix) -> csr_matrix:
        """log1p of raw counts, not scaled, as the paper recipe's encoder saw cells; `log` where they are not counts."""
        return self._used(counts.log1p()) if self.values.kind == "counts" else self.log(counts)[0]

    def _used(self, values: csr_matrix) -> csr_matrix:
        return values if len(self.columns) == values.shape[1] else values[:, self.columns]

    def take(self, wanted: np.ndarray) -> csr_matrix:
        """The cells `wanted` (M,), rising, as the file holds them; neighbours in the file are read together."""
        if not len(wanted):
            return csr_matrix((0, self.rows.n_genes), dtype=np.float32)
        parts = []
        for run in np.split(wanted, np.flatnonzero(np.diff(wanted) > NEARBY) + 1):
            for piece in np.split(run, range(4096, len(run), 4096)):
                first = int(piece[0])
                block = self.rows.rows(first, int(piece[-1]) + 1)
                parts.append(block[piece - first] if len(piece) < block.shape[0] else block)
        return vstack(parts, format="csr")

    def labels(self, key: str | None, unlabeled: Sequence[str] = ()) -> np.ndarray | None:  # (N,) object
        """Cell types as text, "" for a cell without one; None where there is no such column.

        A label that says that there is none (unassigned, doublet, "?") counts as none, and a warning lists those that
        `unlabeled` does not name.
        """
        labels = self.rows.labels(key)
        if labels is None:
            return None
        told = [str(word).strip() for word in unlabeled]
        words = [word for word in no_types(labels) if word not in told]
        if words:
            count, listed = np.isin(labels.astype(str), words).sum(), ", ".join(map(repr, words))
            sentence = (
                f"{self.name}: {count:,} cells are labelled {listed}, which is taken for no label; say so with "
                f"--unlabeled {shlex.join([*told, *words])}, or rename the label if it is a type"
            )
            if sentence not in self.warnings:
                self.warnings.append(sentence)
        return np.where(np.isin(labels.astype(str), [*told, *words]), "", labels)


@contextmanager
def open_source(path: Path, table: Mapping[str, str], **how) -> Iterator[Source]:
    """Open a file of any format that reading.cells knows; `how` as `decide`, and layer: the matrix to use.

    modality: of an .h5mu. like: datasets opened before; their species chooses between the genomes of a file with two.

    Raises ValueError or OSError naming the file, and what to do.
    """
    path = Path(path)
    layer, values, like = how.pop("layer", None), how.get("values"), how.pop("like", ())
    modality = how.pop("modality", None)
    choices = matrices(path, modality)
    species = {source.species for source in like}
    which = {"genome": how.get("species") or (species.pop() if len(species) == 1 else None), "modality": modality}
    if layer is not None:
        words = next((w for w in choices if layer in (w, w.lstrip("."), w[len("layers['") : -2])), None)
        if words is None:
            raise ValueError(f"{path}: there is no matrix {layer!r} in it; it has {', '.join(choices)}")
        choices = {words: choices[words]}
    elif values is not None:  # said, not found out: then it is about X
        choices = {"X": choices["X"]} if "X" in choices else choices
    samples, refused = {}, []
    for words, matrix in choices.items():
        try:
            with open_rows(path, **which, **matrix) as rows:
                samples[words] = rows.sample(500)
        except Unreadable as error:
            if len(choices) == 1:
                raise
            refused.append(str(error))
    if not samples:
        raise ValueError("; ".join(refused))
    words, found = choose(samples, values, str(path))
    with open_rows(path, **which, **choices[words]) as rows:
        yield decide(rows, words, found, table, **how)


def in_memory(cells: Cells, table: Mapping[str, str], matrix: str, found: normalize.Values, **how) -> Source:
    """A dataset that is in memory already, as a notebook has it."""
    return decide(RowBlocks(cells.name, cells.path, layout_of(cells)), matrix, found, table, **how)


def choose(samples: Mapping[str, csr_matrix], values: str | None, where: str) -> tuple[str, normalize.Values]:
    """Which of the matrices to use and what it holds; `values` is what the user says it holds."""
    try:
        if values is None:
            return normalize.choose(samples)
        words = next(iter(samples))
        normalize.refuse(samples[words], words)
        return words, normalize.values_named(values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def decide(
    rows: RowBlocks,
    matrix: str,
    found: normalize.Values,
    table: Mapping[str, str],
    *,
    species: str | None = None,
    values: str | None = None,
    force: bool = False,
) -> Source:
    """What a dataset is: species, kind of names, shared genes, scale; says so, and what is doubtful.

    table: human symbol -> mouse symbol. species: what the user says it is. force: go on with doubtful gene names.
    Raises ValueError for names nothing can be done with.
    """
    source = look(rows, table, species=species, force=force)
    source.values, source.matrix = found, matrix
    if found.doubt:
        source.warnings.append(
            f"{rows.name}: {matrix} is taken for {found.what()}; {found.doubt}. Raw counts do better; --values and "
            "--layer say what to use"
        )
    log.info(f"{rows.name}: {rows.n_cells:,} cells x {rows.n_genes:,} genes; {found.describe(matrix)}")
    log.info(f"{rows.name}: {source.kind_of_genes()} ({source.told}); {rows.note}")
    return source


def look(rows: RowBlocks, table: Mapping[str, str], *, species: str | None, force: bool) -> Source:
    """Species and genes of a dataset, the same for a corpus and for annotate; its values are not looked at.

    Raises ValueError for names nothing can be done with, unless `force`; what is doubtful is among the warnings.
    """
    genes = rows.genes
    kind = kind_of_names(genes)
    told, share, why = species_of(genes, table)
    how = "as you say" if species else f"from {why}, {share:.0%} agree" if share > 0.5 else "a guess, nothing tells"
    source = Source(rows, normalize.Values("counts"), "X", species or told, kind, [], np.empty(0, int), told=how)
    if species and species != told and share >= SURE_OF_SPECIES:
        source.warnings.append(
            f"{rows.name}: you say {species}, but {share:.0%} of the telling gene names are {told} ({why}); "
            f"leave --species out, or say {told}, unless you are sure"
        )
    refuse_species(source, genes, species, force)
    refuse_names(rows, genes, force, source)
    if dates := mangled(genes):
        listed = "; ".join(f"{name} was {was}" for name, was in list(dates.items())[:5])
        source.warnings.append(
            f"{rows.name}: a spreadsheet has made dates of {len(dates)} gene names ({listed}); they are left out"
        )
    if rows.foreign:
        source.warnings.append(
            f"{rows.name}: {rows.foreign:,} of {rows.n_cells:,} cells have most of their counts in the other genome "
            f"({rows.note.split(', genes')[0]}); they are Unknown here. --species chooses the genome"
        )
    if kind in ("entrez", "probe/other"):
        source.warnings.append(
            f"{rows.name}: its genes look like {KINDS[kind]} ({', '.join(genes[:3])}); they can only be matched with "
            "files that name genes the same way. Put gene symbols into var_names or a column gene_symbols"
        )
    names_of(source, table)
    return source


def translate(sources: Sequence[Source], table: Mapping[str, str]) -> None:
    """Give the genes of files that have Ensembl ids only the symbols that the other files have beside the same ids."""
    symbol = {}
    for one in sources:
        if one.kind == "symbol" and one.rows.ids:
            symbol |= dict(zip(one.rows.ids, one.rows.genes, strict=True))
    for source in sources:
        if not symbol or not source.kind.startswith("ensembl"):
            continue
        genes = [symbol.get(gene, gene) for gene in source.rows.genes]
        found = sum(gene in symbol for gene in source.rows.genes)
        if kind_of_names(genes) != "symbol":
            continue
        source.kind, source.rows.genes = "symbol", genes
        names_of(source, table)
        log.info(f"{source.name}: another of the files has the symbols of {found:,} of its {len(genes):,} Ensembl ids")


def names_of(source: Source, table: Mapping[str, str]) -> None:
    """Set the shared names of a dataset's genes, and the columns in use: those with a name."""
    genes = source.rows.genes
    names = align.shared_names(genes, source.species, table)
    names = ["" if not gene.strip() else name for gene, name in zip(genes, names, strict=True)]
    source.columns = np.array([column for column, name in enumerate(names) if name], dtype=np.int64)
    source.genes = [names[column] for column in source.columns]


def species_of(genes: Sequence[str], table: Mapping[str, str]) -> tuple[str, float, str]:
    """(species, share of the telling names that agree, what told it): by symbols one species has, else by case."""
    told, share = species_from_case(genes)
    upper = {gene.upper() for gene in genes}
    alike = {name for name, other in table.items() if name == other}
    human = {name for name, other in table.items() if name != other} - set(table.values())
    mouse = {other for name, other in table.items() if name != other} - set(table)
    if alike and human and mouse:
        covered = max(0.05, len(upper & alike) / len(alike))  # how much of either list a dataset of that species has
        of_human, of_mouse = len(upper & human) / len(human), len(upper & mouse) / len(mouse)
        by_name = "human" if of_human > of_mouse else "mouse"
        # old human symbols live on as mouse ones, so a few prove nothing
        if told != by_name and max(of_human, of_mouse) > covered / 2:
            return by_name, max(of_human, of_mouse) / (of_human + of_mouse), "symbols that only one species has"
    return (
        told,
        share,
        "the Ensembl prefix" if kind_of_names(genes).startswith("ensembl") else "the case of the symbols",
    )


def refuse_species(source: Source, genes: Sequence[str], told: str | None, force: bool) -> None:
    """A warning where the genes are of neither human nor mouse; ValueError where their ids can match nothing."""
    other, why = other_species(genes)
    if not other:
        return
    sentence = f"{source.where}: its genes are those of {other} ({why}: {', '.join(genes[:3])}), not of human or mouse"
    remedy = "map them to human or mouse orthologs first and put those symbols into the file"
    if why == "its ids" and not (force or told):
        raise ValueError(f"{sentence}, so they match no other file; {remedy}. --force goes on all the same")
    source.warnings.append(f"{sentence}; they are matched by spelling alone, and labels may mean little: {remedy}")


def refuse_names(rows: RowBlocks, genes: Sequence[str], force: bool, source: Source) -> None:
    """ValueError for empty or doubled gene names; with `force`, or where the format is made so, a warning."""
    dates = mangled(genes)
    genes = [gene for gene in genes if gene not in dates]
    empty = sum(not gene.strip() for gene in genes)
    doubled = len(genes) - empty - len({gene for gene in genes if gene.strip()})
    if not empty and not doubled:
        return
    what = [f"{empty:,} empty gene names"] if empty else []
    if doubled:
        what.append(f"{doubled:,} doubled gene names ({first_twice(gene for gene in genes if gene.strip())} ...)")
    if not force and (empty or not rows.doubled):
        raise ValueError(
            f"{rows.where}: {' and '.join(what)}; make them unique{_how(rows.path)} and name every gene, or say "
            "--force: then the first of a name counts and nameless ones are left out"
        )
    source.warnings.append(f"{rows.name}: {' and '.join(what)}; the first column of a name counts")


def _how(path: Path) -> str:
    """How names are made unique in a file of this kind."""
    if path.suffix in (".h5ad", ".zarr") or not path.suffix:
        return " (adata.var_names_make_unique())"
    return " in the file" if path.suffix in (".csv", ".tsv", ".txt", ".gz", ".tab") else ""


def refuse_cells(source: Source) -> None:
    """ValueError for doubled cell names: a label could not be told which cell it belongs to."""
    names = source.rows.cells
    if len(set(names)) < len(names):
        repeats = len(names) - len(set(names))
        raise ValueError(
            f"{source.where}: cell names occur more than once ({first_twice(names)!r} ..., {repeats:,} repeats); make "
            "them unique first: adata.obs_names_make_unique()"
        )


def first_twice(names: Iterable[str]) -> str:
    """The first name that was there before; one must be."""
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))


def shared_genes(sources: Sequence[Source]) -> list[str]:
    """Genes that all sources have, in the first one's order. Raises ValueError where there are none."""
    first, *others = sources
    shared = set(first.genes).intersection(*(source.genes for source in others))
    if not shared:
        raise ValueError(
            f"{first.where} has no gene in common with {', '.join(source.where for source in others)}: "
            + "; ".join(f"{s.name} has {s.kind_of_genes()} ({', '.join(s.rows.genes[:3])})" for s in sources)
            + ". Both need the same kind of names; put gene symbols into var_names or a column gene_symbols"
        )
    return [gene for gene in first.genes if gene in shared]


def own_overlap(source: Source, shared: Sequence[str], least: int) -> dict:
    """Say how many of a dataset's genes all files have, where an encoder is made of these.

    A warning under 50 % for the file that has fewest, `least`: to a panel of genes the others always lose many.
    """
    share = len(shared) / len(source.genes)
    have = f"{len(shared):,} of its {len(source.genes):,}"
    log.info(f"{source.name}: {have} {source.kind_of_genes()} are in all files and used")
    if share < LOW_OVERLAP and len(source.genes) == least:
        source.warnings.append(
            f"{source.name}: only {have} genes ({share:.0%}) are in all files, and labels may suffer. Files with all "
            "genes do better, and all must name them the same way: put symbols into var_names or a column gene_symbols"
        )
    return {"dataset": source.name, "species": source.species, "names": KINDS[source.kind],
            "genes": len(source.genes), "used": len(shared), "share": share}  # fmt: skip


def check_overlap(source: Source, genes: Sequence[str], force: bool, of: str = "checkpoint") -> dict:
    """Say how many genes of the checkpoint a dataset has; warn under 50 %, ValueError under 10 % unless forced.

    of: what else they are the genes of.
    """
    found = align.overlap(source.genes, genes)
    share = found / max(1, len(genes))
    log.info(
        f"{source.name}: {found:,} of {len(genes):,} genes of the {of} present ({share:.0%}), "
        f"matched by {source.kind_of_genes()}"
    )
    if share < LEAST_OVERLAP:
        sentence = f"{source.where}: only {found:,} of the {of}'s {len(genes):,} genes are in it ({share:.1%})"
        theirs = kind_of_names(genes)
        if source.kind != theirs:
            why = f"its genes are {source.kind_of_genes()} ({', '.join(source.spelled()[:3])}), the {of}'s are "
            why += f"{KINDS[theirs]} ({', '.join(genes[:3])}); put those into var_names or a column gene_symbols"
        else:
            why = f"they were taken as {source.kind_of_genes()} ({', '.join(source.spelled()[:3])}); if "
            flag = "--pretrained_model" if of == "checkpoint" else f"--{of}"
            why += f"that is wrong say --species; a panel of few genes needs a {of} of its own: leave out {flag}, "
            why += "then one is made of these very genes"
        if not force or not found:
            raise ValueError(f"{sentence}: {why}{', or go on with --force' if found else ''}")
        source.warnings.append(f"{sentence}: {why}")
    elif share < LOW_OVERLAP:
        without = "count as not expressed" if of == "checkpoint" else "are left aside"
        source.warnings.append(
            f"{source.name}: {share:.0%} of the {of}'s genes are present; the others {without}, and "
            "labels may suffer. A file with all genes (before the choice of variable ones) does better"
        )
    return {"dataset": source.name, "species": source.species, "names": KINDS[source.kind],
            f"genes of the {of}": len(genes), "present": found, "share": share}  # fmt: skip
