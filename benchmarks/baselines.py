"""Baselines in their strongest honest form: each has its setting picked by cross-validation on the training cells."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from benchmarks.splits import Dataset
from stages import classify
from stages.folds import folds

BASELINES = ("LR", "linear SVM", "random forest", "LR on 50 PCs")
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)  # C of the baselines' LR
MARGINS = (0.0001, 0.001, 0.01, 0.1, 1.0)  # of the SVM, whose margin is a hard one from there on
TREES = 200
CHOSEN_ON = 500  # training cells by which C is chosen, at most


def gene_views(dataset: Dataset) -> list[tuple[str, classify.View]]:
    """The views of the genes, which every method on them shares; they know no label."""
    return dataset.once("views", lambda: classify.fit_views(dataset.x, None, 0))


def baseline(dataset: Dataset, method: str, rows: np.ndarray, others: np.ndarray, seed: int) -> np.ndarray:
    """Probabilities or decision values (n_test, L) of the test cells `others`."""
    y = dataset.y[rows]
    if method == "random forest":
        forest = RandomForestClassifier(TREES, random_state=seed, n_jobs=1).fit(dataset.x[rows], y)
        return classify.predict(forest, dataset.x[others], dataset.types)
    if method == "LR on 50 PCs":  # of all cells, without labels; the total variance is 100, as ours
        points = dataset.once("pcs", lambda: gene_views(dataset)[0][1](dataset.x) * 10)
        return classify.predict(tuned(regression, STRENGTHS, points[rows], y, seed), points[others], dataset.types)
    inside, outside = dataset.once(("rotated", rows.tobytes()), lambda: rotated(dataset.x, rows, others))
    if method == "LR":
        return classify.predict(tuned(regression, STRENGTHS, inside, y, seed), outside, dataset.types)
    dual = True if len(rows) > CHOSEN_ON else "auto"  # on many cells "auto" is the primal, ten times as slow
    svm = tuned(partial(machine, dual=dual), MARGINS, inside, y, seed)
    values = decisions(svm, outside)
    out = np.full((len(others), dataset.types), values.min() - 1)
    out[:, svm.classes_] = values
    return out


def regression(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=300)


def machine(strength: float, dual: bool | str) -> LinearSVC:
    return LinearSVC(C=strength, dual=dual, max_iter=2000, random_state=0)


def rotated(x: csr_matrix, rows: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Training and test cells in the dimensions that the training cells span.

    A linear classifier with a ridge penalty gives the same answers there as on all genes, in a fraction of the time.
    """
    x = x.astype(np.float64)
    known = x[rows].T.toarray()  # (G, n_train): beside it all stays sparse
    inside, outside = x[rows] @ known, x[others] @ known  # inner products of cells
    mean = inside.mean(axis=0)
    outside = outside - outside.mean(axis=1, keepdims=True) - mean + mean.mean()  # as if centred on the training mean
    inside = inside - mean[:, None] - mean + mean.mean()
    values, vectors = np.linalg.eigh(inside)
    keep = values > values.max() * 1e-10
    root = np.sqrt(values[keep])
    return vectors[:, keep] * root, outside @ (vectors[:, keep] / root)  # (n_train, R), (n_test, R)


def decisions(model: Any, points: np.ndarray) -> np.ndarray:
    """A value for every class, (N, L): logarithms of probabilities where the model has them."""
    if hasattr(model, "predict_proba"):
        return np.log(model.predict_proba(points) + 1e-12)
    values = model.decision_function(points)
    return values if values.ndim == 2 else np.stack([-values, values], axis=1)


def tuned(
    make: Callable[[float], Any], strengths: Sequence[float], points: np.ndarray, y: np.ndarray, seed: int
) -> Any:
    """The model fitted with the C that suits its training cells best, or 500 of them, evenly over the types."""
    rows = evenly(y, CHOSEN_ON, seed)
    return make(chosen(make, strengths, points[rows], y[rows], seed)).fit(points, y)


def evenly(y: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Rows of at most `most` cells, of every type as many as of any other while it has them."""
    order = np.random.default_rng(seed).permutation(len(y))
    rank = np.empty(len(y), dtype=int)  # of a cell within its type
    for c in np.unique(y):
        mine = order[y[order] == c]
        rank[mine] = np.arange(len(mine))
    return np.sort(np.argsort(rank, kind="stable")[:most])


def chosen(
    make: Callable[[float], Any], strengths: Sequence[float], points: np.ndarray, y: np.ndarray, seed: int
) -> float:
    """The C that gets most held-out cells right in three folds; ties go to the smaller loss."""
    part = folds(y, 3, seed)
    best: tuple[int, float] | None = None
    choice = strengths[len(strengths) // 2]
    for strength in strengths:
        right, likelihood = 0, 0.0
        for k in range(3):
            if not (part == k).any() or len(np.unique(y[part != k])) < 2:
                continue
            model = make(strength).fit(points[part != k], y[part != k])
            values = decisions(model, points[part == k])
            values = values - values.max(axis=1, keepdims=True)
            values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
            known = np.isin(y[part == k], model.classes_)
            at = np.searchsorted(model.classes_, y[part == k][known])
            right += int((values[known].argmax(axis=1) == at).sum())
            likelihood += values[known][np.arange(len(at)), at].sum()
        if best is None or (right, likelihood) > best:
            best, choice = (right, likelihood), strength
    return choice
