"""Cells of many datasets: the catalogue, the genes they share, matrices on those genes, splits."""

import csv
import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from files import Cache, fingerprint, stamp, writable
from reading import align, download, normalize
from reading.cells import Cells, Unreadable, kind_of_names, open_rows, read, species_from_case
from voice import log

HERE = Path(__file__).resolve().parent
CATALOGUE_COLUMNS = ("name", "species", "labelled")
SUFFIXES = (".h5", ".h5ad")
LOW_OVERLAP = 0.2  # a dataset with a smaller share of the vocabulary is warned about


@dataclass(frozen=True)
class Entry:
    """A line of the catalogue and, once it is there, the dataset's file."""

    name: str
    species: str  # "human", "mouse", or "" where the gene symbols must tell
    labelled: bool
    path: Path | None = None


# -- the catalogue ----------------------------------------------------------------
def catalogue(
    data_dir: Path,
    *,
    datasets: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    species: str | None = None,
) -> list[Entry]:
    """The entries of `data_dir`: of its datasets.csv, or without one of every .h5 and .h5ad in it.

    `datasets` restricts to these names, `exclude` leaves names out, `species` overrides. Raises ValueError for a
    name that is not there, a catalogue that cannot be read, or when nothing is left.
    """
    if not data_dir.is_dir():
        raise ValueError(f"--data_dir {data_dir} is not a folder; make it, or name the one with your datasets")
    table = data_dir / "datasets.csv"
    if table.exists():
        entries = [replace(entry, path=_file_of(data_dir, entry.name)) for entry in _read_catalogue(table)]
    else:
        files = {path.stem: path for suffix in SUFFIXES[::-1] for path in sorted(data_dir.glob(f"*{suffix}"))}
        entries = [Entry(name, "", True, path) for name, path in sorted(files.items())]
        if not entries:
            raise ValueError(
                f"{data_dir} holds neither a datasets.csv nor any .h5 or .h5ad file; put your files there, "
                f"or a copy of {HERE / 'dataset' / 'datasets.csv'} to have the public ones fetched"
            )
    known = [entry.name for entry in entries]
    for name in [*(datasets or ()), *exclude]:
        if name not in known:
            folded = {one.casefold(): one for one in known}
            near = [folded[one] for one in difflib.get_close_matches(name.casefold(), folded, 1)]
            hint = (
                f"did you mean {near[0]}?"
                if near
                else f"there are {', '.join(known[:8])}{' ...' if len(known) > 8 else ''}"
            )
            raise ValueError(f"no dataset is called {name!r} in {table if table.exists() else data_dir}; {hint}")
    entries = [entry for entry in entries if entry.name not in exclude and (not datasets or entry.name in datasets)]
    if not entries:
        raise ValueError("--datasets and --exclude leave no dataset; name at least one")
    return [replace(entry, species=species) for entry in entries] if species else entries


def _read_catalogue(path: Path) -> list[Entry]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if missing := set(CATALOGUE_COLUMNS) - set(rows.fieldnames or ()):
            raise ValueError(f"{path} lacks the column {', '.join(sorted(missing))}; it needs name,species,labelled")
        entries = []
        for row in rows:
            name, species = row["name"].strip(), (row["species"] or "").strip().lower()
            labelled = (row["labelled"] or "").strip().lower()
            if species not in ("human", "mouse") or labelled not in ("yes", "no"):
                raise ValueError(
                    f"{path}, line {rows.line_num} ({name}): species must be human or mouse and labelled yes "
                    f"or no; it says {row['species']!r} and {row['labelled']!r}"
                )
            if not name or Path(name).name != name:
                raise ValueError(f"{path}, line {rows.line_num}: {name!r} cannot be the name of a dataset")
            entries.append(Entry(name, species, labelled == "yes"))
    names = [entry.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path} lists {', '.join(twice)} twice; names must differ")
    return entries


def _file_of(data_dir: Path, name: str) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := data_dir / f"{name}{suffix}").exists()), None)


def own_entries(np_input: Path | None, ann_input: Path | None, species: str | None) -> list[Entry]:
    """The user's own datasets, named like their folder or file, in place of the catalogue."""
    entries = []
    for path in filter(None, (np_input, ann_input)):
        if not path.exists():
            raise FileNotFoundError(f"there is no {path}; give the folder (--np_input) or the .h5ad (--ann_input)")
        name = path.stem if path.is_file() else path.resolve().name
        entries.append(Entry(name, species or "", True, path))
    return entries


