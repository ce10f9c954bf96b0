"""One GPU: whether it learns what the CPU learns, how fast, and which limit of the card binds.

    python benchmarks/gpu.py                          checks, parts, and phases 1 and 2 at the published scale
    python benchmarks/gpu.py --cells 200000           a smaller corpus
    python benchmarks/gpu.py --device cpu --quick     the same on a small corpus without a GPU (tests/ does this)

Checked are the losses of both recipes (CPU in float32 against the device in bfloat16, 1e-3 relative), the tightness of
the clusters (1 %), and that the host never waits for the GPU inside an epoch. The roofline is measured: a copy and a
matrix product on this very device; a part's GB/s and FLOP/s count the traffic and products it cannot do without. Exits
with 1 where a check fails.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import h5py
import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans

import data_loader as data
import ranks
import recipes
import utils
from benchmarks import scale
from model import Encoder, embed
from stages import cluster, on_device, train
from stages.batch import SparseRows

LOSS, TIGHT = 1e-3, 0.01  # relative differences that are allowed
HIDDEN = 200


@dataclass(frozen=True)
class Size:
    """How much of everything: at full scale a step of the paper recipe is 30,000 cells."""

    checked: tuple[int, ...]  # cells of the datasets that are trained on both devices
    timed: tuple[int, ...]  # and of those that are trained for the clock
    matrix: int  # rows and columns of the product of the roofline
    copied: int  # numbers of its copy


FULL = Size((3000, 1500, 800), (60_000, 30_000, 10_000), 8192, 1 << 28)
QUICK = Size((240, 150), (600, 300), 256, 1 << 20)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--cells", type=int, default=910_000)
    parser.add_argument("--datasets", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="small corpora, no phases")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "scpretrain-scale")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("PyTorch sees no CUDA device here; --device cpu --quick runs the same functions without one")
        return 2
    device, size = torch.device(args.device), QUICK if args.quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        failed = checks(device, corpora(Path(folder) / "checked", size.checked))
        limits = roofline(device, size)
        parts(device, corpora(Path(folder) / "timed", size.timed), limits)
    if not args.quick:
        phases(args.folder, args.cells, args.datasets, args.device)
    return int(failed)


# -- corpora ----------------------------------------------------------------
def corpora(folder: Path, cells: Sequence[int]) -> dict[str, list[csr_matrix]]:
    """Simulated datasets (N, G) of the published kind, by the scale of each recipe."""
    scale.make_corpus(folder, list(cells))
    counts = []
    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path) as file:
            stored = file["exprs"]
            arrays = stored["data"][:].astype(np.float32), stored["indices"][:].astype(np.int32), stored["indptr"][:]
            counts.append(csr_matrix(arrays, shape=tuple(stored["shape"][:])))
    return {"paper": counts, "scpretrain2": [data.log_normalised(one) for one in counts]}


def recipe_of(name: str) -> recipes.Recipe:
    return recipes.Paper(kmeans=True) if name == "paper" else recipes.ScPretrain2()


def corpus_of(name: str, matrices: list[csr_matrix], device: torch.device) -> recipes.Corpus:
    recipe, genes = recipe_of(name), [f"GENE{g}" for g in range(matrices[0].shape[1])]
    labels = [recipe.pseudo_labels(matrix, None, device) for matrix in matrices]
    return recipes.Corpus(genes, [np.ones(len(genes), bool)] * len(matrices), matrices, labels)


# -- checks ----------------------------------------------------------------
def checks(device: torch.device, found: dict[str, list[csr_matrix]]) -> bool:
    """Print what differs between the CPU and the device; whether anything differs by more than it may."""
    failed, cpu = False, torch.device("cpu")
    for name, matrices in found.items():
        corpus = corpus_of(name, matrices, cpu)
        plain, _ = trained(name, corpus, cpu, bf16=False)
        there, _ = trained(name, corpus, device, bf16=True)
        apart = max(abs(a - b) / abs(a) for a, b in zip(plain, there, strict=True))
        failed |= say(f"{name}: losses of float32 on the CPU and bfloat16 on {device.type}", apart, LOSS)
        matrix = matrices[0]
        sizes, points = recipe_of(name).sizes(matrix.shape[0]), matrix.toarray()
        if name == "paper":  # a single run from random cells: alike only if the cells are the same
            both = same_start(points, sizes, device)
        else:
            both = recipe_of(name).pseudo_labels(matrix, None, cpu), on_the_device(matrix, device)
        loose = max(tightness(points, *pair) for pair in zip(both[0].T, both[1].T, strict=True))
        failed |= say(f"{name}: inertia of {', '.join(map(str, sizes))} clusters beyond the CPU's", loose, TIGHT)
    return failed


def say(what: str, apart: float, most: float) -> bool:
    """Print a relative difference; whether it is too large."""
    verdict = "too much" if not apart <= most else "ok"
    print(f"{what}: {apart:.2e}, at most {most:.0e}: {verdict}", flush=True)
    return verdict != "ok"


def on_the_device(matrix: csr_matrix, device: torch.device) -> np.ndarray:
    """Pseudo-labels (N, 3) of scpretrain2 by the functions of a GPU, on the CPU too."""
    recipe = recipes.ScPretrain2()
    points = recipe.points_on(device, matrix, None)
    return on_device.kmeans(points, recipe.sizes(len(points)), seed=recipe.seed, spread=True).cpu().numpy()


def same_start(points: np.ndarray, sizes: Sequence[int], device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Clusters (N, 3) from the same random cells by scikit-learn and by the functions of a GPU."""
    rng = np.random.default_rng(0)
    starts = [points[rng.choice(len(points), size, replace=False)] for size in sizes]
    plain = [
        KMeans(len(start), init=start, n_init=1, max_iter=on_device.ITERATIONS, tol=0.0).fit_predict(points)
        for start in starts
    ]
    there, centres = torch.from_numpy(points).to(device), torch.from_numpy(np.vstack(starts)).to(device)
    return np.stack(plain, axis=1), on_device.lloyd(there, centres, sizes)[0].cpu().numpy()


