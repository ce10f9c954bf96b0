"""Label all cells of a dataset from a few labelled ones.

Three views of the same cells, each scaled to the same total variance: principal components of the
log-normalised genes, of the standardised variable genes, and of the frozen encoder's output, or of the
map made of these very cells (stages.embedding), which has more to say. Logistic regression on them; then
class-balanced self-training on the unlabelled cells of the same dataset, which carries most of the gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, diags
from sklearn.linear_model import LogisticRegression

from stages.folds import folds

COMPONENTS = 50  # of each view
BESIDE_OWN = 20  # of the views of the genes beside the cells' own map, which then counts for more
OF_OWN = 15  # of the view of that map, which has no more
STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # C of the logistic regression, chosen by cross-validation
ENCODER_WEIGHT = 0.5  # of the encoder's view beside the two views of the genes; 1.0 lost 0.7 points at 5 labels
OWN_WEIGHT = 2.0  # of the view of the cells' own map; 3 gains more of 250 cells, loses more of 120 and of 800
SHARES = (0.3, 0.6, 0.9)  # share of every predicted type that is believed, round by round
TILT = 0.25  # how far guesses lean towards types that are common here; 0.5 gained as much, and lost more where it lost
SELF_TRAINING_CELLS = 20_000  # unlabelled cells beyond this teach nothing new and cost time


@dataclass
class View:
    """One linear map from the columns of a view to at most 50 components, the same for new cells."""

    columns: np.ndarray | None  # indices of the columns used, None = all
    inverse: np.ndarray  # (C,) one over the scale of a column
    shift: np.ndarray  # (C,) mean of the scaled column
    axes: np.ndarray  # (C, D) principal axes, divided by the root of the view's total variance

    def __call__(self, x: csr_matrix | np.ndarray) -> np.ndarray:
        x = x if self.columns is None else x[:, self.columns]
        return np.asarray(x @ self.weights - self.offset)  # (N, D)

    @property
    def weights(self) -> np.ndarray:
        """What the columns are multiplied with, (C, D); `offset` (D,) is then taken away."""
        return self.inverse[:, None] * self.axes

    @property
    def offset(self) -> np.ndarray:
        return self.shift @ self.axes


def _moments(x: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (G,) of every column."""
    mean = np.asarray(x.mean(axis=0), dtype=np.float64).ravel()
    square = x.multiply(x).mean(axis=0)
    return mean, np.maximum(np.asarray(square, dtype=np.float64).ravel() - mean**2, 0)


def fit_view(
    x: csr_matrix | np.ndarray, columns: np.ndarray | None, inverse: np.ndarray, components: int, seed: int
) -> View:
    """Principal axes of cells x (N, G), some `columns` of it times `inverse`, centred; x never becomes dense.

    By a randomised SVD with five passes of iteration: for 50 components as good as an exact one.
    """
    x = x if columns is None else x[:, columns]
    x = x @ diags(inverse) if hasattr(x, "tocsr") else x * inverse
    x = x.astype(np.float32)
    shift = np.asarray(x.mean(axis=0)).ravel()
    k = max(1, min(components, min(x.shape) - 1))
    generator, width = np.random.default_rng(seed), min(k + 20, min(x.shape))
    probe = generator.standard_normal((x.shape[1], width)).astype(np.float32)
    q = np.linalg.qr(x @ probe - shift @ probe)[0]  # (N, k + 20)
    for _ in range(5):
        v = np.linalg.qr(x.T @ q - np.outer(shift, q.sum(axis=0)))[0]  # (C, k + 20)
        q = np.linalg.qr(x @ v - shift @ v)[0]
    _, values, vectors = np.linalg.svd((x.T @ q - np.outer(shift, q.sum(axis=0))).T, full_matrices=False)
    total = np.sqrt((values[:k] ** 2).sum() / x.shape[0]) + 1e-12
    # a fixed sign of every axis, so that two runs, or two machines, agree
    sign = np.sign(vectors[:k][np.arange(k), np.abs(vectors[:k]).argmax(axis=1)])
    return View(columns, inverse, shift, (vectors[:k] * sign[:, None]).T / total)


def variable_genes(mean: np.ndarray, variance: np.ndarray, wanted: int = 2000) -> np.ndarray:
    """Genes with most variance beyond the median of equally abundant genes (20 bins of the mean)."""
    excess = np.empty_like(variance)
    for rows in np.array_split(np.argsort(mean, kind="stable"), 20):
        if len(rows):
            excess[rows] = variance[rows] - np.median(variance[rows])
    return np.sort(np.argsort(-excess, kind="stable")[:wanted])