def wanted(
    data_dir: Path,
    *,
    datasets: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    species: str | None = None,
    np_input: Path | None = None,
    ann_input: Path | None = None,
    base_url: str,
    offline: bool = False,
    labelled_because: str = "",
) -> list[Entry]:
    """The datasets of a run with their files: the user's own where they are given, else those of the catalogue.

    With `labelled_because` the unlabelled ones are left out and this reason is printed. Raises ValueError or
    FileNotFoundError where none is left.
    """
    own = own_entries(np_input, ann_input, species)
    if own:
        return own
    entries = catalogue(data_dir, datasets=datasets, exclude=exclude, species=species)
    labelled = [entry for entry in entries if entry.labelled]
    if labelled_because and len(labelled) < len(entries):
        print(f"{len(entries) - len(labelled)} unlabelled datasets are left out: {labelled_because}")
        if not (entries := labelled):
            raise ValueError("no labelled dataset is left; name one with --datasets, or mark it in datasets.csv")
    return obtain(entries, data_dir, base_url=base_url, offline=offline)


def obtain(entries: list[Entry], data_dir: Path, *, base_url: str, offline: bool) -> list[Entry]:
    """Fetch what is missing; returns the entries whose files are there, and prints a table of those that are not.

    Raises ValueError when none is there, or offline when the folder cannot be written.
    """
    missing = [entry for entry in entries if entry.path is None]
    failures: list[download.Failure] = []
    if missing and offline:
        failures = [
            download.Failure(
                entry.name,
                "not in the data folder, and --offline was asked for",
                f"put {entry.name}.h5 into {data_dir}, or leave --offline out",
            )
            for entry in missing
        ]
    elif missing:
        if not writable(data_dir):
            raise ValueError(
                f"{len(missing)} datasets are missing ({missing[0].name}, ...) and {data_dir} is read-only; "
                "use --offline to go on with what is there"
            )
        print(f"fetching {len(missing)} datasets from {base_url} into {data_dir}")
        requests = [
            download.Request(
                entry.name,
                tuple(
                    (f"{base_url.rstrip('/')}/{entry.name}/{entry.name}{suffix}", data_dir / f"{entry.name}{suffix}")
                    for suffix in SUFFIXES
                ),
            )
            for entry in missing
        ]
        _, failures = download.fetch_all(requests, check_dataset)
    found = [replace(entry, path=entry.path or _file_of(data_dir, entry.name)) for entry in entries]
    found = [entry for entry in found if entry.path is not None]
    if failures:
        width = max(len(failure.name) for failure in failures)
        print(f"{len(failures)} of {len(entries)} datasets are not there:")
        for failure in failures:
            print(f"  {failure.name:<{width}}  {failure.why}; {failure.remedy}")
    if not found:
        raise ValueError(f"none of the {len(entries)} datasets is in {data_dir}; see above for what to do")
    return found


def check_dataset(path: Path) -> None:
    """Raise ValueError unless the file opens as a dataset; what a download must pass before it takes its name."""
    read(path)


# -- genes ----------------------------------------------------------------
def orthologs(data_dir: Path, *, offline: bool, needed: bool = True) -> dict[str, str]:
    """Human -> mouse symbols: from `data_dir`, then from the project's dataset folder, then downloaded.

    Not `needed`: empty, without a word, where it is in neither folder. Else empty, with a warning, where the table
    cannot be had: symbols are then matched by spelling alone.
    """
    places = [data_dir / align.ORTHOLOG_FILE, HERE / "dataset" / align.ORTHOLOG_FILE]
    for path in places:
        if path.exists():
            return align.read_orthologs(path)
    if not needed:
        return {}
    why = "--offline was asked for"
    if not offline:
        target = next((path for path in places if writable(path.parent)), None)
        if target is None:
            why = f"neither {places[0].parent} nor {places[1].parent} can be written"
        else:
            request = download.Request("ortholog table", ((align.ORTHOLOG_URL, target),))
            _, failures = download.fetch_all([request], align.read_orthologs)
            if not failures:
                return align.read_orthologs(target)
            why = failures[0].why
    log.warning(
        f"no ortholog table ({why}); put {align.ORTHOLOG_FILE} into {data_dir}. Until then human and mouse "
        "genes are matched by their upper-cased symbols alone"
    )
    return {}


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
        with open_rows(entry.path, name=entry.name, **reader_options(entry.path, **values)) as rows:
            genes = rows.genes
        if not entry.species:
            species, share = species_from_case(genes)
            entry = replace(entry, species=species)
            print(
                f"{entry.name}: taken as {species}, from the case of its gene symbols ({share:.0%} agree); "
                "--species overrides"
            )
        named.append(Names(entry, align.shared_names(genes, entry.species, table)))
    if not table and {names.entry.species for names in named} == {"human", "mouse"}:
        mouse = set().union(*(names.genes for names in named if names.entry.species == "mouse"))
        genes = set().union(*(names.genes for names in named if names.entry.species == "human"))
        unmatched = len(genes - mouse)
        print(f"warning: without the ortholog table {unmatched:,} of {len(genes):,} human genes match no mouse gene")
    return named


