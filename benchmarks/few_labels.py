"""Few labels: scpretrain2 against strong baselines, on the same stored splits, datasets it has never seen first of all.

python benchmarks/few_labels.py --data_dir DIR            5 and 20 labelled cells a type, the published split, and all
python benchmarks/few_labels.py --data_dir DIR --quick    the smallest datasets, one seed
python benchmarks/few_labels.py --data_dir DIR --report   the table and the figure of what is there

Baselines, each with its setting picked by cross-validation on the training cells: logistic regression, linear SVM and
random forest on log-normalised genes, logistic regression on 50 principal components of the dataset's own cells.
New dataset: pre-trained without it and without the datasets that share cells with it (--families). Transductive: its
cells were in pre-training, without labels. Budget `all` is the ceiling: four fifths of all cells are labelled, and the
seeds are the folds of one cross-validation. CellTypist and scANVI run when --methods names them.
Results are appended to OUT/results.csv as they come, and a run goes on where an earlier one stopped; several may run at
once on different --methods or --datasets.
"""

# ruff: noqa: E402  the project's folder comes first

import argparse
import contextlib
import hashlib
import io
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix
from scipy.stats import wilcoxon
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

import data_loader as data
import flags
import main as command
import utils
from benchmarks.others import OTHERS, are_counts, celltypist, missing, scanvi, scvi
from files import fingerprint, whole
from model import Classifier, Encoder, embed_counts, transfer
from reading import align
from stages import classify, plot, score, train
from stages.batch import SparseRows

# budget: its words in the table
BUDGETS = {
    "5": "5 labelled cells a type",
    "20": "20 labelled cells a type",
    "published": "published split",
    "all": "four fifths of all labels",
}
LEAST_CELLS = 10  # types with fewer are left out
FOLDS = 5  # of families: pre-trained so many times, each time without one fold
PARTS = 5  # of a dataset's cells, for the budget `all`: one part is tested
MOST_SEEDS = {"published": 3, "all": PARTS}  # the splits of the one are large, the other has no more
# public datasets that share cells, by the start of their names
KNOWN_FAMILIES = {"Kang_": "Kang", "Zheng_": "Zheng", "Tian_celseq2_5cl": "Tian5"}
COMPARED = 1000  # genes by which cells are told to be the same
SHARED_CELLS = 0.05  # of the smaller dataset: two that share more are a family

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)  # C of the baselines' LR
MARGINS = (0.0001, 0.001, 0.01, 0.1, 1.0)  # of the SVM, whose margin is a hard one from there on
TREES = 200
CHOSEN_ON = 500  # training cells by which C is chosen, at most

BASELINES = ("LR", "linear SVM", "random forest", "LR on 50 PCs")
# method: (checkpoint or kind of encoder, self-training)
OURS = {
    "scpretrain2": ("phase2", True),
    "phase 1 only": ("phase1", True),
    "random encoder": ("random", True),
    "no pre-training": (None, True),
    "scpretrain2, no self-training": ("phase2", False),
    "no pre-training, no self-training": (None, False),
    "scpretrain2, transductive": ("all_phase2", True),
    "paper encoder": ("paper", True),
    "paper encoder, transductive": ("all_paper", True),
}
NETWORKS = {"network, fine-tuned": "phase2", "network, no pre-training": None}
METHODS = (*BASELINES, *OURS, *NETWORKS, *OTHERS)
QUICK_METHODS = (*BASELINES, "scpretrain2", "random encoder", "no pre-training")
COLUMNS = (
    "dataset",
    "budget",
    "method",
    "seed",
    "n_train",
    "n_test",
    "macro_f1",
    "accuracy",
    "kappa",
    "seconds",
    "run",
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="datasets.csv and the files it lists")
    parser.add_argument("--out", type=Path, default=Path("results/few_labels"), help="default: %(default)s")
    parser.add_argument("--cache_dir", type=Path, help="for aligned matrices (default: cache in OUT)")
    parser.add_argument("--datasets", type=flags.names, metavar="A,B", help="test on these only")
    parser.add_argument("--methods", metavar="A;B", help=f"some of: {'; '.join(METHODS)}")
    parser.add_argument(
        "--budgets", type=flags.names, default=list(BUDGETS), help="some of 5,20,published,all (default: these four)"
    )
    parser.add_argument("--seeds", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "--first_seed", type=int, default=20, help="default: %(default)s; smaller ones were used to choose the recipe"
    )
    parser.add_argument("--network_seeds", type=int, default=2, help="for the two networks (default: %(default)s)")
    parser.add_argument("--families", type=Path, metavar="FILE", help="lines NAME,FAMILY; else they are found")
    parser.add_argument(
        "--paper_model", type=Path, metavar="FILE", help="checkpoint of the paper recipe on all datasets"
    )
    parser.add_argument("--quick", action="store_true", help="under 3 minutes: small datasets, one seed")
    parser.add_argument("--report", action="store_true", help="only the table and the figure")
    return flags.run(measure, parser, argv, check)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    args.traceback = False
    usual = QUICK_METHODS if args.quick else [method for method in METHODS if args.report or method not in OTHERS]
    args.methods = [word.strip() for word in args.methods.split(";")] if args.methods else list(usual)
    if unknown := set(args.methods) - set(METHODS):
        parser.error(f"no method is called {', '.join(sorted(unknown))}; there are {'; '.join(METHODS)}")
    if lacking := [] if args.report else missing(args.methods):
        parser.error(f"{', '.join(lacking)}: not installed; pip install -r benchmarks/requirements.txt")
    if unknown := set(args.budgets) - set(BUDGETS):
        parser.error(f"no budget is called {', '.join(sorted(unknown))}; there are {', '.join(BUDGETS)}")
    if args.seeds < 1 or args.first_seed < 0:
        parser.error("--seeds must be at least 1 and --first_seed not negative")


