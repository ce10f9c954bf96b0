"""From nothing to labels: what a perfect namer gets of groups, of cells, and of marker genes, through the command.

python benchmarks/explore.py loop --data_dir DIR       each group, or cell, gets its true type: macro F1 of all cells
python benchmarks/explore.py markers --data_dir DIR    --markers against the argmax of mean z-scored markers

The labels of the sets are hidden from the command. `loop` leaves types of under 10 cells aside, as
benchmarks/annotate.py does. The lists of markers/TISSUE.csv were written from general knowledge; markers/sets.csv says
what the types of a list and the labels of a set are called in common. Small sets come first; every line is printed as
soon as it is there, and a run goes on with --out where an earlier one stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from scipy.sparse import csr_matrix  # noqa: E402
from sklearn.metrics import f1_score  # noqa: E402

import annotate as command  # noqa: E402
from annotation import marker_labels, write_h5ad  # noqa: E402
from benchmarks.splits import split  # noqa: E402
from files import whole  # noqa: E402
from reading import catalogue  # noqa: E402
from reading import source as q  # noqa: E402
from reading.cells import Cells, read  # noqa: E402

LISTS = Path(__file__).resolve().parent / "markers"
NAMES = 20  # groups or cells that are named
GROUPS = (5, 10, NAMES, 40)  # how many groups are enough?
ENOUGH = 0.9  # of the accuracy that four fifths of all labels give
LEAST = 10  # cells of a type
FIRST_SEED = 20  # of the split with four fifths of all labels: that of few_labels.py
QUIET = ("--no-umap", "--no-report", "--offline")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("loop", "markers"))
    parser.add_argument("--data_dir", type=Path, default=Path("dataset"), metavar="DIR")
    parser.add_argument("--datasets", metavar="A,B", help="only these, with commas between")
    parser.add_argument("--draws", type=int, default=3, help="of random cells (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the table here as .csv, and go on from it")
    args = parser.parse_args(argv)
    measure = (lambda path: loop(path, args.draws)) if args.what == "loop" else markers
    table = measured(paths(args.data_dir, args.datasets, args.what), measure, args.out)
    print(table.to_string(index=False, float_format="%.3f"))
    print("mean  " + "  ".join(f"{name} {value:.3f}" for name, value in means(table).items()))
    return 0


def paths(data_dir: Path, datasets: str | None, what: str) -> list[Path]:
    """Files of the labelled sets that are asked for and, for markers, have a list; the smallest first."""
    entries = catalogue.read_catalogue(data_dir, datasets=datasets.split(",") if datasets else None)
    found = [entry.path for entry in entries if entry.labelled and entry.path]
    if what == "markers":
        listed = set(pd.read_csv(LISTS / "sets.csv")["dataset"])
        found = [path for path in found if path.stem in listed]
    return sorted(found, key=lambda path: path.stat().st_size)


def measured(files: Sequence[Path], measure: Callable[[Path], dict[str, Any]], out: Path | None) -> pd.DataFrame:
    """A row a set; those that `out` holds already are taken from there."""
    rows = pd.read_csv(out).to_dict("records") if out and out.exists() else []
    for path in files:
        if path.stem in {row["dataset"] for row in rows}:
            continue
        rows.append({"dataset": path.stem} | measure(path))
        print(json.dumps(rows[-1]), flush=True)
        if out:
            with whole(out) as part:
                pd.DataFrame(rows).to_csv(part, index=False, float_format="%.4f")
    asked = {path.stem for path in files}
    return pd.DataFrame([row for row in rows if row["dataset"] in asked])


def means(table: pd.DataFrame) -> pd.Series:
    """Means over the sets, of what is a share."""
    return table.select_dtypes("number").drop(columns=["cells", "types", "enough"], errors="ignore").mean()


# -- the command ----------------------------------------------------------------
def run(query: Path, out: Path, data_dir: Path, *words: object) -> pd.DataFrame:
    """annotate.py in this process, and its table; SystemExit with its error."""
    line = ["--query", query, "--out", out, "--data_dir", data_dir, *words, *QUIET]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        code = command.main([str(word) for word in line])
    if code:
        raise SystemExit(f"{query.name}: {said.getvalue().strip()}")
    return pd.read_csv(out.with_suffix(".csv"), index_col=0, keep_default_na=False)


def hidden(cells: Cells, rows: np.ndarray, path: Path) -> Path:
    """These cells of a dataset as an .h5ad without labels."""
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(len(rows))])
    write_h5ad.new_file(path, [(0, cells.counts[rows])], obs, write_h5ad.unique_names(cells.genes))
    return path


def macro_f1(truth: np.ndarray, found: np.ndarray) -> float:
    """Over the true types; a cell that is called something else counts as wrong."""
    return float(f1_score(truth, found, average="macro", labels=np.unique(truth), zero_division=0))


# -- loop ----------------------------------------------------------------
def named_groups(group: np.ndarray, truth: np.ndarray) -> dict[Any, str]:
    """The most frequent true type of each group."""
    return {one: str(pd.Series(truth[group == one]).mode()[0]) for one in np.unique(group)}


def enough(accuracy: Mapping[int, float], of_all: float) -> float:
    """The smallest number of groups whose names give ENOUGH of the accuracy of nearly all labels; NaN: none does."""
    return min((n for n, value in accuracy.items() if value >= ENOUGH * of_all), default=float("nan"))


def loop(path: Path, draws: int) -> dict[str, Any]:
    """Macro F1 of all cells after naming 20 groups, 20 suggested and 20 random cells; accuracy by number of groups."""
    cells = read(path)
    assert cells.labels is not None
    labels = cells.labels.astype(str)
    names, count = np.unique(labels, return_counts=True)
    rows = np.flatnonzero(np.isin(labels, names[(count >= LEAST) & (names != "")]))
    truth = labels[rows]
    row: dict[str, Any] = {"cells": len(truth), "types": len(np.unique(truth))}
    with tempfile.TemporaryDirectory() as folder:
        query, table = hidden(cells, rows, Path(folder) / "in.h5ad"), Path(folder) / "named.labels.csv"

        def annotated(key: str, named: Mapping[Any, str]) -> pd.DataFrame:
            pd.Series(named, name="cell_type").to_csv(table, index_label=key)
            if len(set(named.values())) < 2:  # nothing to tell apart: all cells are of the one type that was seen
                only = next(iter(named.values()))
                return pd.DataFrame({"cell_type": [only] * len(truth), "cell_call": [only] * len(truth)})
            return run(query, Path(folder) / "annotated.h5ad", path.parent, "--labels", table)

        accuracy = {}
        for n in GROUPS:
            out = Path(folder) / "named.h5ad"  # the table of labels finds its .csv by name
            group = run(query, out, path.parent, "--explore", n, "--suggest", NAMES)["group"].to_numpy()
            named = named_groups(group, truth)
            of_groups = np.array([named[one] for one in group])
            accuracy[n] = float((of_groups == truth).mean())
            if n == NAMES:
                suggested = pd.read_csv(out.with_suffix(".suggest.csv"))["cell"]
                found = annotated("group", named)
                row["20 groups"] = macro_f1(truth, found["cell_type"].to_numpy())
                row["cell's call"] = macro_f1(truth, found["cell_call"].to_numpy())
        rng = np.random.default_rng(0)
        chosen = {"20 cells": suggested} | {
            f"random {i}": [f"cell{k}" for k in rng.choice(len(truth), NAMES, replace=False)] for i in range(draws)
        }
        for how, picked in chosen.items():
            found = annotated("cell", {cell: truth[int(cell[4:])] for cell in picked})
            row[how] = macro_f1(truth, found["cell_type"].to_numpy())
        row["20 random"] = float(np.mean([row.pop(f"random {i}") for i in range(draws)]))
        taught = split(np.unique(truth, return_inverse=True)[1], "all", FIRST_SEED)
        test = np.setdiff1d(np.arange(len(truth)), taught)
        found = annotated("cell", {f"cell{i}": truth[i] for i in taught})["cell_type"].to_numpy()[test]
    row["4/5 labels"] = macro_f1(truth[test], found)
    row |= {f"acc {n}": value for n, value in accuracy.items()}
    row["acc 4/5"] = float((found == truth[test]).mean())
    return row | {"enough": enough(accuracy, row["acc 4/5"])}


# -- markers ----------------------------------------------------------------
def in_common(dataset: str) -> tuple[str, dict[str, str], dict[str, str]]:
    """The tissue of a set; what its labels, and the types of the tissue's list, are called in common."""
    table = pd.read_csv(LISTS / "sets.csv")
    table = table[table["dataset"] == dataset]
    labels, types = (
        {one.strip(): str(name) for name, words in zip(table["name"], table[column], strict=True)
         for one in str(words).split(";")} for column in ("labels", "types")
    )  # fmt: skip
    return str(table["tissue"].iloc[0]), labels, types


