"""Which datasets there are: the catalogue or a folder, what is fetched, the ortholog table."""

from __future__ import annotations

import csv
import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from files import locked, whole, writable
from reading import align, download
from reading.cells import read
from reading.guard import DAMAGE, regular
from voice import log

HERE = Path(__file__).resolve().parents[1]  # the project
CATALOGUE_COLUMNS = ("name", "species", "labelled")
SUFFIXES = (".h5", ".h5ad")  # of the public datasets
FOUND = (*SUFFIXES, ".h5mu", ".loom", ".zarr")  # in a folder without a catalogue; a .csv there may be anything
LISTED = (*FOUND, ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz")  # of a name that a catalogue lists


@dataclass(frozen=True)
class Entry:
    """A line of the catalogue and, once it is there, the dataset's file."""

    name: str
    species: str  # "human", "mouse", or "" where the gene symbols must tell
    labelled: bool
    path: Path | None = None


# -- the catalogue ----------------------------------------------------------------
def read_catalogue(
    data_dir: Path,
    *,
    datasets: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    species: str | None = None,
) -> list[Entry]:
    """The entries of `data_dir`: of its datasets.csv, or without one of every file of cells in it (FOUND).

    `datasets` restricts to these names, `exclude` leaves names out, `species` overrides. Sorted by name: the order of
    lines must not reach a checkpoint. Raises ValueError for a name that is not there, a catalogue that cannot be read,
    or when nothing is left.
    """
    if not data_dir.is_dir():
        raise ValueError(f"--data_dir {data_dir} is not a folder; make it, or name the one with your datasets")
    table = data_dir / "datasets.csv"
    if table.exists():
        listed = sorted(_lines(table), key=lambda entry: entry.name)
        entries = [replace(entry, path=_file_of(data_dir, entry.name)) for entry in listed]
    else:
        files = {path.stem: path for suffix in FOUND[::-1] for path in sorted(data_dir.glob(f"*{suffix}"))}
        entries = [Entry(name, "", True, path) for name, path in sorted(files.items())]
        if not entries:
            raise ValueError(
                f"{data_dir} holds neither a datasets.csv nor any {', '.join(FOUND[:-1])} or {FOUND[-1]}; put "
                f"your files there, or a copy of {HERE / 'dataset' / 'datasets.csv'} to have the public ones fetched"
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


def _lines(path: Path) -> list[Entry]:
    regular(path, str(path))
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            columns, lines = set(rows.fieldnames or ()), [(rows.line_num, row) for row in rows]
    except PermissionError:
        raise
    except DAMAGE as error:
        raise ValueError(f"{path} cannot be read ({error}); save it as UTF-8 with name,species,labelled") from error
    if missing := set(CATALOGUE_COLUMNS) - columns:
        raise ValueError(f"{path} lacks the column {', '.join(sorted(missing))}; it needs name,species,labelled")
    entries = [_entry(row, f"{path}, line {number}") for number, row in lines]
    if not entries:
        raise ValueError(f"{path} lists no dataset; put one a line, as name,species,labelled")
    names = [entry.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path} lists {', '.join(twice)} twice; names must differ")
    return entries


def _entry(row: dict, where: str) -> Entry:
    name, species, labelled = ((row[column] or "").strip() for column in CATALOGUE_COLUMNS)
    species, labelled = species.lower(), labelled.lower()
    if species not in ("human", "mouse") or labelled not in ("yes", "no"):
        raise ValueError(
            f"{where} ({name}): species must be human or mouse and labelled yes "
            f"or no; it says {row['species']!r} and {row['labelled']!r}"
        )
    if not name or Path(name).name != name or not name.isprintable():
        raise ValueError(f"{where}: {name!r} cannot be the name of a dataset")
    return Entry(name, species, labelled == "yes")


def _file_of(data_dir: Path, name: str) -> Path | None:
    return next((path for suffix in LISTED if (path := data_dir / f"{name}{suffix}").exists()), None)


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
    max_download: float = download.LARGEST / 1e9,
    labelled_because: str = "",
) -> list[Entry]:
    """The datasets of a run with their files: the user's own where they are given, else those of the catalogue.

    With `labelled_because` the unlabelled ones are left out and this reason is printed. max_download: in GB. Raises
    ValueError or FileNotFoundError where none is left.
    """
    own = own_entries(np_input, ann_input, species)
    if own:
        return own
    entries = read_catalogue(data_dir, datasets=datasets, exclude=exclude, species=species)
    labelled = [entry for entry in entries if entry.labelled]
    if labelled_because and len(labelled) < len(entries):
        log.info(f"{len(entries) - len(labelled)} unlabelled datasets are left out: {labelled_because}")
        if not (entries := labelled):
            raise ValueError("no labelled dataset is left; name one with --datasets, or mark it in datasets.csv")
    return obtain(entries, data_dir, base_url=base_url, offline=offline, max_download=max_download)


def obtain(
    entries: list[Entry],
    data_dir: Path,
    *,
    base_url: str,
    offline: bool,
    max_download: float = download.LARGEST / 1e9,
) -> list[Entry]:
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
        log.info(f"fetching {len(missing)} datasets from {base_url} into {data_dir}")
        requests = [
            download.Request(
                entry.name,
                tuple(
                    (f"{base_url.rstrip('/')}/{entry.name}/{entry.name}{suffix}", data_dir / f"{entry.name}{suffix}")
                    for suffix in SUFFIXES
                ),
                int(max_download * 1e9),
            )
            for entry in missing
        ]
        _, failures = download.fetch_all(requests, check_dataset)
    found = [replace(entry, path=entry.path or _file_of(data_dir, entry.name)) for entry in entries]
    found = [entry for entry in found if entry.path is not None]
    if failures:
        width = max(len(failure.name) for failure in failures)
        log.info(f"{len(failures)} of {len(entries)} datasets are not there:")
        for failure in failures:
            log.info(f"  {failure.name:<{width}}  {failure.why}; {failure.remedy}")
    if not found:
        raise ValueError(f"none of the {len(entries)} datasets is in {data_dir}; see above for what to do")
    return found


def check_dataset(path: Path) -> None:
    """Raise ValueError unless the file opens as a dataset and is the one that was fetched under its name before.

    What a download must pass before it takes its name.
    """
    read(path)
    check_checksum(path)


def check_checksum(path: Path) -> None:
    """Note the SHA-256 of a NAME.part that is fetched for the first time; raise Changed where another is noted."""
    target = path.with_name(path.name.removesuffix(".part"))
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    table = target.parent / download.CHECKSUMS
    with locked(table):
        noted = _checksums(table)
        # by the name without its ending: a .h5ad in the place of a .h5 is a change too
        known = next((checksum for name, checksum in noted.items() if Path(name).stem == target.stem), None)
        if known not in (None, found):
            raise download.Changed(
                f"the file has changed since it was first fetched: its SHA-256 is {found}, {table} has {known}"
            )
        if known is None:
            with whole(table) as part, open(part, "w", newline="", encoding="utf-8") as file_of_table:
                csv.writer(file_of_table).writerows(
                    [("file", "sha256"), *sorted((noted | {target.name: found}).items())]
                )


def _checksums(table: Path) -> dict[str, str]:
    """File name -> SHA-256 of what was fetched into a folder; empty where nothing was."""
    if not table.exists():
        return {}
    regular(table, str(table))
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            return {row["file"]: row["sha256"].strip().lower() for row in csv.DictReader(file)}
    except (KeyError, AttributeError, UnicodeDecodeError, csv.Error) as error:
        raise OSError(f"{table} is no table of file,sha256; mend it, or move it away") from error


# -- orthologs ----------------------------------------------------------------
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
            _, failures = download.fetch_all([request], check_orthologs)
            if not failures:
                return align.read_orthologs(target)
            why = failures[0].why
    log.warning(
        f"no ortholog table ({why}); put {align.ORTHOLOG_FILE} into {data_dir}. Until then human and mouse "
        "genes are matched by their upper-cased symbols alone"
    )
    return {}


def check_orthologs(path: Path) -> None:
    """The same for the ortholog table."""
    align.read_orthologs(path)
    check_checksum(path)