def measure(args: argparse.Namespace) -> None:
    """Everything that is not in the CSV yet; then the table and the figure."""
    warnings.filterwarnings("ignore", module="sklearn")  # a solver that stops early is scored as it is
    entries = [entry for entry in data.catalogue(args.data_dir) if entry.path is not None]
    folds = 5
    if args.quick:
        entries, folds = smallest(entries), 2
        args.seeds, args.network_seeds, args.budgets = 1, 1, ["5", "20"]
        args.out = args.out / "quick"  # its checkpoints are of other datasets and of few steps
    args.out.mkdir(parents=True, exist_ok=True)
    args.cache_dir = args.cache_dir or args.out / "cache"
    labelled = [entry for entry in entries if entry.labelled]
    if unknown := set(args.datasets or ()) - {entry.name for entry in labelled}:
        raise ValueError(f"no labelled dataset of {args.data_dir} is called {', '.join(sorted(unknown))}")
    tested = [entry for entry in labelled if not args.datasets or entry.name in args.datasets]
    if not args.report:
        table = data.orthologs(args.data_dir, offline=True)
        stem = {}
        if set(args.methods) & {*OURS, *NETWORKS}:
            family = families(entries, args.families, args.out / "families.csv")
            parts = folds_of(labelled, family, folds)
            stem = {entry.name: f"fold{k}" for k, part in enumerate(parts) for entry in part}
            pretrain_all(args, entries, parts, family)
        for entry in tested:
            test(entry, stem.get(entry.name, ""), table, args)
    results = read(args.out / "results.csv")
    results = results[results["dataset"].isin([entry.name for entry in tested]) & results["budget"].isin(args.budgets)]
    text = report(results)
    print(text)
    with whole(args.out / "table.txt") as part:
        part.write_text(text)
    draw(results, args.out / "few_labels.png")
    print(f"{args.out / 'results.csv'}, table.txt, few_labels.png and splits/ written")


def smallest(entries: list[data.Entry]) -> list[data.Entry]:
    """Ten labelled datasets and four others with the smallest files: what --quick runs on."""
    order = sorted(entries, key=lambda entry: entry.path.stat().st_size)
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
                print(f"{first.name} and {second.name} share cells: one family")
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


