"""Time and memory of phase 1 from cold: six simulated datasets, 15,000 cells x 15,000 genes, 5 epochs.

    python benchmarks/speed.py                 simulate the corpus (once), then measure in a fresh process
    python benchmarks/speed.py --repeats 5     the median of five

Prints the time of every part (read and align, pseudo-labels, training, files), the share that is not matrix products
and the peak memory; and what a bare loop of the dense products of this training takes in the same precision. The target
on 2 cores: 25 s and 0.9 GB; the published code takes 119 s and 2.0 GB.
"""

import argparse
import contextlib
import io
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path(tempfile.gettempdir()) / "scpretrain-speed")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.corpus, args.cuda)))
        return 0
    if not (args.corpus / "datasets.csv").exists():
        from simulate import simulate_large

        print(f"simulating the corpus in {args.corpus}")
        simulate_large(args.corpus)
    again = [sys.executable, __file__, "--one", "--corpus", str(args.corpus), *(["--cuda"] if args.cuda else [])]
    runs = [json.loads(subprocess.check_output(again, text=True).splitlines()[-1]) for _ in range(args.repeats)]
    print(f"{'part':<34}{'median':>10}{'min':>10}{'max':>10}")
    for part in runs[0]:
        values = [run[part] for run in runs]
        print(f"{part:<34}{statistics.median(values):>10.2f}{min(values):>10.2f}{max(values):>10.2f}")
    return 0


def measure(corpus: Path, cuda: bool) -> dict[str, float]:
    """One cold run in this process: seconds a part, and the peak memory in GB."""
    begin = time.perf_counter()
    import torch

    import data_loader
    import main as command
    import utils
    from stages import cluster, train

    spent: dict[str, float] = defaultdict(float)
    spent["import"] = time.perf_counter() - begin
    clock(spent, "read gene names", data_loader, "gene_names")
    clock(spent, "read and align", data_loader, "aligned")
    clock(spent, "pseudo-labels", command, "labels_of")
    clock(spent, "pseudo-labels: Gram, Cholesky", cluster, "rotate")
    clock(spent, "training", train, "pretrain")
    shapes = note_shapes(train)
    clock(spent, "write state and checkpoint", utils, "save_state", "save_checkpoint")
    products: dict[str, float] = defaultdict(float)
    clock(products, "products", cluster, "ssyrk", "cholesky")
    clock(products, "products", torch.nn.functional, "linear")
    clock(products, "products", torch.Tensor, "backward")
    folder = Path(tempfile.mkdtemp())
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            arguments = [
                "--data_dir",
                corpus,
                "--offline",
                "--is_pretrain",
                "--kmeans",
                "--pt_epoch",
                "5",
                "--cache_dir",
                folder / "cache",
                "--save_model",
                folder / "model.out",
                "--recipe",
                "paper",
            ]
            code = command.main([str(argument) for argument in arguments] + (["--cuda"] if cuda else []))
    finally:
        shutil.rmtree(folder)
    if code:
        raise SystemExit(code)
    spent["training"] -= spent["write state and checkpoint"]  # the state is written in the loop
    total = time.perf_counter() - begin
    spent["training: bare loop of its products"] = bare_loop(**shapes)
    return {
        **spent,
        "total": total,
        "not matrix products (% of total)": 100 * (1 - products["products"] / total),
        "peak memory (GB)": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def note_shapes(train: Any) -> dict[str, int]:
    """What training is called with, once it is: cells (B) and genes (G) of a batch, hidden units and steps."""
    pretrain = train.pretrain
    shapes: dict[str, int] = {}

    def noted(model, tasks, *args, **how):
        sizes = how.get("sizes") or [task.batch_size(how["steps"]) for task in tasks]
        shapes.update(cells=sum(sizes), genes=tasks[0].rows.shape[1])
        shapes.update(hidden=model.encoder.hidden, steps=how["steps"] * how["epochs"])
        return pretrain(model, tasks, *args, **how)

    train.pretrain = noted
    return shapes


def bare_loop(cells: int, genes: int, hidden: int, steps: int) -> float:
    """Seconds of the encoder's products alone: forward, and the gradient of its weights; the heads' are small."""
    import torch

    x, weight, slope = torch.rand(cells, genes), torch.rand(hidden, genes), torch.rand(cells, hidden)
    begin = time.perf_counter()
    for _ in range(steps):
        x @ weight.T  # (B, H)
        slope.T @ x  # (H, G)
    return time.perf_counter() - begin


def clock(spent: dict[str, float], part: str, place: object, *names: str) -> None:
    """Add up the seconds that the functions `names` of a module or class take."""

    def timed(function: Callable) -> Callable:
        def call(*args, **kwargs):
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[part] += time.perf_counter() - begin

        return call

    for name in names:
        setattr(place, name, timed(getattr(place, name)))


if __name__ == "__main__":
    raise SystemExit(main())
