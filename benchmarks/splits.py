"""What is measured on: datasets that share cells stay together, and the labelled cells of a split are stored."""

import contextlib
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, diags

import data_loader as data
from files import fingerprint, whole
from voice import log

# budget: its words in the table
BUDGETS = {
    "5": "5 labelled cells a type",
    "20": "20 labelled cells a type",
    "published": "published split",
    "all": "four fifths of all labels",
}
# budget: labels a type, cells of the dataset that are there, share of their counts, words in the table
SMALL = {
    "3@60": (3, 60, 1.0, "3 labelled cells a type of 60 cells"),
    "3@120": (3, 120, 1.0, "3 labelled cells a type of 120 cells"),
    "5@250": (5, 250, 1.0, "5 labelled cells a type of 250 cells"),
    "5@250 shallow": (5, 250, 0.1, "5 labelled cells a type of 250 cells, a tenth of the counts"),
    "5@800": (5, 800, 1.0, "5 labelled cells a type of 800 cells"),
}
WORDS = BUDGETS | {budget: words for budget, (*_, words) in SMALL.items()}
BESIDE = 3  # cells of a type beside the labelled ones, at least, for it to take part in a small budget
LEAST_CELLS = 10  # types with fewer are left out
PARTS = 5  # of a dataset's cells, for the budget `all`: one part is tested
MOST_SEEDS = {"published": 3, "all": PARTS}  # the splits of the one are large, the other has no more
# public datasets that share cells, by the start of their names
KNOWN_FAMILIES = {"Kang_": "Kang", "Zheng_": "Zheng", "Tian_celseq2_5cl": "Tian5"}
COMPARED = 1000  # genes by which cells are told to be the same
SHARED_CELLS = 0.05  # of the smaller dataset: two that share more are a family


def file_of(entry: data.Entry) -> Path:
    """The file of a dataset that is there; the others are left out from the start."""
    assert entry.path is not None
    return entry.path


def smallest(entries: list[data.Entry]) -> list[data.Entry]:
    """Ten labelled datasets and four others with the smallest files: what --quick runs on."""
    order = sorted(entries, key=lambda entry: file_of(entry).stat().st_size)
    kept = [e for e in order if e.labelled][:10] + [e for e in order if not e.labelled][:4]
    return [entry for entry in entries if entry in kept]


# -- which datasets share cells ----------------------------------------------------------------
def families(entries: Sequence[data.Entry], path: Path | None, found: Path) -> dict[str, str]:
    """The family of each dataset: those that share cells are left out of pre-training together.

    From a file of lines NAME,FAMILY (a name it lacks is alone); else the known public ones by name, and any two that
    share the names of cells, or the values of cells in the genes both have. Those are kept in the file `found`.
    """
    names = [entry.name for entry in entries]
    path = path or (found if found.exists() else None)
    if path:
        lines = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        given = {name.strip(): family.strip() for name, family, *_ in lines}
        if path != found or set(names) <= set(given):
            return {name: given.get(name, name) for name in names}
    family = {name: name for name in names}
    for prefix, known in KNOWN_FAMILIES.items():
        family |= {name: known for name in names if name.startswith(prefix)}
    cells = {entry.name: data.load(entry) for entry in entries}
    for i, first in enumerate(entries):
        for second in entries[:i]:
            a, b = family[first.name], family[second.name]
            if a != b and first.species == second.species and share(cells[first.name], cells[second.name]):
                log.info(f"{first.name} and {second.name} share cells: one family")
                family = {name: b if one == a else one for name, one in family.items()}
    with whole(found) as part:
        part.write_text("".join(f"{name},{one}\n" for name, one in family.items()))
    return family


def share(first: data.Cells, second: data.Cells) -> bool:
    """Whether two datasets share at least a twentieth of the smaller one's cells, by name or by value."""
    least = SHARED_CELLS * min(len(first.cells), len(second.cells))
    numbered = {f"cell{i}" for i in range(1, len(first.cells) + 1)} | {str(i) for i in range(len(first.cells) + 1)}
    names = (set(first.cells) - numbered) & set(second.cells)
    if len(names) > least and max(map(len, names)) > 18:  # longer than a barcode, which two runs may share by chance
        return True
    common = sorted(set(first.genes) & set(second.genes))[:COMPARED]
    if len(common) < COMPARED / 5:
        return False
    prints = []
    for cells in (first, second):
        place = {gene: column for column, gene in reversed(list(enumerate(cells.genes)))}
        counts = cells.counts[:, [place[gene] for gene in common]].tocsr()
        counts.sort_indices()
        rich = np.flatnonzero(np.diff(counts.indptr) >= COMPARED / 50)  # others are alike by chance
        prints.append({counts[row].indices.tobytes() + counts[row].data.tobytes() for row in rich})
    return len(prints[0] & prints[1]) > least