# -- pre-training ----------------------------------------------------------------
def pretrain_all(
    args: argparse.Namespace, entries: Sequence[data.Entry], parts: list[list[data.Entry]], family: dict[str, str]
) -> None:
    """Both phases without each fold, and on everything; what is there already stays."""
    kinds = {OURS[method][0] for method in args.methods if method in OURS} | {
        NETWORKS[method] for method in args.methods if method in NETWORKS
    }
    tested = set(args.datasets or [entry.name for part in parts for entry in part])
    for k, part in enumerate(parts):
        if not tested & {entry.name for entry in part}:
            continue
        out = {family[entry.name] for entry in part}
        rest = [entry.name for entry in entries if family[entry.name] not in out]
        if kinds & {"phase1", "phase2", "random"}:
            two_phases(args, f"fold{k}", rest)
        if "paper" in kinds:
            one_phase(args, args.out / f"fold{k}_paper.out", rest, ["--recipe", "paper"])
    if "all_phase2" in kinds:
        two_phases(args, "all", [entry.name for entry in entries])
    if "all_paper" in kinds and args.paper_model is None:
        args.paper_model = args.out / "all_paper.out"
        one_phase(args, args.paper_model, [entry.name for entry in entries], ["--recipe", "paper"])


def two_phases(args: argparse.Namespace, stem: str, names: list[str]) -> None:
    first, second = (args.out / f"{stem}_phase{phase}.out" for phase in (1, 2))
    recipe = ["--recipe", "scpretrain2"]
    one_phase(args, first, names, recipe)
    one_phase(args, second, names, [*recipe, "--pretrain_output", "--pretrained_model", str(first)])


def one_phase(args: argparse.Namespace, path: Path, names: list[str], flags: list[str]) -> None:
    if path.exists():
        return
    begin = time.perf_counter()
    flags = [*flags, "--is_pretrain", "--kmeans", "--offline", "--data_dir", str(args.data_dir)]
    flags += ["--pt_epoch", "1", "--batch_num", "10"] if args.quick else []
    flags += ["--cache_dir", str(args.cache_dir), "--datasets", ",".join(names), "--save_model", str(path)]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        code = command.main(flags)
    if code:
        raise ValueError(f"pre-training failed: {said.getvalue().strip()[-500:]}")
    print(f"{path.name}: pre-trained on {len(names)} datasets in {time.perf_counter() - begin:.0f} s", flush=True)


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
    made: dict[object, object] = field(default_factory=dict)

    def once(self, key: object, make: Callable[[], object]) -> object:
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]


def prepare(entry: data.Entry, table: dict[str, str]) -> Dataset:
    with contextlib.redirect_stdout(io.StringIO()):
        raw = data.prepare(entry, table)
        log = data.prepare(entry, table, normalise=data.log_normalised)
    labels = raw.types.labels
    rows = np.flatnonzero(np.bincount(labels)[labels] >= LEAST_CELLS)
    kept, y = np.unique(labels[rows], return_inverse=True)
    return Dataset(entry.name, log.counts[rows].tocsr(), raw.counts[rows].tocsr(), log.genes, y, len(kept))


def split(y: np.ndarray, budget: str, seed: int) -> np.ndarray:
    """Training rows; all others are test rows, but for the published split's validation rows, which nobody uses.

    Of the budget `all`, any five seeds in a row test every cell once: a fifth of each type at a time.
    """
    if budget == "published":
        return data.split(len(y), seed=seed).train
    wanted = 0 if budget == "all" else int(budget)
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


