"""Few labels: scpretrain2 against strong baselines, on the same stored splits, datasets it has never seen first of all.

python benchmarks/few_labels.py --data_dir DIR            5 and 20 labelled cells a type, the published split, and all
python benchmarks/few_labels.py --data_dir DIR --quick    the smallest datasets, one seed
python benchmarks/few_labels.py --data_dir DIR --report   the table and the figure of what is there

Baselines, each with its setting picked by cross-validation on the training cells: logistic regression, linear SVM and
random forest on log-normalised genes, logistic regression on 50 principal components of the dataset's own cells.
Ours: the few-label classifier with a map of the dataset's own cells, for which the corpus is a prior; `no
pre-training`: without the corpus; `frozen encoder`: its output in the place of the map; `genes alone`: neither.
New dataset: pre-trained without it and without the datasets that share cells with it (--families). Transductive: its
cells were in pre-training, without labels. Budget `all` is the ceiling: four fifths of all cells are labelled, and the
seeds are the folds of one cross-validation. Budgets like `3@120` (3 labels a type of 120 cells) are run when --budgets
names them, each method on what is left of the dataset. CellTypist and scANVI run when --methods names them.
Results are appended to OUT/results.csv as they come, and a run goes on where an earlier one stopped; several may run at
once on different --methods or --datasets.
"""

import argparse
import contextlib
import io
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import torch

import data_loader as data
import flags
import main as pretraining
import utils
from benchmarks import splits, table
from benchmarks.baselines import BASELINES, baseline, gene_views
from benchmarks.others import OTHERS, celltypist, missing, scanvi, scvi
from benchmarks.splits import BUDGETS, MOST_SEEDS, SMALL, WORDS, Dataset, are_counts
from files import fingerprint, whole
from model import Classifier, Encoder, embed_counts, transfer
from reading import align, catalogue
from stages import classify, embedding, score, train
from stages.batch import SparseRows
from voice import log

FOLDS, QUICK_FOLDS = 5, 2  # of families: pre-trained so many times, each time without one fold
# method: (checkpoint or kind of encoder, self-training, whether the map is made of the dataset's own cells)
OURS = {
    "scpretrain2": ("phase2", True, True),
    "no pre-training": (None, True, True),
    "frozen encoder": ("phase2", True, False),
    "random encoder": ("random", True, False),
    "genes alone": (None, True, False),
    "scpretrain2, no self-training": ("phase2", False, True),
    "no pre-training, no self-training": (None, False, True),
    "scpretrain2, transductive": ("all_phase2", True, True),
    "paper encoder": ("paper", True, False),
    "paper encoder, transductive": ("all_paper", True, False),
}
NETWORKS = {"network, fine-tuned": "phase2", "network, no pre-training": None}
METHODS = (*BASELINES, *OURS, *NETWORKS, *OTHERS)
QUICK_METHODS = (*BASELINES, "scpretrain2", "random encoder", "no pre-training")
ENCODERS = {method: kind for method, (kind, *_) in OURS.items()} | NETWORKS  # the others have none


