"""How much to believe a label: calibrated probabilities, and cells that no known type explains."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import norm
from sklearn.cluster import KMeans
from sklearn.covariance import LedoitWolf
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors

from stages.folds import folds
from stages.score import entropy

AXES = 50  # principal axes the distances are measured in
NEIGHBOURS = 15  # cells a score is averaged over: unknown cells come in groups
REFERENCE = 5_000  # cells that serve as neighbours of a block: 15 of them are a group of 0.3 % of the query
ENTROPY = 0.5  # weight of the classifier's doubt beside the distance
PRIOR_TEMPERATURE, PRIOR_STRENGTH = 0.8, 2.0  # a few labels say little: log T is pulled there as by 2 cells


# ---------------------------------------------------------------------------------------------- calibration


def ece(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of the called type: mean |confidence - accuracy| over equally wide bins.

    probabilities: (N, L), each cell's sum to 1. labels: (N,) int; cells with label -1 do not count.
    NaN where no cell has a label.
    """
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        return float("nan")
    sure = probabilities[rows].max(1)  # (M,)
    right = probabilities[rows].argmax(1) == labels[rows]
    bin_ = np.minimum((sure * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(bin_, weights=sure - right, minlength=bins)).sum() / len(rows))


def out_of_fold(
    predict: Callable[[np.ndarray], np.ndarray],
    labels: np.ndarray,
    n_types: int,
    n_folds: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """What a classifier that was not told its label says of each labelled cell: (N, L), NaN for other cells.

    predict: handed labels (N,) with some set back to -1, returns probabilities (N, L). It is the whole
        recipe, self-training included: judged by cells it has met, a classifier is always too sure.
    """
    held = np.full((len(labels), n_types), np.nan)
    fold = folds(labels, n_folds, seed)
    for j in np.unique(fold[fold >= 0]):
        out = np.flatnonzero(fold == j)
        held[out] = predict(np.where(fold == j, -1, labels))[out]
    return held


def fit_temperature(held: np.ndarray, labels: np.ndarray, shares: np.ndarray | None = None) -> float:
    """The temperature T under which softmax(log p / T) fits held-out labelled cells best; 1 leaves p as it is.

    Args:
        held: (N, L) from `out_of_fold`; rows of NaN do not count.
        labels: (N,) int, -1 for none.
        shares: (L,) the share of each type among the cells to be called (the mean prediction), for labelled
            cells are picked by type and the others are not. None: every labelled cell counts the same.
    """
    rows = np.flatnonzero((labels >= 0) & np.isfinite(held).all(1))
    if not len(rows):
        return PRIOR_TEMPERATURE
    logits = np.log(np.maximum(held[rows], 1e-12))  # (M, L)
    weight = type_weights(labels[rows], shares)  # (M,) sums to M

    def loss(log_t: float) -> float:
        p = softmax(logits / np.exp(log_t), axis=1)[np.arange(len(rows)), labels[rows]]
        return (
            -(weight * np.log(np.maximum(p, 1e-12))).sum() + PRIOR_STRENGTH * (log_t - np.log(PRIOR_TEMPERATURE)) ** 2
        )

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x))