def test(entry: data.Entry, stem: str, table: dict[str, str], args: argparse.Namespace) -> None:
    """All methods on all splits of one dataset, a line of the CSV each."""
    path = args.out / "results.csv"
    paths = {None: None, "random": args.out / f"{stem}_phase1.out"}
    paths |= {kind: args.out / f"{stem}_{kind}.out" for kind in ("phase1", "phase2", "paper")}
    paths |= {"all_phase2": args.out / "all_phase2.out", "all_paper": args.paper_model}
    done = {(row.budget, row.method, row.seed, row.run) for row in read(path).itertuples() if row.dataset == entry.name}
    checkpoints: dict[str | None, utils.Checkpoint | None] = {}
    dataset = None
    files = content_of(entry.path)
    for budget in args.budgets:
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            if seed >= args.first_seed + MOST_SEEDS.get(budget, args.seeds):
                continue
            for method in args.methods:
                late = seed >= args.first_seed + args.network_seeds
                if method in NETWORKS and (late or budget in MOST_SEEDS):
                    continue
                kind = NETWORKS.get(method) if method in NETWORKS else OURS.get(method, (None,))[0]
                if kind not in checkpoints:
                    checkpoints[kind] = utils.load_checkpoint(paths[kind]) if paths[kind] else None
                checkpoint = checkpoints[kind]
                identity = checkpoint.identity() if checkpoint else None
                run = run_of(method, budget, seed, files, identity)
                if (budget, method, seed, run) in done:
                    continue
                dataset = dataset or prepare(entry, table)
                if method == "scANVI" and not are_counts(dataset.counts):
                    continue
                rows, others = stored_split(dataset, budget, seed, args.out)
                begin = time.perf_counter()
                outputs = predict(dataset, method, kind, checkpoint, rows, others, seed)
                row = {"dataset": entry.name, "budget": budget, "method": method, "seed": seed}
                row |= {"n_train": len(rows), "n_test": len(others), "run": run}
                found = score.scores(dataset.y[others], outputs)
                row |= {name: f"{found[name]:.6f}" for name in ("macro_f1", "accuracy", "kappa")}
                append(path, row | {"seconds": f"{time.perf_counter() - begin:.2f}"})
    if dataset:
        print(f"{entry.name}: {len(dataset.y):,} cells, {dataset.types} types", flush=True)


