"""Classifiers off the shelf on points (N, D): fitted, tuned where asked for, and their scores for every type."""

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

from stages.folds import every_cell_once

FOLDS = 5  # of the cross-validation that tunes
GRIDS: dict[str, tuple] = {  # simplest first: of equal ones the first is taken
    "svm": (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0),  # C
    "lr": (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0),  # C
    "rf": (3, 5, 10, 20),  # depth
    "knn": (1, 3, 5, 10, 20, 50),  # k
}
TUNED_NAMES = {"svm": "C", "lr": "C", "rf": "depth", "knn": "k"}
USUAL = {"svm": 1.0, "lr": 1.0, "rf": 5, "knn": 5}  # published; k is scikit-learn's, no kNN was published


def make(kind: str, value: float, cells: int, seed: int) -> ClassifierMixin:
    """One classifier: linear SVC, logistic regression of 10,000 iterations, forest of 10 trees (published), or kNN.

    `value` is C, depth or k; `cells` it will be fitted on. Raises ValueError for another kind.
    """
    if kind == "svm":
        return LinearSVC(C=value, random_state=seed)
    if kind == "lr":
        return LogisticRegression(C=value, max_iter=10_000)
    if kind == "rf":
        return RandomForestClassifier(n_estimators=10, max_depth=value, random_state=seed)
    if kind == "knn":
        return KNeighborsClassifier(n_neighbors=min(int(value), cells), weights="distance")
    raise ValueError(f"no classifier is called {kind!r}; there are {', '.join(GRIDS)}")


@dataclass(frozen=True)
class Fitted:
    """A fitted classifier, the setting it has, and whether its solver came to an end."""

    classifier: ClassifierMixin | None  # None where all training cells are of one type
    only: int
    value: float
    converged: bool

    def outputs(self, points: np.ndarray, types: int) -> np.ndarray:
        """Probabilities or decision values (N, `types`), never hard labels; a type not fitted comes last everywhere."""
        if self.classifier is None:
            outputs = np.zeros((len(points), types))
            outputs[:, self.only] = 1.0
            return outputs
        if hasattr(self.classifier, "predict_proba"):
            found = self.classifier.predict_proba(points)  # (N, types fitted)
        else:
            found = self.classifier.decision_function(points)
            if found.ndim == 1:  # two types: one value, the distance towards the second
                found = np.stack([-found, found], axis=1)
        lowest = 0.0 if hasattr(self.classifier, "predict_proba") else float(found.min()) - 1.0
        outputs = np.full((len(points), types), lowest)
        outputs[:, self.classifier.classes_] = found
        return outputs


def fit(kind: str, points: np.ndarray, labels: np.ndarray, *, seed: int = 0, tuned: bool = False) -> Fitted:
    """Fit a classifier on training cells `points` (N, D) and `labels` (N,) ints.

    With `tuned` the value of GRIDS with the best macro F1 in cross-validation among these cells is taken.
    """
    points = points.astype(np.float64)
    if len(np.unique(labels)) < 2:
        return Fitted(None, int(labels[0]), USUAL[kind], True)
    value = tune(kind, points, labels, seed=seed) if tuned else USUAL[kind]
    classifier, converged = _fitted(make(kind, value, len(labels), seed), points, labels)
    return Fitted(classifier, -1, value, converged)


def _fitted(classifier: ClassifierMixin, points: np.ndarray, labels: np.ndarray) -> tuple[ClassifierMixin, bool]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        classifier.fit(points, labels)
    return classifier, not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)


def tune(kind: str, points: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> float:
    """The value of GRIDS with the best macro F1 on left-out cells; the usual one where cells are too few for that."""
    splits = [(rest, held) for rest, held in every_cell_once(labels, FOLDS, seed) if len(np.unique(labels[rest])) > 1]
    if not splits:
        return USUAL[kind]
    judged = np.concatenate([held for _, held in splits])
    best, best_value = -1.0, USUAL[kind]
    for value in GRIDS[kind]:
        found = [
            _fitted(make(kind, value, len(rest), seed), points[rest], labels[rest])[0].predict(points[held])
            for rest, held in splits
        ]
        score = f1_score(labels[judged], np.concatenate(found), average="macro", zero_division=0)
        if score > best + 1e-9:
            best, best_value = score, value
    return best_value
