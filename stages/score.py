"""How good a prediction is: accuracy, kappa, F1, AUPRC, AUROC, and two arms compared over datasets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon
from sklearn.metrics import (
    accuracy_score,
    auc,
    cohen_kappa_score,
    f1_score,
    precision_recall_curve,
    roc_auc_score,
)

TIE = 5e-4  # a smaller difference of two arms is none
METRICS = {  # of a test set: the column of the result tables and what it is called
    "accuracy": "accuracy",
    "kappa": "Cohen's kappa",
    "macro_f1": "macro F1",
    "auprc": "AUPRC",
    "auroc": "AUROC",
}
CLUSTER_METRICS = {
    "ari": "adjusted Rand index",
    "nmi": "normalized mutual information",
    "silhouette": "silhouette",
    "leiden": "adjusted Rand index of Leiden at resolution 1",
    "leiden_best": "adjusted Rand index of Leiden at its best resolution",
}


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Shannon entropy of each row in nats: (N, L) -> (N,)."""
    return -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1)


def scores(labels: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
    """The five metrics of a test set: `labels` (N,) ints, `outputs` (N, L) probabilities or decision values.

    Macro F1, AUPRC (trapezoid under the precision-recall curve) and AUROC are means over the types present among
    `labels`. A type that every cell has leaves nothing to rank: it counts as 1 where it is predicted, in AUPRC as in
    AUROC, so that no metric is ever NaN. Raises ValueError for an empty test set or outputs that are not finite.
    """
    if not len(labels):
        raise ValueError("there is no test cell to score; leave more cells for testing (--per_train, --per_val)")
    if not np.isfinite(outputs).all():
        raise ValueError("the classifier's outputs are not finite: training diverged; lower the learning rate")
    predicted = outputs.argmax(axis=1)
    present = np.unique(labels)
    areas = [_areas(labels == kind, outputs[:, kind]) for kind in present]
    auprc, auroc = np.mean(areas, axis=0)
    with np.errstate(invalid="ignore"):
        kappa = cohen_kappa_score(labels, predicted) if len(present) > 1 else float((labels == predicted).mean())
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "kappa": float(np.nan_to_num(kappa)),
        "macro_f1": float(f1_score(labels, predicted, labels=present, average="macro", zero_division=0)),
        "auprc": float(auprc),
        "auroc": float(auroc),
    }


def _areas(is_kind: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    if is_kind.all():
        return 1.0, 1.0
    precision, recall, _ = precision_recall_curve(is_kind, score)
    return float(auc(recall, precision)), float(roc_auc_score(is_kind, score))


@dataclass(frozen=True)
class Comparison:
    """One metric of two arms over datasets; `p` is that of the two-sided Wilcoxon signed-rank test."""

    first: float
    second: float
    won: int
    tied: int
    lost: int
    p: float


def compare(first: np.ndarray, second: np.ndarray, *, tie: float = TIE) -> Comparison:
    """Compare two arms dataset by dataset, (D,) against (D,); a difference below `tie` is a tie."""
    first, second = np.asarray(first, float), np.asarray(second, float)
    if not len(first):
        return Comparison(float("nan"), float("nan"), 0, 0, 0, 1.0)
    difference = first - second
    tied = np.abs(difference) < tie
    p = 1.0 if np.allclose(difference, 0) else float(wilcoxon(difference, zero_method="wilcox").pvalue)
    return Comparison(
        float(first.mean()),
        float(second.mean()),
        int((~tied & (difference > 0)).sum()),
        int(tied.sum()),
        int((~tied & (difference < 0)).sum()),
        p,
    )


def paired(results: pd.DataFrame, arms: Sequence[str], metric: str) -> pd.DataFrame:
    """One metric of both arms over the repeats they share: a row a dataset, columns (`mean` | `std`, arm).

    `results` has the columns dataset, arm, seed and `metric`; `std` is 0 with a single repeat.
    """
    both = results.pivot_table(index=["dataset", "seed"], columns="arm", values=metric, sort=False)
    both = both.reindex(columns=list(arms)).dropna().groupby("dataset", sort=False)
    return pd.concat({"mean": both.mean(), "std": both.std().fillna(0.0)}, axis=1)


def table(results: pd.DataFrame, arms: Sequence[str], metrics: Sequence[str]) -> str:
    """Mean per arm over datasets, datasets won / tied / lost, Wilcoxon p; a dataset's repeats count as one."""
    first, second = arms
    lines = [f"{'':<22}{first:>12}{second:>22}{'won/tied/lost':>16}{'p':>10}"]
    datasets = 0
    for metric in metrics:
        means = paired(results, arms, metric)["mean"]
        both = compare(means[first].to_numpy(), means[second].to_numpy())
        datasets = max(datasets, len(means))
        counts = f"{both.won}/{both.tied}/{both.lost}"
        lines.append(f"{metric:<22}{both.first:>12.4f}{both.second:>22.4f}{counts:>16}{both.p:>10.3g}")
    lines[0] = f"{datasets} datasets".ljust(22) + lines[0][22:]
    return "\n" + "\n".join(lines) + "\n"