def tightness(points: np.ndarray, plain: np.ndarray, ours: np.ndarray) -> float:
    """By how much the inertia of clusters is above that of others, relative; below it: 0."""
    sums = []
    for labels in (plain, ours):
        member = csr_matrix((np.ones(len(labels), np.float32), (labels, np.arange(len(labels)))))
        means = (member @ points) / np.maximum(member.sum(axis=1), 1)
        sums.append(float(np.square(points - np.asarray(means)[labels]).sum()))
    return max(0.0, sums[1] / sums[0] - 1)


def trained(name: str, corpus: recipes.Corpus, device: torch.device, *, bf16: bool) -> tuple[list[float], list[float]]:
    """The losses of two epochs without dropout (whose chance is the device's own), and when each epoch ended."""
    recipe = recipe_of(name)
    utils.seed_everything(recipe.seed)
    training = recipe.network(corpus, None, device)
    if hasattr(training.model, "dropout"):
        training.model.dropout = 0.0
    tasks = [
        train.Task(str(i), SparseRows(x, device, log1p=recipe.log1p), torch.from_numpy(labels).to(device))
        for i, (x, labels) in enumerate(zip(corpus.matrices, corpus.labels, strict=True))
    ]
    ends = [time.perf_counter()]
    with no_waiting(device):
        progress = train.pretrain(
            training.model, tasks, training.optimizer, epochs=2, steps=recipe.batch_num, patience=9, seed=recipe.seed,
            sizes=training.sizes, bf16=bf16, after_epoch=lambda _: ends.append(time.perf_counter()),
        )  # fmt: skip
    return progress.history, ends