def folds_of(labelled: Sequence[data.Entry], family: dict[str, str], count: int) -> list[list[data.Entry]]:
    """Labelled datasets in `count` parts, families whole."""
    known = sorted({family[entry.name] for entry in labelled})
    order = np.random.default_rng(0).permutation(len(known))
    fold = {known[place]: i % count for i, place in enumerate(order)}
    return [[entry for entry in labelled if fold[family[entry.name]] == k] for k in range(count)]


# -- one dataset ----------------------------------------------------------------
@dataclass
class Dataset:
    """The cells of types with at least ten cells, and what methods make of them without labels."""

    name: str
    x: csr_matrix  # (N, G) log-normalised, the dataset's own genes
    counts: csr_matrix  # (N, G) as the file holds them
    genes: list[str]
    y: np.ndarray  # (N,)
    types: int
    made: dict[object, Any] = field(default_factory=dict)

    def once(self, key: object, make: Callable[[], Any]) -> Any:
        """What `make` returns, made at the first call."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]


def prepare(entry: data.Entry, orthologs: dict[str, str]) -> Dataset:
    with contextlib.redirect_stdout(io.StringIO()):
        raw = data.prepare(entry, orthologs)
        logs = data.prepare(entry, orthologs, normalise=data.log_normalised)
    labels = raw.types.labels
    rows = np.flatnonzero(np.bincount(labels)[labels] >= LEAST_CELLS)
    kept, y = np.unique(labels[rows], return_inverse=True)
    return Dataset(entry.name, logs.counts[rows].tocsr(), raw.counts[rows].tocsr(), logs.genes, y, len(kept))


def smaller(dataset: Dataset, budget: str, seed: int) -> Dataset | None:
    """Some of a dataset's cells, perhaps at less depth, for a budget of `SMALL`.

    None where it has under half as many cells, values that cannot be thinned, or no two types left.
    """
    labels, cells, depth, _ = SMALL[budget]
    if len(dataset.y) < cells / 2 or (depth < 1 and not are_counts(dataset.counts)):
        return None
    rng = np.random.default_rng([seed, cells])
    rows = np.sort(rng.permutation(len(dataset.y))[:cells])
    rows = rows[np.bincount(dataset.y[rows])[dataset.y[rows]] >= labels + BESIDE]
    kept, y = np.unique(dataset.y[rows], return_inverse=True)
    if len(kept) < 2:
        return None
    x, counts = dataset.x[rows].tocsr(), dataset.counts[rows].tocsr()
    if depth < 1:
        counts = counts.astype(np.float32)
        counts.data = rng.binomial(np.round(counts.data).astype(int), depth).astype(np.float32)
        counts.eliminate_zeros()
        total = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
        x = (diags(1e4 / total) @ counts).tocsr().log1p().astype(np.float32)
    return Dataset(dataset.name, x, counts, dataset.genes, y, len(kept))


def are_counts(values: csr_matrix) -> bool:
    """Whether the values are counts."""
    return bool((values.data >= 0).all() and (values.data == np.round(values.data)).all())


def split(y: np.ndarray, budget: str, seed: int) -> np.ndarray:
    """Training rows; all others are test rows, but for the published split's validation rows, which nobody uses.

    Of the budget `all`, any five seeds in a row test every cell once: a fifth of each type at a time.
    """
    if budget == "published":
        return data.split(len(y), seed=seed).train
    wanted = 0 if budget == "all" else SMALL[budget][0] if budget in SMALL else int(budget)
    rng = np.random.default_rng(len(y) if budget == "all" else [seed, wanted, len(y)])
    rows = [rng.permutation(np.flatnonzero(y == c)) for c in range(y.max() + 1)]
    if budget == "all":
        return np.sort(np.concatenate([mine[(np.arange(len(mine)) - seed) % PARTS != 0] for mine in rows]))
    return np.sort(np.concatenate([mine[: min(wanted, len(mine) // 2)] for mine in rows]))


def stored_split(dataset: Dataset, budget: str, seed: int, out: Path) -> tuple[np.ndarray, np.ndarray]:
    """Training and test rows (of cells of kept types, in the file's order) from OUT/splits, made where missing."""
    path = out / "splits" / f"{dataset.name}-{budget}-{seed}.npz"
    if not path.exists():
        rows = split(dataset.y, budget, seed)
        others = np.setdiff1d(np.arange(len(dataset.y)), rows)
        if budget == "published":
            others = data.split(len(dataset.y), seed=seed).test
        buffer = io.BytesIO()
        np.savez(buffer, train=rows, test=others)
        with whole(path) as part:
            part.write_bytes(buffer.getvalue())
    with np.load(path) as stored:
        if len(stored["train"]) + len(stored["test"]) > len(dataset.y):
            raise ValueError(f"{path} is a split of another dataset; delete {path.parent}")
        return stored["train"], stored["test"]


def content_of(path: Path) -> str:
    """A hash of a dataset's bytes, file or folder: a copy that is fetched or mounted anew is the same data."""
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    return fingerprint([(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files])
