"""The results: a line a split in a CSV, the table by budget, and a figure of one panel a budget."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from benchmarks.baselines import BASELINES
from benchmarks.splits import BUDGETS, WORDS
from files import whole
from stages import plot, score

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
HEADER = (
    f"{'':<36}{'macro F1':>9}{'accuracy':>9}{'kappa':>8}{'- best':>9}{'95 % interval':>20}{'p':>9}"
    f"{'won/tied/lost':>15}{'-.01':>6}{'sets':>6}{'splits':>8}"
)
PAIRS = (
    ("scpretrain2", "no pre-training"),
    ("scpretrain2", "frozen encoder"),
    ("scpretrain2", "random encoder"),
    ("frozen encoder", "genes alone"),
    ("scpretrain2, no self-training", "no pre-training, no self-training"),
    ("scpretrain2, transductive", "scpretrain2"),
    ("scpretrain2", "paper encoder"),
    ("scpretrain2, transductive", "paper encoder, transductive"),
    ("scpretrain2", "network, fine-tuned"),
    ("network, fine-tuned", "network, no pre-training"),
    ("scpretrain2", "CellTypist"),
    ("scpretrain2", "scANVI"),
)


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


def report(results: pd.DataFrame, methods: Sequence[str]) -> str:
    """The table of `methods`, budget by budget; then what carries the gain."""
    lines = []
    for budget in WORDS:
        baselines = [name for name in BASELINES if len(means(results, budget, [name], "macro_f1"))]
        base = means(results, budget, baselines, "macro_f1")
        if not baselines or not len(base):
            continue
        best = base.mean().idxmax()
        lines += ["", f"{WORDS[budget]}: {len(base)} datasets, best single baseline: {best}", HEADER]
        for method in methods:
            if line := _line(results, budget, method, best, baselines):
                lines.append(line)
        lines += _pairs(results, budget)
    return "\n".join(lines) + "\n"


def _line(results: pd.DataFrame, budget: str, method: str, best: str, baselines: Sequence[str]) -> str:
    """Means of a method; against the best single baseline; against the best baseline of each dataset."""
    together = list(dict.fromkeys((*baselines, method)))
    both = means(results, budget, together, "macro_f1")
    if not len(both):
        return ""
    accuracy, kappa = (means(results, budget, together, name)[method].mean() for name in ("accuracy", "kappa"))
    splits = len(shared(results, budget, together, "macro_f1"))
    text = f"{method:<36}{both[method].mean():>9.4f}{accuracy:>9.4f}{kappa:>8.4f}"
    if method == best:
        return text
    low, high = interval(both[method] - both[best])
    against = score.compare(both[method].to_numpy(), both[list(baselines)].max(axis=1).to_numpy())
    counts = f"{against.won}/{against.tied}/{against.lost}"
    below = int((both[method] < both[list(baselines)].max(axis=1) - 0.01).sum())
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
