"""The published scale, end to end: a simulated corpus of the published sizes through every stage, time and memory each.

    python benchmarks/scale.py --cells 910000 --datasets 60       the corpus (made once, as a stream), both recipes
    python benchmarks/scale.py --quick                            a twentieth of it
    python benchmarks/scale.py --recipes scpretrain2              one recipe only

Every stage is a command of its own in a process of its own: phase 1, phase 2, testing, and the embedding of all cells.
Printed are seconds, processor seconds, cells a second, the highest anonymous and file-backed memory (from /proc, ten
times a second: Linux only) and the bytes that the stage left on disk. A stage that fails ends the run with its last
lines.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

LEAST, MOST, MEAN = 870, 160_796, 15_209  # cells of a published dataset
GENES, DRAWS = 17_298, 1_450  # of these genes about 1,000 are seen in a cell by so many draws
TYPES, BLOCK = 12, 2048
STAGES = ("phase 1", "phase 2", "testing", "embedding")
EPOCHS = {"paper": 20, "scpretrain2": None}  # None: the recipe's own


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=910_000)
    parser.add_argument("--datasets", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the cells")
    parser.add_argument("--recipes", nargs="+", default=["scpretrain2", "paper"], choices=list(EPOCHS))
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES, help="these only; files are kept")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "scpretrain-scale")
    parser.add_argument("--embed", type=Path, nargs=2, metavar=("CORPUS", "MODEL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.embed:
        return embed_all(*args.embed)
    cells = args.cells // 20 if args.quick else args.cells
    corpus = args.folder / f"corpus-{cells}-{args.datasets}"
    if not (corpus / "datasets.csv").exists():
        make_corpus(corpus, sizes(cells, args.datasets))
    print(
        f"{'recipe':<13}{'stage':<12}{'seconds':>9}{'processor':>11}{'cells/s':>10}{'anon GB':>9}"
        f"{'file GB':>9}{'disk MB':>9}"
    )
    for recipe in args.recipes:
        work = args.folder / f"run-{cells}-{recipe}"
        if "phase 1" in args.stages:
            shutil.rmtree(work, ignore_errors=True)
        for stage, command in stages(corpus, work, recipe):
            if stage not in args.stages:
                continue
            before = disk(work)
            seconds, processor, anonymous, mapped = measure(command, work / f"{stage}.log")
            print(
                f"{recipe:<13}{stage:<12}{seconds:>9.1f}{processor:>11.1f}{cells / seconds:>10,.0f}"
                f"{anonymous / 2**30:>9.2f}"
                f"{mapped / 2**30:>9.2f}{(disk(work) - before) / 2**20:>9.1f}",
                flush=True,
            )
    return 0


def sizes(cells: int, datasets: int) -> list[int]:
    """Cells of each dataset: log-normal quantiles between the published extremes, scaled to sum to `cells`."""
    from scipy.stats import norm

    spread = np.exp(1.3 * norm.ppf((np.arange(datasets) + 0.5) / datasets))
    share = np.clip(spread / spread.mean(), LEAST / MEAN, MOST / MEAN)
    share[-1] = max(share[-1], MOST / MEAN * min(1.0, datasets / 60))
    return np.maximum(60, np.rint(share / share.sum() * cells)).astype(int).tolist()


def make_corpus(folder: Path, cells: list[int]) -> None:
    """Write the datasets as a stream, half of them mouse, every other one labelled; the catalogue last."""
    folder.mkdir(parents=True, exist_ok=True)
    begin, lines = time.perf_counter(), ["name,species,labelled"]
    for i, size in enumerate(cells):
        species = ("human", "mouse")[i % 2]
        write_dataset(folder / f"Scale_{i:02d}.h5", size, species, seed=i)
        lines.append(f"Scale_{i:02d},{species},yes")
    (folder / "datasets.csv").write_text("\n".join(lines) + "\n")
    print(f"{sum(cells):,} cells in {len(cells)} datasets made in {time.perf_counter() - begin:.0f} s: {folder}")


def write_dataset(path: Path, cells: int, species: str, seed: int) -> None:
    """One Cell BLAST .h5, a block of cells at a time: nothing in memory grows with the dataset."""
    world, rng = np.random.default_rng(0), np.random.default_rng([1, seed])
    base = world.normal(0, 1.6, GENES)
    steps = world.normal(0, 1.2, (40, GENES)) * (world.random((40, GENES)) < 0.05)  # types of the whole corpus
    mine = rng.choice(40, TYPES, replace=False)
    logs = base + steps[mine] + rng.normal(0, 0.35, GENES)
    cdf = np.cumsum(np.exp(logs), axis=1)
    cdf /= cdf[:, -1:]
    names = [f"Gene{g}" if species == "mouse" else f"GENE{g}" for g in range(GENES)]
    kinds = rng.choice(TYPES, cells, p=0.8 ** np.arange(TYPES) / (0.8 ** np.arange(TYPES)).sum())
    part = path.with_suffix(".part")
    with h5py.File(part, "w") as file:
        group = file.create_group("exprs")
        grown = {"maxshape": (None,), "chunks": (1 << 18,)}
        data = group.create_dataset("data", (0,), np.int32, **grown)
        indices = group.create_dataset("indices", (0,), np.int32, **grown)
        indptr = np.zeros(cells + 1, np.int64)
        for start in range(0, cells, BLOCK):
            kind = kinds[start : start + BLOCK]
            counted, columns, seen = _block(cdf, kind, rng)
            at = len(data)
            for dataset, values in ((data, counted), (indices, columns)):
                dataset.resize((at + len(values),))
                dataset[at:] = values
            indptr[start + 1 : start + 1 + len(kind)] = at + np.cumsum(seen)
        group["indptr"], group["shape"] = indptr, np.array([cells, GENES])
        file["var_names"] = np.array(names, dtype="S")
        file["obs_names"] = np.char.add(f"{path.stem}_", np.arange(cells).astype(str)).astype("S")
        file["obs/cell_ontology_class"] = np.char.add("type ", mine[kinds].astype(str)).astype("S")
    part.rename(path)


def _block(cdf: np.ndarray, kinds: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts and genes of all entries, row by row, and how many each of B cells has."""
    draws = np.empty((len(kinds), DRAWS), np.int64)
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        draws[rows] = np.searchsorted(cdf[kind], rng.random((len(rows), DRAWS)))
    keys = np.sort((np.minimum(draws, GENES - 1) + GENES * np.arange(len(kinds))[:, None]).ravel())
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    counted = np.diff(first, append=len(keys))
    return counted, keys[first] % GENES, np.bincount(keys[first] // GENES, minlength=len(kinds))


def stages(corpus: Path, work: Path, recipe: str) -> Iterator[tuple[str, list[str]]]:
    """(name, command line) of each stage, in order."""
    model = work / "model.out"
    shared = ["--data_dir", corpus, "--cache_dir", work / "cache", "--offline", "--save_model", model]
    shared += ["--pretrained_model", model, "--save_result", work / "result.out", "--kmeans"]
    epochs = ["--pt_epoch", EPOCHS[recipe]] if EPOCHS[recipe] else []
    main_py = [sys.executable, ROOT / "main.py", *shared]
    yield "phase 1", [str(part) for part in (*main_py, "--is_pretrain", "--recipe", recipe, *epochs)]
    yield "phase 2", [str(part) for part in (*main_py, "--is_pretrain", "--pretrain_output", *epochs)]
    yield "testing", [str(part) for part in main_py]
    yield "embedding", [sys.executable, str(Path(__file__)), "--embed", str(corpus), str(model)]


def embed_all(corpus: Path, model: Path) -> int:
    """The last stage: every cell of the corpus through the encoder, block by block, kept nowhere."""
    from model import embed_counts
    from reading import align
    from reading.source import open_source
    from utils import load_checkpoint

    checkpoint = load_checkpoint(model)
    for path in sorted(corpus.glob("*.h5")):
        with open_source(path, {}) as source:
            for start in range(0, len(source), 16_384):
                counts = source.rows.rows(start, min(start + 16_384, len(source)))
                log = source.log(counts)[0]
                embed_counts(checkpoint.encoder, align.align(log, source.genes, checkpoint.genes), log1p=False)
    return 0


def measure(command: list[str], log: Path) -> tuple[float, float, int, int]:
    """Seconds and processor seconds of a command, the highest anonymous and file-backed memory of it in bytes."""
    log.parent.mkdir(parents=True, exist_ok=True)
    before = sum(os.times()[2:4])
    begin, anonymous, mapped = time.perf_counter(), 0, 0
    with open(log, "w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT)
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                break
            found = dict(line.split(":", 1) for line in status.splitlines())
            anonymous = max(anonymous, 1024 * int(found.get("RssAnon", "0 kB").split()[0]))
            mapped = max(mapped, 1024 * int(found.get("RssFile", "0 kB").split()[0]))
            time.sleep(0.1)
        code = process.wait()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}:\n" + "\n".join(log.read_text().splitlines()[-8:]))
    return time.perf_counter() - begin, sum(os.times()[2:4]) - before, anonymous, mapped


def disk(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


if __name__ == "__main__":
    raise SystemExit(main())