@contextmanager
def no_waiting(device: torch.device):
    """A RuntimeError where the host waits for the GPU between the start of an epoch and the reading of its loss."""
    if device.type != "cuda":
        yield
        return
    drawn, total = train._Order.of, ranks.total

    def epoch_begins(*arguments):
        torch.cuda.set_sync_debug_mode("default")  # the rows of the epoch are sent
        try:
            return drawn(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    def epoch_ends(*arguments):
        torch.cuda.set_sync_debug_mode("default")
        return total(*arguments)

    train._Order.of, ranks.total = epoch_begins, epoch_ends  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
        train._Order.of, ranks.total = drawn, total  # type: ignore[method-assign]


# -- the clock ----------------------------------------------------------------
@dataclass(frozen=True)
class Limits:
    """What the device can do at most, measured: bytes a second of a copy, operations a second of a product."""

    copy: float
    float32: float
    bfloat16: float


def seconds_of(work: Callable[[], object], device: torch.device, times: int = 5) -> float:
    """The best of a few runs after one that warms up."""
    found = []
    for _ in range(times + 1):
        wait(device)
        begin = time.perf_counter()
        work()
        wait(device)
        found.append(time.perf_counter() - begin)
    return min(found[1:])


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def roofline(device: torch.device, size: Size) -> Limits:
    """Measure the limits, and begin the table with them."""
    x, n = torch.rand(size.copied, device=device), size.matrix
    y = torch.empty_like(x)
    copy = 8 * size.copied / seconds_of(lambda: y.copy_(x), device)
    square = torch.rand(n, n, device=device)
    products = [
        2 * n**3 / seconds_of(lambda one=one: one @ one, device)  # type: ignore[misc]
        for one in (square, square.bfloat16())
    ]
    limits = Limits(copy, *products)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"the CPU, {torch.get_num_threads()} threads"
    print(f"\n{name}: copy {copy / 1e9:,.0f} GB/s, products of {n:,} x {n:,} in float32 {products[0] / 1e12:,.2f} and")
    print(f"in bfloat16 {products[1] / 1e12:,.2f} TFLOP/s; a part's share is of these\n")
    print(f"{'part':<44}{'seconds':>9}{'cells/s':>12}{'GB/s':>9}{'share':>7}{'TFLOP/s':>9}{'share':>7}  bound by")
    return limits


def line(part: str, seconds: float, cells: int, moved: float, products: float, limits: Limits, peak: float) -> None:
    """A line of the table: what was moved (bytes) and multiplied (operations), against what could have been."""
    memory, compute = moved / seconds / limits.copy, products / seconds / peak
    binds = "memory" if memory > compute else "products"
    if max(memory, compute) < 0.3:
        binds = f"neither (launches, waiting); {binds} next"
    print(
        f"{part:<44}{seconds:>9.3f}{cells / seconds:>12,.0f}{moved / seconds / 1e9:>9,.0f}{memory:>7.0%}"
        f"{products / seconds / 1e12:>9.2f}{compute:>7.0%}  {binds}",
        flush=True,
    )


def parts(device: torch.device, found: dict[str, list[csr_matrix]], limits: Limits) -> None:
    """The table: components, k-means, an epoch of training, embedding, and annotate's share of it."""
    big = found["scpretrain2"][0]
    rows = SparseRows(big, device)
    cells, genes = rows.shape
    sample, width = min(cells, on_device.SAMPLE), 50 + on_device.BEYOND
    spent = seconds_of(lambda: on_device.components(rows, 50), device, 2)
    visits = 2 * on_device.PASSES + 1  # every pass reads the sample twice
    line("50 components", spent, sample, 4.0 * sample * genes * visits, 2.0 * sample * genes * width * visits, limits,
         limits.float32)  # fmt: skip
    points = on_device.project(rows, *on_device.components(rows, 50))
    for name, sizes in (("paper", cluster.partition_sizes(cells)), ("scpretrain2", cluster.few_sizes(cells))):
        spread = name != "paper"
        spent = seconds_of(lambda: on_device.kmeans(points, sizes, spread=spread), device, 2)  # noqa: B023
        clusters, passes = sum(sizes) * (2 if spread else 1), on_device.ITERATIONS + 1
        line(f"k-means, {', '.join(map(str, sizes))} of 50", spent, cells, passes * 4.0 * cells * (50 + 2 * clusters),
             passes * 4.0 * cells * clusters * 50, limits, limits.float32)  # fmt: skip
    for name, matrices in found.items():
        training(name, matrices, device, limits)
    encoder = Encoder(genes, HIDDEN).to(device)
    spent = seconds_of(lambda: embed(encoder, rows), device, 2)
    line("embedding", spent, cells, 8.0 * big.nnz + 8.0 * cells * genes, 2.0 * cells * genes * HIDDEN, limits,
         limits.float32)  # fmt: skip
    annotated(big, device, limits)


def training(name: str, matrices: list[csr_matrix], device: torch.device, limits: Limits) -> None:
    """The second epoch of a recipe."""
    corpus = corpus_of(name, matrices, device)
    _, ends = trained(name, corpus, device, bf16=True)
    recipe = recipe_of(name)
    sizes = [max(1, len(one) // recipe.batch_num) for one in corpus.labels]
    if name == "scpretrain2":
        roots = np.sqrt([len(one) for one in corpus.labels])
        shares = roots / roots.sum() * recipes.ScPretrain2.STEP_CELLS
        sizes = np.maximum(recipes.ScPretrain2.LEAST_STEP_CELLS, np.rint(shares)).astype(int).tolist()
    dense = float(sum(sizes) * recipe.batch_num * matrices[0].shape[1])  # numbers in all batches of an epoch
    heads = sum(n * recipe.batch_num * sum(ks) for n, ks in zip(sizes, corpus.partitions, strict=True))
    # x is zeroed, read and cast, and its bfloat16 read by two products; scpretrain2 centres, scales and hides it first
    moved = dense * (14 if name == "paper" else 14 + 8 * 4)
    products = 4 * dense * HIDDEN + 6.0 * heads * HIDDEN
    line(f"training, {name}: an epoch of {sum(sizes):,} x {recipe.batch_num}", ends[2] - ends[1],
         sum(sizes) * recipe.batch_num, moved, products, limits, limits.bfloat16)  # fmt: skip


def annotated(log: csr_matrix, device: torch.device, limits: Limits) -> None:
    """What annotate does most of for a cell, with its usual sizes: one map of its genes, and its nearest anchors.

    annotate itself runs on the CPU; this is what these two would take on the device.
    """
    width, anchors, views, most = HIDDEN + 150, 5000, 250, 14
    rows, genes = SparseRows(log, device), log.shape[1]
    weights = torch.rand(genes, width, device=device)
    known = torch.rand(anchors, views, device=device)

    def label() -> torch.Tensor:
        found = []
        for _, x in on_device.blocks(rows):
            features = (x @ weights)[:, :views]
            found.append(torch.cdist(features, known).topk(most, largest=False).indices)
        return torch.cat(found)

    cells = len(rows)
    products = 2.0 * cells * (genes * width + anchors * views)
    line("annotate: map and nearest anchors", seconds_of(label, device, 2), cells,
         8.0 * log.nnz + 8.0 * cells * (genes + anchors), products, limits, limits.float32)  # fmt: skip


def phases(folder: Path, cells: int, datasets: int, device: str) -> None:
    """Phases 1 and 2 of both recipes as commands, in a process each, from files to checkpoint."""
    corpus = folder / f"corpus-{cells}-{datasets}"
    if not (corpus / "datasets.csv").exists():
        scale.make_corpus(corpus, scale.sizes(cells, datasets))
    print(f"\n{'recipe':<14}{'stage':<10}{'seconds':>9}{'cells/s':>12}")
    for recipe in scale.EPOCHS:
        work = folder / f"gpu-{cells}-{recipe}"
        shutil.rmtree(work, ignore_errors=True)
        for stage, command in scale.stages(corpus, work, recipe):
            if stage.startswith("phase"):
                seconds = scale.measure([*command, *(["--cuda"] if device == "cuda" else [])], work / f"{stage}.log")[0]
                print(f"{recipe:<14}{stage:<10}{seconds:>9.1f}{cells / seconds:>12,.0f}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
