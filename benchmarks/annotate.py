"""How good and how fast annotate.py is, through the command itself.

python benchmarks/annotate.py pairs --data_dir DIR       accuracy from a reference, beside LR, SVM and nearest centroid
python benchmarks/annotate.py few --data_dir DIR         macro-F1 with 5 and 20 labels a type, masked in one file, on
                                                         the splits of benchmarks/few_labels.py
python benchmarks/annotate.py unknown --data_dir DIR     leave one type out: AUROC of unknown cells, calibration error
python benchmarks/annotate.py unknown_reference --data_dir DIR --cells 600
                                                         the same from references, and foreign queries
python benchmarks/annotate.py suggest --data_dir DIR     20 suggested labels against 20 random ones
python benchmarks/annotate.py size --cells 1000000       memory and cells/s on a simulated file of 20,000 genes
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import h5py  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from scipy.sparse import csr_matrix, vstack  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.metrics import f1_score, roc_auc_score  # noqa: E402
from sklearn.neighbors import NearestCentroid, NearestNeighbors  # noqa: E402
from sklearn.svm import LinearSVC  # noqa: E402
from unknown_reference import unknown_reference  # noqa: E402

import annotate as command  # noqa: E402
import utils  # noqa: E402
from annotation import confidence, work, write_h5ad  # noqa: E402
from annotation.encoder import pretrain_here  # noqa: E402
from benchmarks.baselines import rotated  # noqa: E402
from benchmarks.splits import split  # noqa: E402
from reading import align, catalogue, normalize  # noqa: E402
from reading import source as q  # noqa: E402
from reading.cells import read  # noqa: E402
from stages import reduce  # noqa: E402

PAIRS = (
    ("Tian_celseq2_3cl", "Tian_dropseq_3cl"),
    ("Tian_celseq2_5cl_p1", "Tian_celseq2_5cl_p2"),
    ("Baron_human_subset", "panc8_small"),
    ("Baron_human_subset", "Xin_subset_980genes"),
    ("Tian_dropseq_3cl", "Tian_celseq2_3cl"),
    ("Tian_celseq2_5cl_p2", "Tian_celseq2_5cl_p1"),
    ("panc8_small", "Baron_human_subset"),
    ("panc8_small", "Xin_subset_980genes"),
    ("Xin_subset_980genes", "Baron_human_subset"),
    ("Xin_subset_980genes", "panc8_small"),
    ("Tian_celseq2_5cl_p1", "Tian_dropseq_3cl"),
    ("Tian_dropseq_3cl", "Tian_celseq2_5cl_p1"),
)
FIRST_SEED = 20  # that of few_labels.py
QUIET = ["--no-umap", "--no-report"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pairs", "few", "unknown", "unknown_reference", "suggest", "size"))
    parser.add_argument("--data_dir", type=Path, default=Path("dataset"))
    parser.add_argument("--datasets", help="only these, with commas between")
    parser.add_argument("--pretrained_model", type=Path, help="checkpoint (default: made on the spot)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--detected", type=int, default=1_000, help="genes seen in a cell of the simulated file")
    parser.add_argument("--gzip", action="store_true", help="the simulated file is compressed")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for the simulated file")
    parser.add_argument("--out", type=Path, help="write the table here as .csv too")
    args = parser.parse_args()
    rows = {
        "pairs": pairs,
        "few": few,
        "unknown": unknown,
        "unknown_reference": unknown_reference,
        "suggest": suggested,
        "size": size,
    }[args.what](args)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="%.3f"))
    numbers = table.select_dtypes("number")
    if args.what != "size":
        print("mean  " + "  ".join(f"{name} {value:.3f}" for name, value in numbers.mean().items()))
    if args.out:
        table.to_csv(args.out, index=False, float_format="%.4f")
    return 0


def run(args, *words) -> str:
    """The command in this process; its output, or SystemExit with its error."""
    extra = ["--data_dir", args.data_dir, "--offline"]
    extra += ["--pretrained_model", args.pretrained_model] if args.pretrained_model else []
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command.main([str(word) for word in [*words, *extra, *QUIET]])
    if code:
        raise SystemExit(err.getvalue())
    return out.getvalue()


def labelled(args) -> list[str]:
    """Names of the labelled datasets that are asked for."""
    entries = catalogue.read_catalogue(args.data_dir, datasets=args.datasets.split(",") if args.datasets else None)
    return [entry.name for entry in entries if entry.labelled and entry.path]


def answers(path: Path) -> pd.DataFrame:
    return pd.read_csv(path.with_suffix(".csv"), index_col=0, keep_default_na=False)


def calibration_error(found: pd.DataFrame, truth: np.ndarray) -> float:
    """Mean distance of confidence from the share that is right, in 15 equally wide bins."""
    sure = pd.to_numeric(found["confidence"], errors="coerce").to_numpy()  # Unknown has none
    called = np.isfinite(sure)
    right, sure = (found["cell_type"].to_numpy() == truth)[called], sure[called]
    bins = np.minimum((sure * 15).astype(int), 14)
    return float(np.abs(np.bincount(bins, weights=sure - right, minlength=15)).sum() / len(sure))


def masked(cells, keep: np.ndarray, path: Path) -> Path:
    """The dataset as an .h5ad in which only the cells `keep` have a label."""
    text = np.where(np.isin(np.arange(len(cells.labels)), keep), cells.labels, "Unknown").astype(str)
    obs = pd.DataFrame({"cell_type": text}, index=[f"cell{i}" for i in range(len(text))])
    genes = write_h5ad.unique_names(cells.genes)
    write_h5ad.new_file(path, [(0, cells.counts)], obs, genes)
    return path


def draw(labels: np.ndarray, each: int, seed: int) -> np.ndarray:
    """`each` labelled cells a type, at most half of a type's: the splits of few_labels.py."""
    return split(np.unique(labels.astype(str), return_inverse=True)[1], str(each), seed)