@dataclass(frozen=True)
class Plan:
    """What a run measures, and where it writes."""

    data_dir: Path
    out: Path
    cache_dir: Path
    methods: tuple[str, ...]
    budgets: tuple[str, ...]
    datasets: tuple[str, ...]  # tested ones; none: all
    seeds: range
    network_seeds: range
    families: Path | None
    paper_model: Path | None
    quick: bool

    @property
    def results(self) -> Path:
        return self.out / "results.csv"

    @property
    def kinds(self) -> set[str]:
        """The kinds of encoder that the methods need."""
        return {kind for kind in map(ENCODERS.get, self.methods) if kind}

    def checkpoint(self, kind: str, fold: str) -> Path:
        """Where the encoder of this kind is, pre-trained without a fold or, its kind says so, on everything."""
        if kind == "all_paper" and self.paper_model:
            return self.paper_model
        if kind == "random":
            kind = "phase1"  # for its genes and its width
        return self.out / (f"{kind}.out" if kind.startswith("all_") else f"{fold}_{kind}.out")

    def rows(self) -> Iterator[tuple[str, int, str]]:
        """Budget, seed and method of every row of a dataset, in the order in which they are measured."""
        for budget in self.budgets:
            for seed in self.seeds[: MOST_SEEDS.get(budget)]:
                for method in self.methods:
                    if method not in NETWORKS or (seed in self.network_seeds and budget not in MOST_SEEDS):
                        yield budget, seed, method


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="datasets.csv and the files it lists")
    parser.add_argument("--out", type=Path, default=Path("results/few_labels"), help="default: %(default)s")
    parser.add_argument("--cache_dir", type=Path, help="for aligned matrices (default: cache in OUT)")
    parser.add_argument("--datasets", type=flags.names, metavar="A,B", help="test on these only")
    parser.add_argument("--methods", metavar="A;B", help=f"some of: {'; '.join(METHODS)}")
    parser.add_argument(
        "--budgets",
        type=flags.names,
        default=list(BUDGETS),
        help=f"some of {','.join(WORDS)} (default: the first four)",
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
    return flags.run(command, parser, argv, check)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    args.traceback = False
    usual = QUICK_METHODS if args.quick else [method for method in METHODS if args.report or method not in OTHERS]
    args.methods = [word.strip() for word in args.methods.split(";")] if args.methods else list(usual)
    if unknown := set(args.methods) - set(METHODS):
        parser.error(f"no method is called {', '.join(sorted(unknown))}; there are {'; '.join(METHODS)}")
    if lacking := [] if args.report else missing(args.methods):
        parser.error(f"{', '.join(lacking)}: not installed; pip install -r benchmarks/requirements.txt")
    if unknown := set(args.budgets) - set(WORDS):
        parser.error(f"no budget is called {', '.join(sorted(unknown))}; there are {', '.join(WORDS)}")
    if args.seeds < 1 or args.first_seed < 0:
        parser.error("--seeds must be at least 1 and --first_seed not negative")


def command(args: argparse.Namespace) -> None:
    seeds = 1 if args.quick else args.seeds
    out = args.out / "quick" if args.quick else args.out  # its checkpoints are of other datasets and of few steps
    plan = Plan(
        data_dir=args.data_dir,
        out=out,
        cache_dir=args.cache_dir or out / "cache",
        methods=tuple(args.methods),
        budgets=("5", "20") if args.quick else tuple(args.budgets),
        datasets=tuple(args.datasets or ()),
        seeds=range(args.first_seed, args.first_seed + seeds),
        network_seeds=range(args.first_seed, args.first_seed + (1 if args.quick else args.network_seeds)),
        families=args.families,
        paper_model=args.paper_model,
        quick=args.quick,
    )
    measure(plan, only_report=args.report)


def measure(plan: Plan, *, only_report: bool = False) -> None:
    """Everything that is not in the CSV yet; then the table and the figure."""
    warnings.filterwarnings("ignore", module="sklearn")  # a solver that stops early is scored as it is
    entries = [entry for entry in catalogue.read_catalogue(plan.data_dir) if entry.path is not None]
    entries = splits.smallest(entries) if plan.quick else entries
    plan.out.mkdir(parents=True, exist_ok=True)
    labelled = [entry for entry in entries if entry.labelled]
    if unknown := set(plan.datasets) - {entry.name for entry in labelled}:
        raise ValueError(f"no labelled dataset of {plan.data_dir} is called {', '.join(sorted(unknown))}")
    tested = [entry for entry in labelled if not plan.datasets or entry.name in plan.datasets]
    if not only_report:
        orthologs = catalogue.orthologs(plan.data_dir, offline=True)
        fold = {}
        if set(plan.methods) & {*OURS, *NETWORKS}:
            family = splits.families(entries, plan.families, plan.out / "families.csv")
            parts = splits.folds_of(labelled, family, QUICK_FOLDS if plan.quick else FOLDS)
            fold = {entry.name: f"fold{k}" for k, part in enumerate(parts) for entry in part}
            pretrain_all(plan, entries, parts, family)
        for entry in tested:
            test(entry, fold.get(entry.name, ""), orthologs, plan)
    results = table.read(plan.results)
    results = results[results["dataset"].isin([entry.name for entry in tested]) & results["budget"].isin(plan.budgets)]
    text = table.report(results, METHODS)
    print(text)
    with whole(plan.out / "table.txt") as part:
        part.write_text(text)
    table.draw(results, plan.out / "few_labels.png")
    log.info(f"{plan.results}, table.txt, few_labels.png and splits/ written")


# -- pre-training ----------------------------------------------------------------
def pretrain_all(
    plan: Plan, entries: Sequence[data.Entry], parts: list[list[data.Entry]], family: dict[str, str]
) -> None:
    """Both phases without each fold, and on everything; what is there already stays."""
    tested = set(plan.datasets or [entry.name for part in parts for entry in part])
    for k, part in enumerate(parts):
        if not tested & {entry.name for entry in part}:
            continue
        out = {family[entry.name] for entry in part}
        rest = [entry.name for entry in entries if family[entry.name] not in out]
        if plan.kinds & {"phase1", "phase2", "random"}:
            two_phases(plan, f"fold{k}", rest)
        if "paper" in plan.kinds:
            one_phase(plan, plan.checkpoint("paper", f"fold{k}"), rest, ["--recipe", "paper"])
    if "all_phase2" in plan.kinds:
        two_phases(plan, "all", [entry.name for entry in entries])
    if "all_paper" in plan.kinds and plan.paper_model is None:
        names = [entry.name for entry in entries]
        one_phase(plan, plan.checkpoint("all_paper", ""), names, ["--recipe", "paper"])


def two_phases(plan: Plan, stem: str, names: list[str]) -> None:
    first, second = (plan.out / f"{stem}_phase{phase}.out" for phase in (1, 2))
    recipe = ["--recipe", "scpretrain2"]
    one_phase(plan, first, names, recipe)
    one_phase(plan, second, names, [*recipe, "--pretrain_output", "--pretrained_model", str(first)])


def one_phase(plan: Plan, path: Path, names: list[str], words: list[str]) -> None:
    if path.exists():
        return
    begin = time.perf_counter()
    words = [*words, "--is_pretrain", "--kmeans", "--offline", "--data_dir", str(plan.data_dir)]
    words += ["--pt_epoch", "1", "--batch_num", "10"] if plan.quick else []
    words += ["--cache_dir", str(plan.cache_dir), "--datasets", ",".join(names), "--save_model", str(path)]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        code = pretraining.main(words)
    if code:
        raise ValueError(f"pre-training failed: {said.getvalue().strip()[-500:]}")
    log.info(f"{path.name}: pre-trained on {len(names)} datasets in {time.perf_counter() - begin:.0f} s")


# -- one dataset ----------------------------------------------------------------
def test(entry: data.Entry, fold: str, orthologs: dict[str, str], plan: Plan) -> None:
    """All methods on all splits of one dataset, a line of the CSV each."""
    known = table.read(plan.results)
    known = known[known["dataset"] == entry.name]
    done = set(zip(known["budget"], known["method"], known["seed"], known["run"], strict=True))
    checkpoints: dict[str | None, utils.Checkpoint | None] = {None: None}
    checkpoints |= {kind: utils.load_checkpoint(plan.checkpoint(kind, fold)) for kind in sorted(plan.kinds)}
    files = splits.content_of(splits.file_of(entry))
    whole_dataset: Dataset | None = None
    part: Dataset | None = None
    of: tuple[str, int] | None = None  # the budget and seed that the part was drawn for
    for budget, seed, method in plan.rows():
        checkpoint = checkpoints[ENCODERS.get(method)]
        run = run_of(method, budget, seed, files, checkpoint.identity() if checkpoint else None)
        if (budget, method, seed, run) in done:
            continue
        whole_dataset = whole_dataset or splits.prepare(entry, orthologs)
        if budget in SMALL and of != (budget, seed):
            part, of = splits.smaller(whole_dataset, budget, seed), (budget, seed)
        dataset = part if budget in SMALL else whole_dataset
        if dataset is None:  # too small for the budget
            continue
        if method == "scANVI" and not are_counts(dataset.counts):
            continue
        rows, others = splits.stored_split(dataset, budget, seed, plan.out)
        begin = time.perf_counter()
        outputs = predict(dataset, method, checkpoint, rows, others, seed)
        row = {"dataset": entry.name, "budget": budget, "method": method, "seed": seed}
        row |= {"n_train": len(rows), "n_test": len(others), "run": run}
        found = score.scores(dataset.y[others], outputs)
        row |= {name: f"{found[name]:.6f}" for name in ("macro_f1", "accuracy", "kappa")}
        table.append(plan.results, row | {"seconds": f"{time.perf_counter() - begin:.2f}"})
    if whole_dataset:
        log.info(f"{entry.name}: {len(whole_dataset.y):,} cells, {whole_dataset.types} types")


def run_of(method: str, budget: str, seed: int, files: str, identity: str | None) -> str:
    """A hash of what a row depends on; a change of the few-label classifier outdates our rows only."""
    settings = (*classify.settings().values(), classify.STRENGTHS)
    return fingerprint(method, budget, seed, files, identity, *(settings if method in OURS else ()))


def predict(
    dataset: Dataset,
    method: str,
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
    kind, self_training, own = OURS[method]
    key = kind, own, checkpoint and checkpoint.identity()
    points = dataset.once(key, lambda: (own_features if own else features)(dataset, kind, checkpoint))
    labels = np.full(len(dataset.y), -1)
    labels[rows] = y
    shares = classify.SHARES if self_training else ()
    strength = classify.choose_strength(points[rows], y, seed)  # in the order of the split, which draws the folds
    return classify.learn(points, labels, dataset.types, strength=strength, shares=shares).predict(points[others])


def own_features(dataset: Dataset, kind: str | None, checkpoint: utils.Checkpoint | None) -> np.ndarray:
    """What the few-label classifier sees of cells with a map of their own, (N, D); the checkpoint is its prior."""
    weight, bias = embedding.own(dataset.x, prior=checkpoint.prior(dataset.genes) if checkpoint else None)
    points = np.asarray(dataset.x @ weight.T + bias)  # (N, H)
    return classify.features(classify.fit_views(dataset.x, points, 0, own=True), dataset.x, points)


def features(dataset: Dataset, kind: str | None, checkpoint: utils.Checkpoint | None) -> np.ndarray:
    """The same where the third view is of a frozen encoder, (N, D), or is not there."""
    views = gene_views(dataset)
    if checkpoint is None:
        return classify.features(views, dataset.x, None)
    if kind == "random":
        columns = align.align(dataset.x, dataset.genes, checkpoint.genes)
        weight = np.random.default_rng(0).standard_normal((columns.shape[1], checkpoint.encoder.hidden))
        points = columns @ weight.astype(np.float32)
    else:
        paper = checkpoint.recipe == "paper"
        values = dataset.counts if paper else dataset.x  # log1p of the counts is what the paper recipe saw
        points = embed_counts(checkpoint.encoder, align.align(values, dataset.genes, checkpoint.genes), log1p=paper)
    points = np.asarray(points)  # (N, H)
    return classify.features([*views, classify.encoder_view(points, 0)], dataset.x, points)


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
    """What a method of benchmarks/others.py says of the cells `others`, (n_test, L)."""
    if method == "scANVI":
        labels = np.full(len(dataset.y), -1)
        labels[rows] = dataset.y[rows]
        return scanvi(
            dataset.once(("scVI", seed), lambda: scvi(dataset.counts, seed)), labels, others, dataset.types, seed
        )
    voting = "no voting" not in method
    x, y = dataset.x, dataset.y[rows]
    return celltypist(x[rows], y, x[others], dataset.genes, dataset.types, seed, voting)


if __name__ == "__main__":
    raise SystemExit(main())
