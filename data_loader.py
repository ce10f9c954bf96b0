"""Cells of many datasets: the genes they share, cached matrices on those genes, cell types, splits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, vstack

from files import Cache, fingerprint, stamp, writable
from reading import align, normalize
from reading.catalogue import Entry
from reading.cells import FORMATS, Cells, Unreadable, format_of, kind_of_names, open_rows, read
from reading.matrix import refuse_negative
from reading.names import no_types
from reading.source import LOW_OVERLAP, look
from voice import log

WHOLE_UP_TO = 32 << 20  # stored entries, 0.25 GB: a dataset of more is read and aligned by blocks of rows


@dataclass(frozen=True)
class Names:
    """One dataset's genes in the corpus's spelling, one for each column of its file ("" where it is not used)."""

    entry: Entry
    genes: list[str]


def gene_names(entries: Sequence[Entry], table: dict[str, str], **values: object) -> list[Names]:
    """Read the gene names of all datasets, and tell the species of those whose catalogue does not.

    `values` (layer, use_raw) are the reader's. Raises ValueError for names that are not gene symbols.
    """
    named = []
    for entry in entries:
        with open_rows(entry.path, name=entry.name, **reader_options(entry, **values)) as rows:
            source = look(rows, table, species=entry.species or None, force=True)
        genes = source.rows.genes
        for sentence in source.warnings:
            log.warning(sentence)
        if not entry.species:
            entry = replace(entry, species=source.species)
            log.info(f"{entry.name}: taken as {entry.species}, from {source.told}; --species overrides")
        named.append(Names(entry, align.shared_names(genes, entry.species, table)))
    if not table and {names.entry.species for names in named} == {"human", "mouse"}:
        mouse = set().union(*(names.genes for names in named if names.entry.species == "mouse"))
        genes = set().union(*(names.genes for names in named if names.entry.species == "human"))
        unmatched = len(genes - mouse)
        log.warning(f"without the ortholog table {unmatched:,} of {len(genes):,} human genes match no mouse gene")
    return named


def reader_options(entry: Entry, *, layer: str | None = None, use_raw: bool = False) -> dict[str, object]:
    """--layer, --use_raw and the species of a dataset, as far as a file of its format has a choice of them."""
    wanted = {"layer": layer, "use_raw": use_raw, "genome": entry.species or None}
    return {name: value for name, value in wanted.items() if name in FORMATS[format_of(entry.path)].options}


def report_overlap(names: Names, wanted: Sequence[str], of: str) -> None:
    """Say how many of `wanted` genes a dataset has; warn under 50 %, raise ValueError for none."""
    entry, found = names.entry, align.overlap(names.genes, wanted)
    share = found / max(1, len(wanted))
    log.info(f"{entry.name}: {found:,} of {len(wanted):,} genes of {of} present ({share:.0%}), {entry.species}")
    if found == 0:
        first = [gene for gene in names.genes if gene][:5]
        raise ValueError(
            f"{entry.name} ({entry.path}): none of its genes is among the {len(wanted):,} of {of}; they look "
            f"like {kind_of_names(first)} names: {', '.join(first)}. Gene symbols of human or mouse are "
            f"needed; leave it out with --exclude {entry.name}"
        )
    if share < LOW_OVERLAP:
        log.warning(f"{entry.name} has under {LOW_OVERLAP:.0%} of the genes of {of}; the others count as zero")


# -- cells ----------------------------------------------------------------
def cache_in(data_dir: Path, cache_dir: Path | None) -> Cache:
    """The cache of a data folder: DIR/cache, or `cache_dir`; none, and said so, where neither can be written."""
    folder = cache_dir or data_dir / "cache"
    if writable(folder):
        return Cache(folder)
    if cache_dir:
        raise ValueError(f"--cache_dir {cache_dir} cannot be written; name another folder")
    log.info(f"{data_dir} is read-only: nothing is cached (--cache_dir names a place for it)")
    return Cache(None)


def load(entry: Entry, *, label_key: str | None = None, **values: object) -> Cells:
    """All of one dataset's file: raw csr counts, genes as spelled there, cell types."""
    return read(entry.path, name=entry.name, label_key=label_key, **reader_options(entry, **values))