def content_of(path: Path) -> str:
    """A hash of a dataset's bytes, file or folder: a copy that is fetched or mounted anew is the same data."""
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    return fingerprint([(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files])


def run_of(method: str, budget: str, seed: int, files: str, identity: str | None) -> str:
    """A hash of what a row depends on; a change of the few-label classifier outdates our rows only."""
    settings = (classify.SHARES, classify.TILT, classify.ENCODER_WEIGHT, classify.STRENGTHS)
    return fingerprint(method, budget, seed, files, identity, *(settings if method in OURS else ()))


def predict(
    dataset: Dataset,
    method: str,
    kind: str | None,
    checkpoint: utils.Checkpoint | None,
    rows: np.ndarray,
    others: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Probabilities or decision values (n_test, L) of one method."""
    y = dataset.y[rows]
    if len(np.unique(y)) < 2:
        return np.tile(np.eye(dataset.types)[y[0]], (len(others), 1))
    if method in BASELINES:
        return baseline(dataset, method, rows, others, seed)
    if method in NETWORKS:
        return network(dataset, checkpoint, rows, others, seed)
    if method in OTHERS:
        return competitor(dataset, method, rows, others, seed)
    points = dataset.once((kind, checkpoint and checkpoint.identity()), lambda: features(dataset, kind, checkpoint))
    labels = np.full(len(dataset.y), -1)
    labels[rows] = y
    strength = classify.choose_strength(points[rows], y, seed)
    shares = classify.SHARES if OURS[method][1] else ()
    return classify.predict(classify.self_train(points, labels, strength, shares), points[others], dataset.types)


def features(dataset: Dataset, kind: str | None, checkpoint: utils.Checkpoint | None) -> np.ndarray:
    """What the few-label classifier sees of all cells, (N, D): `stages.classify.fit` without the labels."""
    embedding = None
    if kind == "random":
        columns = align.align(dataset.x, dataset.genes, checkpoint.genes)
        weight = np.random.default_rng(0).standard_normal((columns.shape[1], checkpoint.encoder.hidden))
        embedding = columns @ weight.astype(np.float32)
    elif checkpoint:
        paper = checkpoint.recipe == "paper"
        values = dataset.counts if paper else dataset.x  # log1p of the counts is what the paper recipe saw
        embedding = embed_counts(checkpoint.encoder, align.align(values, dataset.genes, checkpoint.genes), log1p=paper)
    views = gene_views(dataset)
    if embedding is not None:  # as fit_views does, which would fit those of the genes again
        embedding = np.asarray(embedding)
        one = classify.fit_view(embedding, None, np.ones(embedding.shape[1]), 50, 0)
        views = [*views, ("encoder", one)]
    return classify.features(views, dataset.x, embedding)


def gene_views(dataset: Dataset) -> list:
    return dataset.once("views", lambda: classify.fit_views(dataset.x, None, 0))


def network(
    dataset: Dataset, checkpoint: utils.Checkpoint | None, rows: np.ndarray, others: np.ndarray, seed: int
) -> np.ndarray:
    """The published network on log-normalised genes, from the encoder or from a random start; every weight learns."""
    torch.manual_seed(seed)
    encoder = Encoder(len(dataset.genes), checkpoint.encoder.hidden if checkpoint else 200)
    net = Classifier(encoder, dataset.types)
    if checkpoint:
        transfer(encoder, dataset.genes, checkpoint.encoder, checkpoint.genes)
    labels = torch.from_numpy(dataset.y)
    known = train.Labelled(SparseRows(dataset.x[rows]), labels[torch.from_numpy(rows)])
    nothing = train.Labelled(SparseRows(dataset.x[:0]), labels[:0])
    train.finetune(net, known, nothing, epochs=500, lr=0.002, batch=5000, patience=30, seed=seed)  # published
    return train.predict(net, SparseRows(dataset.x[others]))


def competitor(dataset: Dataset, method: str, rows: np.ndarray, others: np.ndarray, seed: int) -> np.ndarray:
    if method == "scANVI":
        labels = np.full(len(dataset.y), -1)
        labels[rows] = dataset.y[rows]
        return scanvi(
            dataset.once(("scVI", seed), lambda: scvi(dataset.counts, seed)), labels, others, dataset.types, seed
        )
    voting = "no voting" not in method
    x, y = dataset.x, dataset.y[rows]
    return celltypist(x[rows], y, x[others], dataset.genes, dataset.types, seed, voting)


# -- baselines ----------------------------------------------------------------
def baseline(dataset: Dataset, method: str, rows: np.ndarray, others: np.ndarray, seed: int) -> np.ndarray:
    y = dataset.y[rows]
    if method == "random forest":
        forest = RandomForestClassifier(TREES, random_state=seed, n_jobs=1).fit(dataset.x[rows], y)
        return classify.predict(forest, dataset.x[others], dataset.types)
    if method == "LR on 50 PCs":  # of all cells, without labels; the total variance is 100, as ours
        points = dataset.once("pcs", lambda: gene_views(dataset)[0][1](dataset.x) * 10)
        return classify.predict(tuned(_regression, STRENGTHS, points[rows], y, seed), points[others], dataset.types)
    inside, outside = dataset.once(("rotated", rows.tobytes()), lambda: rotated(dataset.x, rows, others))
    if method == "LR":
        return classify.predict(tuned(_regression, STRENGTHS, inside, y, seed), outside, dataset.types)
    dual = True if len(rows) > CHOSEN_ON else "auto"  # on many cells "auto" is the primal, ten times as slow
    svm = tuned(lambda strength: _machine(strength, dual), MARGINS, inside, y, seed)
    values = decisions(svm, outside)
    out = np.full((len(others), dataset.types), values.min() - 1)
    out[:, svm.classes_] = values
    return out


def _regression(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=300)


def _machine(strength: float, dual: bool | str) -> LinearSVC:
    return LinearSVC(C=strength, dual=dual, max_iter=2000, random_state=0)


def rotated(x: csr_matrix, rows: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Training and test cells in the dimensions that the training cells span.

    A linear classifier with a ridge penalty gives the same answers there as on all genes, in a fraction of the time.
    """
    x = x.astype(np.float64)
    known = x[rows].T.toarray()  # (G, n_train): beside it all stays sparse
    inside, outside = x[rows] @ known, x[others] @ known  # inner products of cells
    mean = inside.mean(axis=0)
    outside = outside - outside.mean(axis=1, keepdims=True) - mean + mean.mean()  # as if centred on the training mean
    inside = inside - mean[:, None] - mean + mean.mean()
    values, vectors = np.linalg.eigh(inside)
    keep = values > values.max() * 1e-10
    root = np.sqrt(values[keep])
    return vectors[:, keep] * root, outside @ (vectors[:, keep] / root)  # (n_train, R), (n_test, R)


def decisions(model: object, points: np.ndarray) -> np.ndarray:
    """A value for every class, (N, L): logarithms of probabilities where the model has them."""
    if hasattr(model, "predict_proba"):
        return np.log(model.predict_proba(points) + 1e-12)
    values = model.decision_function(points)
    return values if values.ndim == 2 else np.stack([-values, values], axis=1)


def tuned(make: Callable, strengths: Sequence[float], points: np.ndarray, y: np.ndarray, seed: int) -> object:
    """The model fitted with the C that suits its training cells best, or 500 of them, evenly over the types."""
    rows = evenly(y, CHOSEN_ON, seed)
    return make(chosen(make, strengths, points[rows], y[rows], seed)).fit(points, y)


def evenly(y: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Rows of at most `most` cells, of every type as many as of any other while it has them."""
    order = np.random.default_rng(seed).permutation(len(y))
    rank = np.empty(len(y), dtype=int)  # of a cell within its type
    for c in np.unique(y):
        mine = order[y[order] == c]
        rank[mine] = np.arange(len(mine))
    return np.sort(np.argsort(rank, kind="stable")[:most])


def chosen(make: Callable, strengths: Sequence[float], points: np.ndarray, y: np.ndarray, seed: int) -> float:
    """The C that gets most held-out cells right in three folds; ties go to the smaller loss."""
    rng = np.random.default_rng(seed)
    part = np.full(len(y), -1)  # a type's only cell is never held out
    for c in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == c))
        if len(rows) > 1:
            part[rows] = (np.arange(len(rows)) + rng.integers(3)) % 3
    best, choice = None, strengths[len(strengths) // 2]
    for strength in strengths:
        right, likelihood = 0, 0.0
        for k in range(3):
            if not (part == k).any() or len(np.unique(y[part != k])) < 2:
                continue
            model = make(strength).fit(points[part != k], y[part != k])
            values = decisions(model, points[part == k])
            values = values - values.max(axis=1, keepdims=True)
            values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
            known = np.isin(y[part == k], model.classes_)
            at = np.searchsorted(model.classes_, y[part == k][known])
            right += int((values[known].argmax(axis=1) == at).sum())
            likelihood += values[known][np.arange(len(at)), at].sum()
        if best is None or (right, likelihood) > best:
            best, choice = (right, likelihood), strength
    return choice


# -- results ----------------------------------------------------------------
def append(path: Path, row: dict[str, object]) -> None:
    """One line, in one write: several runs may append to the same file."""
    if not path.exists():
        with contextlib.suppress(FileExistsError), open(path, "x", encoding="utf-8") as file:
            file.write(",".join(COLUMNS) + "\n")
    line = ",".join(f'"{row[name]}"' if "," in str(row[name]) else str(row[name]) for name in COLUMNS) + "\n"
    with open(path, "a", encoding="utf-8") as file:
        file.write(line)


def read(path: Path) -> pd.DataFrame:
    """All results; of a split that was run again the last one."""
    if not path.exists():
        return pd.DataFrame(columns=list(COLUMNS))
    table = pd.read_csv(path, dtype={"budget": str, "run": str, "dataset": str})
    return table.drop_duplicates(["dataset", "budget", "method", "seed"], keep="last")


def shared(results: pd.DataFrame, budget: str, methods: Sequence[str], metric: str) -> pd.DataFrame:
    """One metric on the splits that all of `methods` have: a row a dataset and seed, a column a method."""
    wanted = results[(results["budget"] == budget) & results["method"].isin(methods)]
    wide = wanted.pivot_table(index=["dataset", "seed"], columns="method", values=metric)
    return wide.reindex(columns=list(methods)).dropna()


def means(results: pd.DataFrame, budget: str, methods: Sequence[str], metric: str) -> pd.DataFrame:
    """The same over the seeds: a row a dataset."""
    return shared(results, budget, methods, metric).groupby("dataset").mean()


def report(results: pd.DataFrame) -> str:
    """The table, budget by budget; then what carries the gain."""
    lines = []
    for budget in BUDGETS:
        base = means(results, budget, BASELINES, "macro_f1")
        if not len(base):
            continue
        best = base.mean().idxmax()
        lines += ["", f"{BUDGETS[budget]}: {len(base)} datasets, best single baseline: {best}", HEADER]
        for method in METHODS:
            if line := _line(results, budget, method, best):
                lines.append(line)
        lines += _pairs(results, budget)
    return "\n".join(lines) + "\n"


HEADER = (
    f"{'':<36}{'macro F1':>9}{'accuracy':>9}{'kappa':>8}{'- best':>9}{'95 % interval':>20}{'p':>9}"
    f"{'won/tied/lost':>15}{'-.01':>6}{'sets':>6}{'splits':>8}"
)
PAIRS = (
    ("scpretrain2", "no pre-training"),
    ("scpretrain2", "random encoder"),
    ("scpretrain2", "phase 1 only"),
    ("phase 1 only", "no pre-training"),
    ("scpretrain2, no self-training", "no pre-training, no self-training"),
    ("scpretrain2, transductive", "scpretrain2"),
    ("scpretrain2", "paper encoder"),
    ("scpretrain2, transductive", "paper encoder, transductive"),
    ("scpretrain2", "network, fine-tuned"),
    ("network, fine-tuned", "network, no pre-training"),
    ("scpretrain2", "CellTypist"),
    ("scpretrain2", "scANVI"),
)


def _line(results: pd.DataFrame, budget: str, method: str, best: str) -> str:
    """Means of a method; against the best single baseline; against the best baseline of each dataset."""
    together = list(dict.fromkeys((*BASELINES, method)))
    both = means(results, budget, together, "macro_f1")
    if not len(both):
        return ""
    accuracy, kappa = (means(results, budget, together, name)[method].mean() for name in ("accuracy", "kappa"))
    splits = len(shared(results, budget, together, "macro_f1"))
    text = f"{method:<36}{both[method].mean():>9.4f}{accuracy:>9.4f}{kappa:>8.4f}"
    if method == best:
        return text
    low, high = interval(both[method] - both[best])
    against = score.compare(both[method].to_numpy(), both[list(BASELINES)].max(axis=1).to_numpy())
    counts = f"{against.won}/{against.tied}/{against.lost}"
    below = int((both[method] < both[list(BASELINES)].max(axis=1) - 0.01).sum())
    difference = (both[method] - both[best]).mean()
    p = score.compare(both[method].to_numpy(), both[best].to_numpy()).p
    text += f"{difference:>+9.4f}{f'{low:+.4f} {high:+.4f}':>20}{p:>9.3g}"
    if method in BASELINES:  # no competitor of itself
        return text
    return f"{text}{counts:>15}{below:>6}{len(both):>6}{splits:>8}"


def _pairs(results: pd.DataFrame, budget: str) -> list[str]:
    lines = []
    for first, second in PAIRS:
        both = means(results, budget, (first, second), "macro_f1")
        if len(both) > 1:
            difference = both[first] - both[second]
            p = 1.0 if np.allclose(difference, 0) else wilcoxon(difference).pvalue
            low, high = interval(difference)
            lines.append(
                f"  {first} - {second}: {difference.mean():+.4f} ({low:+.4f} to {high:+.4f}), p {p:.3g}, "
                f"{len(both)} datasets"
            )
    return lines


def interval(difference: pd.Series, draws: int = 10_000) -> tuple[float, float]:
    """95 % interval of the mean difference: datasets drawn anew with replacement."""
    values = difference.to_numpy()
    rng = np.random.default_rng(0)
    found = values[rng.integers(len(values), size=(draws, len(values)))].mean(axis=1)
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def draw(results: pd.DataFrame, path: Path) -> None:
    """scpretrain2 against the best baseline of each dataset, a panel a budget; above the line we are better."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    budgets = [b for b in BUDGETS if len(means(results, b, (*BASELINES, "scpretrain2"), "macro_f1"))]
    if not budgets:
        return
    columns = min(2, len(budgets))
    rows = -(-len(budgets) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.4 * columns, 3.6 * rows), squeeze=False)
    for axis in axes.flat[len(budgets) :]:
        axis.set_visible(False)
    for axis, budget in zip(axes.flat[: len(budgets)], budgets, strict=True):
        table = means(results, budget, (*BASELINES, "scpretrain2"), "macro_f1")
        best = table[list(BASELINES)].max(axis=1).to_numpy()
        ours = table["scpretrain2"].to_numpy()
        arms = ("scpretrain2, new dataset (macro F1)", "best of four baselines (macro F1)")
        plot.paired_scatter(
            axis, best, ours, title=BUDGETS[budget], below=f"{(ours > best).sum()} of {len(ours)} above", arms=arms
        )
    figure.tight_layout()
    with whole(path) as part:
        figure.savefig(part, format="png", dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    raise SystemExit(main())