def calibrate(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(log p / T): (N, L) -> (N, L); the order of the types in a cell stays."""
    return softmax(np.log(np.maximum(probabilities, 1e-12)) / temperature, axis=1)


def type_weights(labels: np.ndarray, shares: np.ndarray | None) -> np.ndarray:
    """What each labelled cell counts so that the types have these shares: (M,) with mean 1."""
    if shares is None or not len(labels):
        return np.ones(len(labels))
    count = np.bincount(labels, minlength=len(shares))
    weight = np.maximum(shares, 1e-3)[labels] / count[labels]
    return weight / weight.mean()


def humbled(probabilities: np.ndarray, most: float = 0.5) -> np.ndarray:
    """The same order of types with no probability above `most`: (B, L) -> (B, L); with two types both become half."""
    p = np.maximum(probabilities, 1e-9)  # what a type gives up goes to the others, in proportion
    best = np.arange(p.shape[1]) == p.argmax(axis=1)[:, None]
    top = p.max(axis=1, keepdims=True)
    scaled = np.where(best, most, p * (1 - most) / np.where(best, 0, p).sum(axis=1, keepdims=True))
    return np.where(top > most, scaled, probabilities)


# ---------------------------------------------------------------------------------------------- unknown cells


def conformal(scores: np.ndarray, error: float) -> float:
    """The score that a new one of the same kind exceeds with a chance of at most `error`; the highest of few."""
    place = int(np.ceil((1 - error) * (len(scores) + 1))) - 1
    return float(np.sort(scores)[min(place, len(scores) - 1)])


def groups(points: np.ndarray, seed: int, most: int = 8) -> np.ndarray:
    """Centres (K, D) of the groups that unknown cells (U, D) fall into, largest first: k-means of best silhouette.

    One group below 20 cells, or where no split has a silhouette of 0.25.
    """
    points = points[np.sort(np.random.default_rng(seed).permutation(len(points))[:2000])]
    best, found = 0.25, points.mean(axis=0, keepdims=True)
    for k in range(2, min(most, len(points) // 10) + 1):
        fitted = KMeans(k, n_init=3, random_state=seed).fit(points)
        score = silhouette_score(points, fitted.labels_)
        if score > best:
            best, found = score, fitted.cluster_centers_[np.argsort(-np.bincount(fitted.labels_, minlength=k))]
    return found


# ---------------------------------------------------------------------------------------------- unknown cells, labels
# ---------------------------------------------------------------------------------------------- in the same dataset


@dataclass
class Unknown:
    """What a block of cells is scored with; nothing in it grows with the query."""

    middle: np.ndarray  # (D,)
    axes: np.ndarray  # (D, A)
    types: tuple[np.ndarray, np.ndarray, np.ndarray]  # centres (L, A), their cells (L,), precision root (A, A)
    overall: tuple[np.ndarray, np.ndarray]  # centre (1, A), precision root (A, A)
    rows: np.ndarray  # (R,) reference cells, as rows of what the object was fitted on
    points: np.ndarray  # (R, A) of these
    ratio: np.ndarray  # (R,) their own distance ratio
    doubt: np.ndarray  # (R,) their own entropy
    entropy_weight: float
    threshold: float  # a score above it is Unknown; inf where too few labels say nothing

    def score(self, features: np.ndarray, probabilities: np.ndarray, near: np.ndarray | None = None) -> np.ndarray:
        """How little the known types explain each cell of a block: (B, D), (B, L) -> (B,), higher = stranger.

        near: (B, K) its nearest reference cells, as places in `rows`, if the caller knows them already.
        """
        points = (features - self.middle) @ self.axes  # (B, A)
        if near is None:
            near = neighbours(self.points, points, NEIGHBOURS - 1)  # (B, K)
        share = 1 / (1 + near.shape[1])
        ratio = share * (distance_ratio(points, self.types, self.overall) + self.ratio[near].sum(1))
        doubt = share * (entropy(probabilities) + self.doubt[near].sum(1))
        return combine(ratio, doubt, self.entropy_weight)


def fit_unknown(
    features: np.ndarray,
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    error: float = 0.05,
    n_folds: int = 5,
    seed: int = 0,
) -> tuple[Unknown, np.ndarray]:
    """Measure how strange each cell is, and the score that about `error` of the known cells exceed.

    A cell is strange when it is far from the nearest type (Mahalanobis, one shrunk covariance within types)
    for how unusual it is anyway (the same under the covariance of all cells): the ratio of the two, averaged
    over its neighbours, and the classifier's entropy, averaged likewise. The threshold comes from labelled
    cells scored without their label. For labels of the same dataset; those of others: annotation/strange.py.

    Args:
        features: (N, D) neighbour-averaged features of labelled and unlabelled cells together; of a large
            query a sample of 20,000 cells or so does, `Unknown.score` takes the rest in blocks.
        probabilities: (N, L) of the classifier, calibrated.
        labels: (N,) int below L, -1 for none.
        error: the share of known cells that may be called Unknown.
    Returns:
        the fitted object, and the scores (N,) of the cells it was fitted on.
    Raises:
        ValueError: without a labelled cell.
    """
    labels = np.asarray(labels)
    if not (labels >= 0).any():
        raise ValueError("no labelled cell to tell known from unknown by; label some cells first")
    middle, axes = principal_axes(features)
    points = (features - middle) @ axes  # (N, A)
    doubt = entropy(probabilities)  # (N,)
    shares = np.bincount(probabilities.argmax(1), minlength=probabilities.shape[1])

    types = gaussian_types(points, labels)
    held = np.full(len(points), np.nan)
    ratio, near, overall = within_dataset(points, types)
    scores = combine(ratio[near].mean(1), doubt[near].mean(1), ENTROPY)
    fold = folds(labels, n_folds, seed)
    for j in np.unique(fold[fold >= 0]):
        out = np.flatnonzero(fold == j)
        without = np.where(fold == j, -1, labels)
        again = distance_ratio(points, gaussian_types(points, without), overall)
        held[out] = combine(again[near[out]].mean(1), doubt[near[out]].mean(1), ENTROPY)
    rows = np.flatnonzero(np.isfinite(held))
    threshold = tail(held[rows], type_weights(labels[rows], shares / shares.sum()), error)
    rng = np.random.default_rng(seed)
    keep = np.sort(rng.choice(len(points), min(REFERENCE, len(points)), replace=False))
    reference = keep, points[keep], ratio[keep], doubt[keep]
    return Unknown(middle, axes, types, overall, *reference, ENTROPY, threshold), scores


def within_dataset(points: np.ndarray, types: tuple) -> tuple[np.ndarray, np.ndarray, tuple]:
    """Of cells of one origin: distance ratio (N,), neighbours (N, K) with itself, and the spread of all."""
    overall = gaussian_overall(points)
    return distance_ratio(points, types, overall), neighbours(points, points, NEIGHBOURS), overall


def combine(ratio: np.ndarray, doubt: np.ndarray, entropy_weight: float) -> np.ndarray:
    """One score of the two parts, on the scale of a log."""
    return np.log(ratio + 1e-9) + entropy_weight * doubt


def tail(scores: np.ndarray, weight: np.ndarray, error: float) -> float:
    """The score that a share `error` of known cells exceeds: inf when there are too few (5 or less) to say.

    The larger of the weighted conformal quantile (below 1/error cells: the highest score) and a normal tail.
    """
    if len(scores) < 6:
        return float("inf")
    middle = np.average(scores, weights=weight)
    spread = np.sqrt(np.average((scores - middle) ** 2, weights=weight) * len(scores) / (len(scores) - 1))
    normal = middle + norm.ppf(1 - error) * spread
    order = np.argsort(scores)
    passed = np.cumsum(weight[order]) / (weight.sum() + weight.mean())  # the +1 of a new cell
    enough = np.flatnonzero(passed >= 1 - error)
    quantile = scores[order[enough[0]]] if len(enough) else scores.max()
    return float(max(normal, quantile))


def principal_axes(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean (D,) and the `AXES` widest principal axes (D, A) of the cells."""
    middle = features.mean(0, dtype=np.float64)
    x = features - middle
    spread, axes = np.linalg.eigh(x.T @ x / max(len(x) - 1, 1))
    keep = max(1, min(AXES, int((spread > 1e-9 * spread[-1]).sum())))  # one axis even where all cells are alike
    return middle, axes[:, ::-1][:, :keep]


def gaussian_overall(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and precision root of all cells."""
    fitted = LedoitWolf().fit(points)
    return fitted.location_[None], precision_root(fitted.covariance_)


def gaussian_types(points: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres, counts and the one shrunk precision root of the types that have labels."""
    rows = np.flatnonzero(labels >= 0)
    _, own, count = np.unique(labels[rows], return_inverse=True, return_counts=True)
    centres = np.stack([points[rows][own == i].mean(0) for i in range(len(count))])  # (L, A)
    # a cell helps to make its own centre: n / (n - 1) gives back the spread that takes away
    rest = (points[rows] - centres[own]) * np.sqrt(count / np.maximum(count - 1, 1))[own][:, None]
    rest = rest[count[own] > 1]
    if len(rest) < 3:  # one label a type: the spread of all cells has to do
        rest = points - points.mean(0)
    return centres, count, precision_root(LedoitWolf(assume_centered=True).fit(rest).covariance_)


def precision_root(covariance: np.ndarray) -> np.ndarray:
    """R with R R' the inverse of the covariance: (A, A) -> (A, A); points @ R have unit spread."""
    ridge = 1e-9 * np.trace(covariance) / len(covariance) + 1e-30  # copies of one cell have no spread at all
    return np.linalg.inv(np.linalg.cholesky(covariance + ridge * np.eye(len(covariance)))).T


def distance_ratio(points: np.ndarray, types: tuple, overall: tuple) -> np.ndarray:
    """Squared distance to the nearest type over that to the middle of all cells: (B, A) -> (B,)."""
    centres, count, root = types
    near = squared(points @ root, centres @ root) / (1 + 1 / count)  # (B, L); few labels: an uncertain centre
    middle, overall_root = overall
    return near.min(1) / (1 + squared(points @ overall_root, middle @ overall_root)[:, 0])


def squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances (A, D), (B, D) -> (A, B)."""
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * (a @ b.T), 0)


def neighbours(reference: np.ndarray, points: np.ndarray, k: int) -> np.ndarray:
    """Rows of the k nearest reference cells, nearest first: (R, A), (B, A) -> (B, K)."""
    k = max(1, min(k, len(reference) // 4))
    return NearestNeighbors(n_neighbors=k).fit(reference).kneighbors(points, return_distance=False)