def fit_views(
    log_genes: csr_matrix, encoder_features: np.ndarray | None, seed: int, own: bool = False
) -> list[tuple[str, View]]:
    """The three views of cells (N, G), (N, H), or the two without an encoder: [("genes", view), ..., (source, view)].

    The third one's source is "encoder", or "own" where the features are the map made of these very cells.
    """
    measured = np.flatnonzero(np.asarray((log_genes > 0).sum(axis=0)).ravel() > 2)  # a gene of two cells is noise
    if not len(measured):
        measured = np.arange(log_genes.shape[1])
    mean, variance = (m[measured] for m in _moments(log_genes))
    chosen = variable_genes(mean, variance)
    wanted = BESIDE_OWN if own else COMPONENTS
    plain = fit_view(log_genes, measured, np.ones(len(measured)), wanted, seed)
    standard = fit_view(log_genes, measured[chosen], 1 / np.sqrt(variance[chosen] + 1e-6), wanted, seed)
    views = [("genes", plain), ("genes", standard)]
    if encoder_features is not None:
        views.append(own_view(encoder_features, seed) if own else encoder_view(encoder_features, seed))
    return views


def encoder_view(encoder_features: np.ndarray, seed: int) -> tuple[str, View]:
    """The third view alone: the two of the genes stay as they are where only the encoder changes."""
    return "encoder", fit_view(encoder_features, None, np.ones(encoder_features.shape[1]), COMPONENTS, seed)


def own_view(points: np.ndarray, seed: int) -> tuple[str, View]:
    """The third view where it is the map of the cells themselves, `points` (N, H)."""
    return "own", fit_view(points, None, np.ones(points.shape[1]), OF_OWN, seed)


def view_weights(views: list[tuple[str, View]]) -> np.ndarray:
    """What each view is multiplied with (V,): features then have a total variance of 100."""
    weights = np.array([{"encoder": ENCODER_WEIGHT, "own": OWN_WEIGHT}.get(source, 1.0) for source, _ in views])
    return weights * (10 / np.linalg.norm(weights))


def features(views: list[tuple[str, View]], log_genes: csr_matrix, encoder_features: np.ndarray | None) -> np.ndarray:
    """What the classifier sees of cells (N, G), (N, H): their views side by side, (N, D)."""
    sources = {"genes": log_genes, "encoder": encoder_features, "own": encoder_features}
    return np.hstack([view(sources[s]) * w for (s, view), w in zip(views, view_weights(views), strict=True)])


def predict(model, x: np.ndarray | csr_matrix, types: int) -> np.ndarray:
    """Probabilities (N, L) of all types for cells x (N, D), by a scikit-learn classifier that may have seen fewer."""
    return spread(model.predict_proba(x), model.classes_, types)


def spread(found: np.ndarray, classes: np.ndarray, types: int) -> np.ndarray:
    """Probabilities (N, L) of all types, from those (N, L') of the `classes` (L',) that a classifier has seen."""
    probabilities = np.zeros((len(found), types))
    probabilities[:, classes] = found
    return probabilities


def _regression(
    f: np.ndarray, labels: np.ndarray, strength: float, weights: np.ndarray | None = None
) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=300).fit(f, labels, sample_weight=weights)


def choose_strength(f: np.ndarray, labels: np.ndarray, seed: int, count: int = 3) -> float:
    """C with most held-out labelled cells right, ties to the smaller loss; 10 if none can be held out."""
    part = folds(labels, count, seed)
    best, choice = (0, 0.0), 10.0
    for strength in STRENGTHS:
        right, likelihood = 0, 0.0
        for j in range(count):
            fit, held = part != j, part == j
            if not held.any() or len(np.unique(labels[fit])) < len(np.unique(labels)):
                continue
            model = _regression(f[fit], labels[fit], strength)
            p = model.predict_proba(f[held])
            at = np.searchsorted(model.classes_, labels[held])
            right += int((p.argmax(axis=1) == at).sum())
            likelihood += float(np.log(p[np.arange(len(at)), at] + 1e-9).sum())
        if (right, likelihood) > best:
            best, choice = (right, likelihood), strength
    return choice