def usable(cells):
    """The cells of types with 10 cells and more."""
    labels = cells.labels.astype(str)
    names, count = np.unique(labels, return_counts=True)
    keep = np.flatnonzero(np.isin(labels, names[(count >= 10) & (names != "")]))
    cells.counts, cells.labels = cells.counts[keep], cells.labels[keep]
    return cells


def pairs(args) -> list[dict]:
    """Accuracy on the query cells whose type the reference has; the baselines see shared log-normalised genes."""
    table, rows = catalogue.orthologs(args.data_dir, offline=True), []
    for first, second in PAIRS:
        files = [args.data_dir / f"{name}.h5" for name in (first, second)]
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.h5ad"
            run(args, "--query", files[1], "--reference", files[0], "--out", out)
            found = answers(out)
        reference, cells = map(read, files)
        assert reference.labels is not None and cells.labels is not None
        names = [align.shared_names(one.genes, "human", table) for one in (reference, cells)]
        genes = [gene for gene in names[0] if gene and gene in set(names[1])]
        x, y = (
            align.align(normalize.to_log1p(one.counts, normalize.detect(one.counts)), own, genes)
            for one, own in zip((reference, cells), names, strict=True)
        )
        known, truth = reference.labels.astype(str), cells.labels.astype(str)
        has = known != ""
        same = np.isin(truth, known[has])
        row: dict[str, Any] = {"reference": first, "query": second, "cells": int(same.sum()), "genes": len(genes)}
        for name, model in (
            ("LR", LogisticRegression(max_iter=500)),
            ("SVM", LinearSVC()),
            ("centroid", NearestCentroid()),
        ):
            dense = (lambda m: m.toarray()) if name == "centroid" else (lambda m: m)
            predicted = model.fit(dense(x[has]), known[has]).predict(dense(y[same]))
            row[name] = float((predicted == truth[same]).mean())
        row["annotate"] = float((found["cell_type"].to_numpy()[same] == truth[same]).mean())
        row["a cell alone"] = float((found["cell_call"].to_numpy()[same] == truth[same]).mean())
        row["calibration error"] = calibration_error(found[same], truth[same])
        row["over best"] = row["annotate"] - max(row["LR"], row["SVM"], row["centroid"])
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def few(args) -> list[dict]:
    """Macro-F1 of the unlabelled cells, the vote's and the cell's own call, and the calibration error on them."""
    rows = []
    for name in labelled(args):
        cells = usable(read(args.data_dir / f"{name}.h5"))
        for each in (5, 20):
            for seed in range(FIRST_SEED, FIRST_SEED + args.seeds):
                keep = draw(cells.labels, each, seed)
                test = np.setdiff1d(np.arange(len(cells.labels)), keep)
                with tempfile.TemporaryDirectory() as folder:
                    path = masked(cells, keep, Path(folder) / "in.h5ad")
                    out = Path(folder) / "out.h5ad"
                    begin = time.perf_counter()
                    run(args, "--query", path, "--label_key", "cell_type", "--unlabeled", "Unknown", "--out", out)
                    seconds, found = time.perf_counter() - begin, answers(out).iloc[test]
                truth = cells.labels[test].astype(str)
                row = {"dataset": name, "labels": each, "seed": seed}
                row["annotate"] = f1_score(truth, found["cell_type"], average="macro", labels=np.unique(truth))
                row["a cell alone"] = f1_score(truth, found["cell_call"], average="macro", labels=np.unique(truth))
                rows.append(row | {"calibration error": calibration_error(found, truth), "seconds": seconds})
                print(json.dumps(rows[-1]), flush=True)
    means = pd.DataFrame(rows).groupby("labels")[["annotate", "a cell alone", "calibration error", "seconds"]].mean()
    print(means.to_string(float_format="%.4f"))
    return rows