def z_scores(values: csr_matrix, signs: np.ndarray) -> np.ndarray:
    """What people do by hand: the mean over a type's markers of each z-scored gene, (N, L) of (N, C) and (L, C)."""
    dense = values.toarray()
    z = (dense - dense.mean(axis=0)) / np.maximum(dense.std(axis=0), 1e-9)
    return z @ (signs / np.maximum(np.abs(signs).sum(axis=1, keepdims=True), 1)).T


def argmax_of_markers(query: Path, listed: Path, data_dir: Path) -> np.ndarray:
    """The type of each cell by z-scored markers alone."""
    orthologs = catalogue.orthologs(data_dir, offline=True)
    known = marker_labels.read(listed, orthologs)
    with q.open_source(query, orthologs) as source:
        columns, signs = marker_labels.measured(known, source)
        values, empty = source.log(source.take(np.arange(len(source))))
        score = z_scores(csr_matrix(values)[:, columns], signs)
    score[:, ~signs.any(axis=1)] = -np.inf  # no gene of the type is measured
    return np.array(known.types)[score.argmax(axis=1)]


def markers(path: Path) -> dict[str, Any]:
    """Macro F1 of --markers and of the argmax, on the cells whose type the list has too; types that found no seeds."""
    cells = read(path)
    assert cells.labels is not None
    tissue, labels, types = in_common(path.stem)
    listed = LISTS / f"{tissue}.csv"
    rows = np.flatnonzero(np.isin(cells.labels.astype(str), list(labels)))
    truth = np.array([labels[label] for label in cells.labels[rows].astype(str)])
    with tempfile.TemporaryDirectory() as folder:
        query = hidden(cells, rows, Path(folder) / "in.h5ad")
        found = run(query, Path(folder) / "out.h5ad", path.parent, "--markers", listed)["cell_type"]
        plain = argmax_of_markers(query, listed, path.parent)
    ours, theirs = (np.array([types.get(kind, kind) for kind in calls]) for calls in (found, plain))
    row: dict[str, Any] = {"tissue": tissue, "cells": len(truth), "types": len(np.unique(truth))}
    row |= {"argmax": macro_f1(truth, theirs), "--markers": macro_f1(truth, ours)}
    row["gain"] = row["--markers"] - row["argmax"]
    return row | {"missed": "; ".join(sorted(set(truth) - set(ours)))}


if __name__ == "__main__":
    sys.exit(main())