def self_train(
    f: np.ndarray, labels: np.ndarray, strength: float, shares: Sequence[float] = SHARES
) -> LogisticRegression:
    """Learn from labelled cells, then believe the surest share of every predicted type, round by round.

    f: (N, D) features; labels: (N,) ints, -1 for an unlabelled cell. Labelled cells weigh 1; the believed cells of a
    type together weigh what the average type's labelled ones do. Without unlabelled cells or `shares`: plain LR.
    Guesses are tilted by how much commoner a type is among them than among the labelled cells, to the power `TILT`.
    """
    known, rest = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    model = _regression(f[known], labels[known], strength)
    labelled = np.unique(labels[known], return_counts=True)[1] / len(known)  # share of each type
    typical = len(known) / len(model.classes_)  # labelled cells of the average type
    for share in shares if len(rest) else ():
        p = model.predict_proba(f[rest])
        common = p.mean(axis=0) + 1 / len(rest)
        p *= (common / common.sum() / labelled) ** TILT
        p /= p.sum(axis=1, keepdims=True)
        guess, sure = p.argmax(axis=1), p.max(axis=1)
        rows, weights = [], []
        for c in range(len(model.classes_)):
            mine = np.flatnonzero(guess == c)
            mine = mine[np.argsort(-sure[mine], kind="stable")][: max(1, int(len(mine) * share))]
            rows.append(mine)
            weights.append(np.full(len(mine), typical / max(1, len(mine))))
        believed = np.concatenate(rows)
        x = np.vstack([f[known], f[rest[believed]]])
        y = np.concatenate([labels[known], model.classes_[guess[believed]]])
        model = _regression(x, y, strength, np.concatenate([np.ones(len(known)), *weights]))
    return model


@dataclass(frozen=True)
class PointClassifier:
    """A classifier of points (N, D) that was taught from labels, and the C it was taught with."""

    model: LogisticRegression
    strength: float
    types: int  # L, all types, of which the labels may lack some

    def predict(self, f: np.ndarray) -> np.ndarray:
        """Probabilities (N, L) of any block of points."""
        return predict(self.model, f, self.types)


def learn(
    f: np.ndarray,
    labels: np.ndarray,
    types: int,
    *,
    strength: float | None = None,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
) -> PointClassifier:
    """What labels (N,), -1 for none, teach about points (N, D): C by cross-validation if not given, self-training.

    Whoever has points of their own starts here; `fit` makes them from genes first.
    """
    known = labels >= 0
    strength = choose_strength(f[known], labels[known], seed) if strength is None else strength
    return PointClassifier(self_train(f, labels, strength, shares), strength, types)


@dataclass(frozen=True)
class CellClassifier:
    """What is kept to label more cells, block by block."""

    views: list[tuple[str, View]]
    points: PointClassifier

    def predict(self, log_genes: csr_matrix, encoder_features: np.ndarray | None = None) -> np.ndarray:
        """Probabilities (N, L) of any block of cells whose columns are those of the fitted cells."""
        return self.points.predict(features(self.views, log_genes, encoder_features))


def settings() -> dict[str, object]:
    """What a result of this classifier depends on, beside the cells and the labels."""
    own = {"own_weight": OWN_WEIGHT, "beside_own": BESIDE_OWN, "of_own": OF_OWN}
    return {"shares": SHARES, "tilt": TILT, "weight": ENCODER_WEIGHT, **own}


def fit(
    log_genes: csr_matrix,
    encoder_features: np.ndarray | None,
    labels: np.ndarray,
    n_classes: int,
    seed: int,
    *,
    own: bool = False,
) -> CellClassifier:
    """The whole few-label classifier.

    log_genes: csr (N, G) log1p of counts to 10,000 a cell, all genes of the dataset. encoder_features: dense
    (N, H), or None for no pre-training; `own`: they are the map made of these very cells. labels: (N,) ints, -1 for
    an unlabelled cell. Raises ValueError below two labelled types.
    """
    labels = np.asarray(labels)
    if (seen := len(np.unique(labels[labels >= 0]))) < 2:
        raise ValueError(f"{seen} labelled type(s), and a classifier needs two; label more cells")
    rest = np.flatnonzero(labels < 0)
    if len(rest) > SELF_TRAINING_CELLS:
        rest = np.random.default_rng(seed).choice(rest, SELF_TRAINING_CELLS, replace=False)
    rows = np.sort(np.concatenate([np.flatnonzero(labels >= 0), rest]))
    x, labels = log_genes[rows].tocsr(), labels[rows]
    embedding = None if encoder_features is None else np.asarray(encoder_features)[rows]
    views = fit_views(x, embedding, seed, own)
    return CellClassifier(views, learn(features(views, x, embedding), labels, n_classes, seed=seed))


def classify(
    log_genes: csr_matrix,
    encoder_features: np.ndarray | None,
    labels: np.ndarray,
    n_classes: int,
    seed: int,
    *,
    own: bool = False,
) -> np.ndarray:
    """Probabilities (N, L) of every cell, labelled or not; arguments and errors are those of `fit`."""
    fitted = fit(log_genes, encoder_features, labels, n_classes, seed, own=own)
    return fitted.predict(log_genes, encoder_features)