def aligned(
    names: Names,
    genes: Sequence[str],
    cache: Cache,
    genes_hash: str,
    normalise: Callable[[csr_matrix], csr_matrix] | None = None,
    recipe: str = "counts",
    **values: object,
) -> csr_matrix:
    """One dataset's values on the shared `genes`, (N, G) csr float32, from the cache where it is there.

    `normalise` is applied to the file's own genes first; `recipe` names it for the cache.
    """
    entry = names.entry

    def make() -> Iterator[csr_matrix]:
        for counts in blocks_of(entry, normalise, **values):
            yield align.align(counts, names.genes, genes)

    key = (
        str(entry.path.resolve()),
        stamp_of(entry.path),
        genes_hash,
        fingerprint(names.genes),  # another ortholog table gives the same file's columns other names
        recipe,
        sorted(values.items()),
    )
    return cache.matrix("aligned", entry.name, key, make)


def blocks_of(
    entry: Entry, normalise: Callable[..., csr_matrix] | None = None, **values: object
) -> Iterator[csr_matrix]:
    """A dataset's values (B, G) on the file's own genes, row blocks in order; one block where the whole is small.

    What its numbers are is told by the same cells either way, so the blocks hold what the whole would.
    """
    with open_rows(entry.path, name=entry.name, **reader_options(entry, **values)) as rows:
        if rows.streamed and rows.entries > WHOLE_UP_TO:
            sample = (
                None
                if normalise is None
                else vstack([rows.rows(i, i + 1) for i in normalize.sample_of(rows.n_cells)], format="csr")
            )
            for _, counts in rows.blocks():
                refuse_negative(counts, rows.where, rows.note.split(",")[0], rows.remedy)
                yield normalised(counts, normalise and partial(normalise, sample=sample), entry)
            return
    yield normalised(load(entry, **values).counts, normalise, entry)


def stamp_of(path: Path) -> list[tuple]:
    """What identifies a version of a dataset: its file's stamp, or those of the files in its folder."""
    return [stamp(path)] if path.is_file() else [stamp(file) for file in sorted(path.rglob("*")) if file.is_file()]


@dataclass(frozen=True)
class Types:
    """The labelled cells of a dataset: `rows` (M,) of the file, `labels` (M,) as ints, the names of the `classes`."""

    rows: np.ndarray
    labels: np.ndarray
    classes: list[str]


def cell_types(cells: Cells, *, label_key: str | None = None) -> Types:
    """Number the cell types of a labelled dataset, in sorted order; cells without a label are left out.

    Raises ValueError where there are no labels or one type only.
    """
    where = f"{cells.name} ({cells.path})"
    if cells.labels is None:
        wanted = f"column {label_key!r}" if label_key else "column cell_ontology_class or cell_type"
        columns = f"it has {', '.join(cells.columns)}" if cells.columns else "it has no columns of cells at all"
        raise Unreadable(
            f"{where}: no {wanted} to take cell types from; {columns}. Name one with --label_key, mark it "
            f"as not labelled in datasets.csv, or leave it out with --exclude {cells.name}"
        )
    rows = np.flatnonzero(cells.labels != "")
    if words := no_types(cells.labels):  # as published they are types; here they are at least named
        count = int(np.isin(cells.labels.astype(str), words).sum())
        log.warning(
            f"{cells.name}: {count:,} cells are labelled {', '.join(map(repr, words))}, which looks like no label but "
            "counts as a type; empty these cells' labels in the file if they have none"
        )
    classes, labels = np.unique(cells.labels[rows].astype(str), return_inverse=True)
    if len(classes) < 2:
        found = f"only one cell type, {str(classes[0])!r}" if len(classes) else "no cell with a label"
        raise Unreadable(
            f"{where}: {found}; two are needed to train a classifier. Leave it out with --exclude {cells.name}"
        )
    return Types(rows, labels, [str(name) for name in classes])