def learnt(args, path: Path, encoder: Path):
    """What the command learns from one file before it labels the first cell, with --unknown 0.05."""
    table = catalogue.orthologs(args.data_dir, offline=True)
    with contextlib.redirect_stdout(io.StringIO()), q.open_source(path, table) as source:
        if not encoder.exists():  # made without labels: the same whatever type is left out
            utils.save_checkpoint(encoder, pretrain_here([source], source.genes, 0))
        wishes = work.Wishes(label_key="cell_type", unlabeled=["Unknown"], unknown=0.05, force=True)
        return work.learn_from(source, [], encoder, wishes).labeller


def unknown(args) -> list[dict]:
    """One type loses all its labels, 20 a type remain: are its cells the strange ones? Means over a set's types.

    Beside it the highest probability of logistic regression, on genes and on 50 components, and the distance to the
    nearest labelled cell in these. The calibration error is that of the cells whose type is known.
    """
    rows = []
    for name in labelled(args):
        cells = usable(read(args.data_dir / f"{name}.h5"))
        types = np.unique(cells.labels.astype(str))
        if len(types) < 3:
            continue
        keep = draw(cells.labels, 20, 0)
        test = np.setdiff1d(np.arange(len(cells.labels)), keep)
        log = normalize.to_log1p(cells.counts, normalize.detect(cells.counts))
        points = reduce.project(log, *reduce.components(log, 50))
        found = []
        with tempfile.TemporaryDirectory() as folder:
            encoder = args.pretrained_model or Path(folder) / "encoder.out"
            for gone in types:
                rest = keep[cells.labels[keep] != gone]
                new = (cells.labels[test] == gone).astype(int)
                model = learnt(args, masked(cells, rest, Path(folder) / "in.h5ad"), encoder)
                scores = np.full(len(cells.labels), np.inf)  # an empty cell is as strange as can be
                strange = np.ones(len(cells.labels), bool)
                fitted = model.fitted
                scores[fitted.rows] = model.unknown.score(fitted.averaged, fitted.probabilities)
                strange[fitted.rows] = fitted.strange
                labels = cells.labels[rest].astype(str)
                sure = {}
                for words, a, b in (("genes", *rotated(log, rest, test)), ("PCs", points[rest], points[test])):
                    sure[words] = LogisticRegression(max_iter=300).fit(a, labels).predict_proba(b).max(axis=1)
                near = NearestNeighbors(n_neighbors=1).fit(points[rest]).kneighbors(points[test])[0][:, 0]
                known = new == 0
                place = {kind: i for i, kind in enumerate(model.classes)}
                truth = np.full(len(cells.labels), -1)
                truth[test[known]] = [place[kind] for kind in cells.labels[test[known]].astype(str)]
                found.append(
                    {"annotate": roc_auc_score(new, scores[test]),
                     "max LR, genes": roc_auc_score(new, -sure["genes"]),
                     "max LR, PCs": roc_auc_score(new, -sure["PCs"]),
                     "PC distance": roc_auc_score(new, near),
                     "calibration error": confidence.ece(fitted.probabilities, truth[fitted.rows]),
                     "known flagged": strange[test][known].mean(), "unknown found": strange[test][~known].mean()}
                )  # fmt: skip
        rows.append({"dataset": name, "types": len(types)} | pd.DataFrame(found).mean().to_dict())
        print(json.dumps(rows[-1]), flush=True)
    return rows


def suggested(args) -> list[dict]:
    """Macro-F1 with the labels of 20 cells that --suggest names, against 20 drawn at random, none before."""
    rows = []
    for name in labelled(args):
        cells = usable(read(args.data_dir / f"{name}.h5"))
        with tempfile.TemporaryDirectory() as folder:
            path, out = masked(cells, np.zeros(0, int), Path(folder) / "in.h5ad"), Path(folder) / "out.h5ad"
            run(args, "--query", path, "--out", out, "--embed_only", "--suggest", 20)
            named = pd.read_csv(Path(folder) / "out.suggest.csv")["cell"]
            rng = np.random.default_rng(0)
            draws = {"suggested": np.array([int(cell[4:]) for cell in named])}
            draws |= {f"random {i}": rng.choice(len(cells.labels), 20, replace=False) for i in range(args.seeds)}
            row: dict[str, Any] = {"dataset": name}
            for how, keep in draws.items():
                if len(np.unique(cells.labels[keep].astype(str))) < 2:
                    row[how] = 0.0
                    continue
                path = masked(cells, keep, Path(folder) / "in.h5ad")
                run(args, "--query", path, "--label_key", "cell_type", "--unlabeled", "Unknown", "--out", out)
                test = np.setdiff1d(np.arange(len(cells.labels)), keep)
                truth = cells.labels[test].astype(str)
                predicted = answers(out)["cell_call"].to_numpy()[test]
                row[how] = f1_score(truth, predicted, average="macro", labels=np.unique(cells.labels.astype(str)))
            row["random"] = float(np.mean([row.pop(f"random {i}") for i in range(args.seeds)]))
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


