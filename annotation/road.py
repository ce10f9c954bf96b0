"""The road from labelled datasets to the cells of another: that of a query, and of reference cells held out.

Only cells that stand in the same relation to every fit can be compared, so both go the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, diags, vstack
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import LinearSVC

from annotation import strange
from stages import classify
from stages.folds import folds

OUT_OF_FOLD = 2_000  # labelled, and as many unlabelled, cells that take part when labelled ones are held out
FOLDS = 3  # parts of the references that are sent through as a query would be
FEW = 30  # query cells below which their mean says more about their types than about their batch
VOTERS = 15  # cells that have a say in a call from references
UNIT = 30.0  # length of a cell's vector of shared genes: about that of 2,500 genes at log1p 0.5


@dataclass(frozen=True)
class Sent:
    """What came of M unlabelled cells that were sent through with labelled ones of other datasets."""

    views: list
    centre: np.ndarray  # (D,) what they lost when they were centred
    weights: np.ndarray  # (S, L') of the logits
    bias: np.ndarray  # (L',)
    present: np.ndarray  # (L',) the types that have a logit
    features: np.ndarray  # (M, D)
    near: np.ndarray  # (M, VOTERS) of each cell among them, itself first
    raw: np.ndarray  # (M, L) probabilities of each cell alone
    voted: np.ndarray  # (M, L) with its neighbours' say
    places: strange.Places  # of the types
    scores: np.ndarray  # (M,) how strange
    local: np.ndarray  # (M,) the part of it that neighbours share
    apart: float  # how far the references are, as batches


@dataclass(frozen=True)
class HeldOut:
    """What came of R labelled cells that were sent through as if they were a query's."""

    voted: np.ndarray  # (R, L) not calibrated
    rows: np.ndarray  # (R,) which of the labelled cells of all datasets they are
    scores: np.ndarray  # (R,) how strange
    apart: float  # how far they are from those that were left, as batches


def send(parts, embeddings, labels, ours: csr_matrix, embedding: np.ndarray, types: int, seed: int) -> Sent:
    """The road of a query: LR and a linear SVM on the shared genes of others, then the say of each cell's neighbours.

    parts, embeddings, labels: of each labelled dataset (R, S), (R, H), (R,). ours (M, S), embedding (M, H).
    Every cell is of one length, which takes away most of what depth and technique do. What is left is judged
    from where the types of the query lie, as far as it is known; half of that is taken away, as some types may be new.
    Reference cells that are held out take the same road, for only cells that stand in the same relation to every fit
    can be compared: views are fitted on both sides, without labels, and each dataset is centred on itself.
    """
    theirs, known = vstack(parts, format="csr"), np.concatenate(labels)  # (R, S), (R,)
    views = classify.fit_views(vstack([theirs, ours], format="csr"), np.vstack([*embeddings, embedding]), seed)
    points = [classify.features(views, part, inside) for part, inside in zip(parts, embeddings, strict=True)]
    features, points, centre = _centred(classify.features(views, ours, embedding).astype(np.float32), points)
    near = neighbours(features, VOTERS)
    present, weights, bias = linear(theirs, known, seed)
    logits, of_theirs = ours @ weights, theirs @ weights
    bias = bias - 0.5 * drift(logits + bias, of_theirs + bias, np.searchsorted(present, known))
    raw = of_logits(logits + bias, present, types)
    averaged, both = features[near].mean(axis=1), voted(raw, near)
    called, points = both.argmax(axis=1), np.vstack(points)
    places = strange.places(points, known, features, averaged, called)
    scores, local = strange.scores(places, averaged, raw, near)
    return Sent(
        views=views, centre=centre, weights=weights, bias=bias, present=present, features=features, near=near,
        raw=raw, voted=both, places=places, scores=scores, local=local,
        apart=strange.apart(points, known, features, called, seed),
    )  # fmt: skip


def held_out(parts, embeddings, labels, batch, types: int, seed: int) -> HeldOut:
    """Labelled cells on the query's road.

    Whole batches, donors or datasets at a time where there are several, else a third of each type's cells. Cells of a
    type that only their batch has cannot be known and do not count.
    """
    rng = np.random.default_rng(seed)
    x, h, y = vstack(parts, format="csr"), np.vstack(embeddings), np.concatenate(labels)
    origin = np.repeat(np.arange(len(parts)), [len(part) for part in labels])
    some = evenly(y, OUT_OF_FOLD, rng)
    fold = _batch_folds(batch[some], FOLDS) if len(np.unique(batch[some])) > 1 else None
    fold = folds(y[some], FOLDS, seed) if fold is None else fold
    held, places, scores, apart = [], [], [], []
    for j in np.unique(fold[fold >= 0]):
        out, rest = some[fold == j], some[fold != j]
        out = out[np.isin(y[out], y[rest])]
        if len(out) < 2 or len(np.unique(y[rest])) < 2:
            continue
        kept = [rest[origin[rest] == i] for i in np.unique(origin[rest])]
        sent = send([x[k] for k in kept], [h[k] for k in kept], [y[k] for k in kept], x[out], h[out], types, seed)
        held.append(sent.voted), places.append(out), scores.append(sent.scores), apart.append(sent.apart)
    if not held:
        return HeldOut(np.zeros((0, types)), np.zeros(0, int), np.zeros(0), 0.0)
    return HeldOut(np.vstack(held), np.concatenate(places), np.concatenate(scores), float(np.median(apart)))