@dataclass(frozen=True)
class Prepared:
    """One labelled dataset, ready for its splits."""

    names: Names
    genes: list[str]  # the columns of `counts`: each of the dataset's own genes once
    counts: csr_matrix  # (M, G), labelled cells only: raw, or as `normalise` left them
    types: Types


def prepare(
    entry: Entry,
    table: dict[str, str],
    *,
    label_key: str | None = None,
    normalise: Callable[[csr_matrix], csr_matrix] | None = None,
    **values: object,
) -> Prepared:
    """Read one labelled dataset; `normalise` sees all genes of its file, before any of them is left out."""
    [names] = gene_names([entry], table, **values)
    entry = names.entry
    cells = load(entry, label_key=label_key, **values)
    types = cell_types(cells, label_key=label_key)
    if len(types.rows) < len(cells.cells):
        log.info(f"{entry.name}: {len(cells.cells) - len(types.rows):,} cells without a label are left out")
    counts = normalised(cells.counts[types.rows], normalise, entry)
    used = [column for column, gene in enumerate(names.genes) if gene]
    return Prepared(names, [names.genes[column] for column in used], counts[:, used], types)


def normalised(counts: csr_matrix, normalise: Callable[[csr_matrix], csr_matrix] | None, entry: Entry) -> csr_matrix:
    """`normalise` applied, if there is one; its ValueError names the dataset."""
    if normalise is None:
        return counts
    try:
        return normalise(counts)
    except ValueError as error:
        raise ValueError(f"{entry.name} ({entry.path}): {error}") from error


def log_normalised(counts: csr_matrix, sample: csr_matrix | None = None) -> csr_matrix:
    """Values (N, G) of any kind as log1p of counts scaled to 10,000 a cell; told what they are by their numbers.

    sample (n, G): cells of the whole dataset, where `counts` are only some of its rows.
    """
    return normalize.to_log1p(counts, normalize.detect(counts if sample is None else sample))


@dataclass(frozen=True)
class Split:
    """Rows to train on, to validate on and to test on."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split(cells: int, *, seed: int, per_train: float = 0.6, per_val: float = 0.1, most: int = 1000) -> Split:
    """The published split of `cells` cells in random order: min(0.6 n, 1000), min(0.1 n, 1000) and the rest.

    The same seed gives the same split to every arm and every command. Raises ValueError with too few cells for it.
    """
    train, validation = min(int(per_train * cells), most), min(int(per_val * cells), most)
    if train < 1 or cells - train - validation < 1:
        raise ValueError(f"{cells} cells are too few to split into training and test cells")
    order = np.random.default_rng(seed).permutation(cells)
    return Split(order[:train], order[train : train + validation], order[train + validation :])


def split_of(dataset: Prepared, seed: int, per_train: float, per_val: float, most: int) -> Split:
    """`split` of a dataset's cells; says which types it leaves without cells. Its ValueError names the dataset."""
    entry = dataset.names.entry
    try:
        parts = split(len(dataset.types.rows), seed=seed, per_train=per_train, per_val=per_val, most=most)
    except ValueError as error:
        raise ValueError(f"{entry.name} ({entry.path}): {error}; leave it out with --exclude {entry.name}") from error
    report_rare_types(entry.name, dataset.types, parts)
    return parts


def report_rare_types(name: str, types: Types, parts: Split) -> None:
    """Say which types the split leaves hardly any training cell, or no test cell; scores go over those in the test."""
    in_train = np.bincount(types.labels[parts.train], minlength=len(types.classes))
    in_test = np.bincount(types.labels[parts.test], minlength=len(types.classes))
    if few := [name for name, count in zip(types.classes, in_train, strict=True) if count < 2]:
        log.info(f"{name}: fewer than 2 training cells of {', '.join(few)}; their test cells count all the same")
    if none := [name for name, count in zip(types.classes, in_test, strict=True) if count == 0]:
        log.info(f"{name}: no test cell of {', '.join(none)}; no score includes them")
