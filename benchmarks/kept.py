"""What a kept labeller is worth on another sample, beside annotating that sample directly.

python benchmarks/kept.py --data_dir DIR [--seeds 3] [--out kept.csv]

A few labels a type in the first sample (a half of a set, or another set); the labeller that learns from them is kept
and labels the second one. Beside it: the same without a look at the second sample's own middle (as it was), the first
sample as --reference with its few labels, and the second with as many labels of its own. Accuracy over the cells whose
type the first has labels of; unknown: the share of them called so with --unknown (0.05 is asked for).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import anndata as ad  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from sklearn.metrics import f1_score  # noqa: E402

from annotate import annotate, of_adata  # noqa: E402
from annotation import confidence, keep, write_h5ad  # noqa: E402
from annotation.wishes import Wishes  # noqa: E402
from benchmarks.splits import split  # noqa: E402
from reading import align  # noqa: E402
from reading.cells import read  # noqa: E402

HALVES = ("PBMC3k_10x", "Kang_PBMC_ctrl")
PAIRS = (("Kang_PBMC_ctrl", "PBMC3k_10x"), ("PBMC3k_10x", "Kang_PBMC_ctrl"), ("Kang_PBMC_ctrl", "Kang_PBMC_ifnb_2800"))
SAME = {  # what types are called in these sets, at the level that they share
    "CD4 T": ("CD4 T cells", "Memory CD4 T", "Naive CD4 T", "CD4 Naive T", "CD4 Memory T"),
    "CD8 T": ("CD8 T cells",),
    "B": ("B cells", "B Activated"),
    "NK": ("NK cells",),
    "CD14 Mono": ("CD14+ Monocytes", "CD14+ Mono"),
    "CD16 Mono": ("FCGR3A+ Monocytes", "FCGR3A+ Mono"),
    "DC": ("Dendritic cells",),
    "Mk": ("Megakaryocytes", "Platelet"),
}
COMMON = {name: common for common, names in SAME.items() for name in names}
LABELS = (5, 20)  # a type
FIRST_SEED = 20
QUIET: dict[str, Any] = {"umap": False, "verbose": False}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=Path("dataset"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the table here as .csv too")
    args = parser.parse_args()
    rows = []
    for seed in range(FIRST_SEED, FIRST_SEED + args.seeds):
        for name, first, second in samples(args.data_dir, seed):
            for each in LABELS:
                rows.append({"samples": name, "labels": each, "seed": seed} | measure(first, second, each, seed))
                sys.stdout.write(json.dumps(rows[-1]) + "\n")
                sys.stdout.flush()
    table = pd.DataFrame(rows)
    means = table.drop(columns="seed").groupby(["samples", "labels"], sort=False).mean()
    sys.stdout.write(means.to_string(float_format="%.3f") + "\n")
    if args.out:
        table.to_csv(args.out, index=False, float_format="%.4f")
    return 0


def samples(data_dir: Path, seed: int) -> Iterator[tuple[str, ad.AnnData, ad.AnnData]]:
    """The sample that is learnt on and the one that is labelled then, with what they are called."""
    sets = {name: cells_of(data_dir / f"{name}.h5") for name in sorted({*HALVES, *(n for pair in PAIRS for n in pair)})}
    for name in HALVES:
        order = np.random.default_rng(seed).permutation(len(sets[name]))
        first, second = (np.sort(part) for part in np.array_split(order, 2))
        yield f"half of {name}", sets[name][first].copy(), sets[name][second].copy()
    for one, other in PAIRS:
        yield f"{one} -> {other}", in_common(sets[one]), in_common(sets[other])


def cells_of(path: Path) -> ad.AnnData:
    """A labelled set."""
    cells = read(path)
    assert cells.labels is not None
    obs = pd.DataFrame({"truth": [str(label) for label in cells.labels]})
    obs.index = [f"cell{i}" for i in range(len(obs))]
    return ad.AnnData(cells.counts, obs=obs, var=pd.DataFrame(index=write_h5ad.unique_names(cells.genes)))


def in_common(cells: ad.AnnData) -> ad.AnnData:
    """The same with the names that several sets have."""
    cells = cells.copy()
    cells.obs["truth"] = [COMMON.get(name, name) for name in cells.obs["truth"]]
    return cells


def with_few(cells: ad.AnnData, each: int, seed: int) -> ad.AnnData:
    """The same with so many labels a type in the column cell_type."""
    cells, truth = cells.copy(), cells.obs["truth"].to_numpy().astype(str)
    keep_ = split(np.unique(truth, return_inverse=True)[1], str(each), seed)
    cells.obs["cell_type"] = np.where(np.isin(np.arange(len(truth)), keep_), truth, "")
    return cells


def measure(first: ad.AnnData, second: ad.AnnData, each: int, seed: int) -> dict[str, float]:
    """Accuracy, macro-F1, calibration error and share of Unknown of the ways to label the second sample."""
    first, theirs = with_few(first, each, seed), with_few(second, each, seed)
    second = second.copy()
    truth = second.obs["truth"].to_numpy().astype(str)
    counted = np.isin(truth, first.obs["cell_type"].unique().astype(str))
    how = {"label_key": "cell_type", **QUIET}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kept.labeller"
        annotate(first, save_labeller=path, **how)
        kept = annotate(second, labeller=path, **QUIET).obs
        found = {"kept": score(kept, truth, counted), "as it was": as_it_was(path, first, second, counted)}
        annotate(first, unknown=0.05, save_labeller=path, **how)
        strict = annotate(second, labeller=path, **QUIET).obs
    found["as reference"] = score(annotate(second, first, **how).obs, truth, counted)
    direct = annotate(theirs, **how).obs
    found["directly"] = score(direct, truth, counted & ~direct["scpretrain_known"].to_numpy())
    out = {f"{way} {name}": value for name in ("accuracy", "F1") for way, one in found.items() if (value := one[name])}
    out |= {f"{way} calibration": found[way]["calibration"] for way in ("kept", "directly")}
    return out | {"unknown": float((strict["scpretrain_cell_type"] == "Unknown").to_numpy()[counted].mean())}


def score(obs: pd.DataFrame, truth: np.ndarray, counted: np.ndarray) -> dict[str, float]:
    found, truth = obs["scpretrain_cell_type"].astype(str).to_numpy()[counted], truth[counted]
    right, sure = found == truth, obs["scpretrain_confidence"].to_numpy()[counted]
    f1 = f1_score(truth, found, average="macro", labels=np.unique(truth))
    two = np.column_stack([sure, np.zeros(len(sure))])  # ece looks at the highest column and where it is
    error = confidence.ece(two, np.where(right, 0, 1))
    return {"accuracy": float(right.mean()), "F1": float(f1), "calibration": error}


def as_it_was(path: Path, first: ad.AnnData, second: ad.AnnData, counted: np.ndarray) -> dict[str, float]:
    """Each cell's own call by the kept labeller with the middle of the sample it was learnt on."""
    words, arrays = keep.load(path)
    columns = align.align(second.X, list(second.var_names), list(first.var_names))  # (N, G)
    cells = ad.AnnData(columns, obs=second.obs, var=first.var)
    source = of_adata(cells, "second", {}, values="counts")
    arrays["known.rows"], arrays["known.labels"] = np.zeros(0, int), np.zeros(0, int)
    model = keep.restored(words, arrays, source, Wishes(consensus=False), False).labeller
    p = np.vstack([model.block(source.rows.rows(a, min(a + 4096, len(cells)))).probabilities
                   for a in range(0, len(cells), 4096)])  # fmt: skip
    obs = pd.DataFrame({"scpretrain_cell_type": np.array(words["classes"])[p.argmax(axis=1)],
                        "scpretrain_confidence": p.max(axis=1)})  # fmt: skip
    return score(obs, second.obs["truth"].to_numpy().astype(str), counted)


if __name__ == "__main__":
    sys.exit(main())