# -- size ----------------------------------------------------------------
def simulated(path: Path, cells: int, genes: int, detected: int, gzip: bool) -> None:
    """Counts of 20 types, a few cells labelled, written by blocks: 5,000 cells drawn, then thinned anew every time."""
    rng = np.random.default_rng(0)
    types, block = 20, min(5_000, cells)
    base = rng.gamma(0.3, 1.0, genes)
    rates = base * np.exp(rng.normal(0, 1.0, (types, genes)))
    rates *= detected * 1.9 / rates.sum(axis=1, keepdims=True)
    kinds = rng.integers(types, size=cells)
    blocks = []
    for kind in range(types):
        drawn = np.concatenate([rng.poisson(rates[kind], (50, genes)) for _ in range(max(1, block // types // 50))])
        blocks.append(csr_matrix(drawn.astype(np.float32)))

    def parts():
        for start in range(0, cells, block):
            mine = kinds[start : start + block]
            pieces, order = [], []
            for kind in range(types):
                rows = np.flatnonzero(mine == kind)
                pieces.append(blocks[kind][rng.integers(blocks[kind].shape[0], size=len(rows))])
                order.append(rows)
            whole = vstack(pieces, format="csr")[np.argsort(np.concatenate(order))]
            whole.data = rng.binomial(whole.data.astype(int), 0.9).astype(np.float32)
            whole.eliminate_zeros()
            yield start, whole

    labels = np.where(rng.random(cells) < min(1.0, 2000 / cells), np.char.add("type ", kinds.astype(str)), "Unknown")
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(labels), "truth": pd.Categorical(np.char.add("type ", kinds.astype(str)))},
        index=[f"cell{i}" for i in range(cells)],
    )
    write_h5ad.new_file(path, parts(), obs, [f"GENE{i}A" for i in range(genes)])
    if gzip:
        squeezed = path.with_suffix(".part")
        with h5py.File(path) as source, h5py.File(squeezed, "w") as target:
            target.attrs.update(source.attrs)
            for name in source:
                if name != "X":
                    source.copy(name, target)
            group = target.create_group("X")
            group.attrs.update(source["X"].attrs)
            for name in ("data", "indices", "indptr"):
                node = source["X"][name]
                copy = group.create_dataset(name, node.shape, node.dtype, chunks=True, compression="gzip")
                for start in range(0, len(node), 1 << 24):
                    copy[start : start + (1 << 24)] = node[start : start + (1 << 24)]
        squeezed.replace(path)


def size(args) -> list[dict]:
    """The command in a process of its own, so that its peak of memory is its own."""
    path = args.folder / f"simulated_{args.cells}_{args.genes}_{args.detected}{'_gzip' if args.gzip else ''}.h5ad"
    if not path.exists():
        begin = time.perf_counter()
        simulated(path, args.cells, args.genes, args.detected, args.gzip)
        print(
            f"{path} simulated in {time.perf_counter() - begin:.0f} s, {path.stat().st_size / 2**30:.1f} GB", flush=True
        )
    out = path.with_suffix(".out.h5ad")
    line = [sys.executable, str(ROOT / "annotate.py"), "--query", str(path), "--label_key", "cell_type", "--unlabeled",
            "Unknown", "--out", str(out), "--offline", "--data_dir", str(args.data_dir), *QUIET]  # fmt: skip
    line += ["--pretrained_model", str(args.pretrained_model)] if args.pretrained_model else []
    begin = time.perf_counter()
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - begin
    print(done.stdout)
    spoken = next(one for one in done.stdout.splitlines() if "cells/s" in one)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    with h5py.File(path) as file:
        entries = int(file["X/indptr"][-1]) / args.cells
    return [{"cells": args.cells, "genes": args.genes, "seen in a cell": entries, "gzip": args.gzip,
             "whole command, s": seconds, "peak memory, GB": peak, "labelling": spoken}]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