def _batch_folds(batch: np.ndarray, n_folds: int) -> np.ndarray:
    """Whole batches dealt to at most `n_folds` folds, the largest first, each to the smallest fold: (R,)."""
    names, own, count = np.unique(batch, return_inverse=True, return_counts=True)
    total, of = np.zeros(min(n_folds, len(names)), int), np.zeros(len(names), int)
    for i in np.argsort(-count, kind="stable"):
        of[i] = total.argmin()
        total[of[i]] += count[i]
    return of[own]


def _centred(features: np.ndarray, points: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Features of the query (M, D) and of each reference, less their dataset's mean; what the query lost, (D,)."""
    centre = features.mean(axis=0) if len(features) >= FEW else np.vstack(points).mean(axis=0)
    return (features - centre).astype(np.float32), [part - part.mean(axis=0) for part in points], centre


def linear(x: csr_matrix, labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Types present (L'), weights (G, L') and bias (L',): half LR, half twice the margins of a linear SVM."""
    lr = LogisticRegression(C=1.0, max_iter=200).fit(x, labels)
    svm = LinearSVC(random_state=seed).fit(x, labels)
    weights, bias = lr.coef_ / 2 + svm.coef_, lr.intercept_ / 2 + svm.intercept_
    if len(weights) == 1:  # two types: one column is their difference
        weights, bias = np.vstack([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    return lr.classes_, weights.T.astype(np.float32), bias


def drift(logits: np.ndarray, theirs: np.ndarray, labels: np.ndarray, rounds: int = 5) -> np.ndarray:
    """How far the query's types lie from the references', in logits (L',): mean over types, whatever their shares.

    logits (N, L') of the query, theirs (R, L') with labels (R,). A type that hardly a cell is called has no say.
    """
    centres = np.stack([theirs[labels == k].mean(axis=0) for k in range(logits.shape[1])])
    off = np.zeros(logits.shape[1])
    for _ in range(rounds):
        p = softmax(logits - off, axis=1)
        weight = p * (p.argmax(axis=1)[:, None] == np.arange(p.shape[1]))  # (N, L')
        total = weight.sum(axis=0)
        seen = np.flatnonzero(total > 2)
        if not len(seen):
            break
        means = weight[:, seen].T @ logits / total[seen, None]
        off = 0.5 * off + 0.5 * np.average(means - centres[seen], axis=0, weights=np.sqrt(total[seen]))
    return off


def together(own: np.ndarray, around: np.ndarray) -> np.ndarray:
    """A cell's probabilities (B, L) times the mean of its own and its neighbours' (B, K, L), to sum to 1."""
    mean = (own + around.sum(axis=1)) / (1 + around.shape[1])
    both = (own + 1e-6) * (mean + 1e-6)
    return both / both.sum(axis=1, keepdims=True)


def voted(own: np.ndarray, near: np.ndarray) -> np.ndarray:
    """`together` of cells (M, L) whose neighbours, itself first (M, K), are among them."""
    return together(own, own[near[:, 1:]])


def neighbours(points: np.ndarray, k: int) -> np.ndarray:
    """The k nearest of all cells (M, D) to each, itself first: (M, K); fewer where there are few cells."""
    k = max(1, min(k, len(points) // 4))
    near = NearestNeighbors(n_neighbors=k).fit(points).kneighbors(points, return_distance=False)
    lost = np.flatnonzero((near != np.arange(len(points))[:, None]).all(axis=1))  # among copies of themselves
    near[lost, 0] = lost
    return near


def evenly(labels: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """At most `most` labelled cells, of every type the same number as far as there are so many."""
    known = np.flatnonzero(labels >= 0)
    if len(known) <= most:
        return known
    order = rng.permutation(known)
    order = order[np.argsort(labels[order], kind="stable")]
    count = np.bincount(labels[order])
    place = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)  # of a cell within its type
    limit = np.sort(place)[most - 1]
    return np.sort(order[place <= limit])


def unit(log: csr_matrix) -> csr_matrix:
    squares = np.asarray(log.multiply(log).sum(axis=1)).ravel()
    return (diags((UNIT / np.sqrt(np.maximum(squares, 1e-12))).astype(np.float32)) @ log).tocsr()


def of_logits(logits: np.ndarray, present: np.ndarray, types: int) -> np.ndarray:
    """Probabilities (B, L) from logits of the types that are present (B, L')."""
    return classify.spread(softmax(logits, axis=1), present, types)
