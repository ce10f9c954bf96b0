"""Time and memory of phase 1 from cold: six simulated datasets, 15,000 cells x 15,000 genes, 5 epochs.

    python benchmarks/speed.py                 simulate the corpus (once), then measure in a fresh process
    python benchmarks/speed.py --repeats 5     the median of five
    python benchmarks/speed.py --mixed         training in bfloat16, where the processor has it

Prints the time of every part (read and align, pseudo-labels, training, files), the share that is not matrix products
and the peak memory. The target on 2 cores: 25 s and 0.9 GB; the published code takes 119 s and 2.0 GB. Last comes
the processor time of training against a bare loop of the same dense products in the same precision on as many threads:
what no implementation can do without: the target is 1.3 times it.
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
    parser.add_argument("--mixed", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.corpus, args.cuda, args.mixed)))
        return 0
    if not (args.corpus / "datasets.csv").exists():
        from simulate import simulate_large

        print(f"simulating the corpus in {args.corpus}")
        simulate_large(args.corpus)
    wanted = [flag for flag in ("--cuda", "--mixed") if getattr(args, flag[2:])]
    again = [sys.executable, __file__, "--one", "--corpus", str(args.corpus), *wanted]
    runs = [json.loads(subprocess.check_output(again, text=True).splitlines()[-1]) for _ in range(args.repeats)]
    print(f"{'part':<34}{'median':>10}{'min':>10}{'max':>10}")
    for part in runs[0]:
        values = [run[part] for run in runs]
        print(f"{part:<34}{statistics.median(values):>10.2f}{min(values):>10.2f}{max(values):>10.2f}")
    return 0


def measure(corpus: Path, cuda: bool, mixed: bool) -> dict[str, float]:
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
    trained = watch(train)
    clock(spent, "training", train, "pretrain")
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
            code = command.main(
                [str(argument) for argument in arguments]
                + (["--cuda"] if cuda else [])
                + (["--mixed"] if mixed else [])
            )
    finally:
        shutil.rmtree(folder)
    if code:
        raise SystemExit(code)
    spent["training"] -= spent["write state and checkpoint"]  # the state is written in the loop
    total = time.perf_counter() - begin
    bare = bare_loop(**trained["shapes"]) if not cuda else float("nan")
    return {
        **spent,
        "total": total,
        "training (processor)": trained["processor"],
        "a bare loop of its products (proc.)": bare,
        "training / bare loop": trained["processor"] / bare,
        "not matrix products (% of total)": 100 * (1 - products["products"] / total),
        "peak memory (GB)": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def watch(train: Any) -> dict[str, Any]:
    """Note the processor time of `train.pretrain`, states written apart, and the shapes of its products."""
    pretrain, noted = train.pretrain, {"processor": 0.0}

    def watched(model, tasks, optimizer, **how):
        after, writing = how.pop("after_epoch"), [0.0]

        def after_epoch(progress):
            begin = time.process_time()
            after(progress)
            writing[0] += time.process_time() - begin

        noted["shapes"] = {
            "weight": model.encoder.linear.weight.shape,
            "heads": [
                (task.batch_size(how["steps"]), len(head.weight)) for task, head in zip(tasks, model.heads, strict=True)
            ],
            "steps": how["steps"] * how["epochs"],
            "bf16": how["bf16"],
        }
        begin = time.process_time()
        found = pretrain(model, tasks, optimizer, after_epoch=after_epoch, **how)
        noted["processor"] = time.process_time() - begin - writing[0]
        return found

    train.pretrain = watched
    return noted


def bare_loop(weight: tuple[int, int], heads: list[tuple[int, int]], steps: int, bf16: bool) -> float:
    """Processor seconds of the dense products alone: `weight` (H, G), `heads` (rows, outputs) of every dataset."""
    import torch

    kind, (hidden, genes) = torch.bfloat16 if bf16 else torch.float32, weight
    x = torch.rand(sum(rows for rows, _ in heads), genes).to(kind)  # (B, G)
    w, up = torch.rand(hidden, genes).to(kind), torch.rand(len(x), hidden).to(kind)
    layers = [(torch.rand(outputs, hidden).to(kind), torch.rand(rows, outputs).to(kind)) for rows, outputs in heads]
    begin = time.process_time()
    for _ in range(steps):
        h = x @ w.T  # (B, H)
        for part, (layer, down) in zip(h.split([rows for rows, _ in heads]), layers, strict=True):
            part @ layer.T, down.T @ part, down @ layer  # noqa: B018
        up.T @ x  # noqa: B018
    return time.process_time() - begin


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