def reader_options(path: Path, *, layer: str | None = None, use_raw: bool = False) -> dict[str, object]:
    """--layer and --use_raw for the files that have such things."""
    return {"layer": layer, "use_raw": use_raw} if path.suffix == ".h5ad" else {}


def report_overlap(names: Names, wanted: Sequence[str], of: str) -> None:
    """Print how many of `wanted` genes a dataset has; warn under 20 %, raise ValueError for none."""
    entry, found = names.entry, align.overlap(names.genes, wanted)
    share = found / max(1, len(wanted))
    print(f"{entry.name}: {found:,} of {len(wanted):,} genes of {of} present ({share:.0%}), {entry.species}")
    if found == 0:
        first = [gene for gene in names.genes if gene][:5]
        raise ValueError(
            f"{entry.name} ({entry.path}): none of its genes is among the {len(wanted):,} of {of}; they look "
            f"like {kind_of_names(first)} names: {', '.join(first)}. Gene symbols of human or mouse are "
            f"needed; leave it out with --exclude {entry.name}"
        )
    if share < LOW_OVERLAP:
        print(f"warning: {entry.name} has under {LOW_OVERLAP:.0%} of the genes of {of}; the others count as zero")


# -- cells ----------------------------------------------------------------
def cache_in(data_dir: Path, cache_dir: Path | None) -> Cache:
    """The cache of a data folder: DIR/cache, or `cache_dir`; none, and said so, where neither can be written."""
    folder = cache_dir or data_dir / "cache"
    if writable(folder):
        return Cache(folder)
    if cache_dir:
        raise ValueError(f"--cache_dir {cache_dir} cannot be written; name another folder")
    print(f"{data_dir} is read-only: nothing is cached (--cache_dir names a place for it)")
    return Cache(None)


def load(entry: Entry, *, label_key: str | None = None, **values: object) -> Cells:
    """All of one dataset's file: raw csr counts, genes as spelled there, cell types."""
    return read(entry.path, name=entry.name, label_key=label_key, **reader_options(entry.path, **values))


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

    def make() -> csr_matrix:
        counts = load(entry, **values).counts
        return align.align(normalised(counts, normalise, entry), names.genes, genes)

    key = (
        str(entry.path.resolve()),
        stamp_of(entry.path),
        genes_hash,
        fingerprint(names.genes),  # another ortholog table gives the same file's columns other names
        recipe,
        sorted(values.items()),
    )
    return cache.matrix("aligned", entry.name, key, make)


def stamp_of(path: Path) -> list[tuple]:
    """What identifies a version of a dataset: its file's stamp, or those of the files in its folder."""
    return [stamp(path)] if path.is_file() else [stamp(file) for file in sorted(path.iterdir()) if file.is_file()]


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
        print(f"{entry.name}: {len(cells.cells) - len(types.rows):,} cells without a label are left out")
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


def log_normalised(counts: csr_matrix) -> csr_matrix:
    """Values (N, G) of any kind as log1p of counts scaled to 10,000 a cell; told what they are by their numbers."""
    return normalize.to_log1p(counts, normalize.detect(counts))


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
        print(f"{name}: fewer than 2 training cells of {', '.join(few)}; their test cells count all the same")
    if none := [name for name, count in zip(types.classes, in_test, strict=True) if count == 0]:
        print(f"{name}: no test cell of {', '.join(none)}; no score includes them")
