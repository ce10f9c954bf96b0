"""What has been learnt from the labelled cells, and how it labels the query, block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse import csr_matrix, diags, vstack
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from annotation import confidence
from annotation.product import product
from reading import align
from reading.source import Source, shared_genes
from stages import classify

FIT = 20_000  # query cells that are learnt from together; the rest is labelled block by block
OF_REFERENCES = 6_000  # reference cells that are learnt from, evenly over types: more take time and change little
OUT_OF_FOLD = 2_000  # labelled, and as many unlabelled, cells that take part when labelled ones are held out
MANY = 1_000  # labelled cells: more do not change the choice of C
FEW = 30  # query cells below which their mean says more about their types than about their batch
AVERAGED = 10  # cells that features are averaged over for what is strange and what to label next
VOTERS = 15  # cells that have a say in a call from references
UNIT = 30.0  # length of a cell's vector of shared genes: about that of 2,500 genes at log1p 0.5


@dataclass
class Embedder:
    """The encoder's weights by gene name.

    plain: it was trained on log1p of counts that are not scaled. own: it was made of the query's cells and no others.
    """

    genes: list[str]
    weight: np.ndarray  # (G, H)
    bias: np.ndarray  # (H,)
    plain: bool = False
    own: bool = False

    def columns(self, genes: Sequence[str]) -> np.ndarray:
        """The weights of these genes, zeros for one it does not know: (len(genes), H)."""
        place = {gene: i for i, gene in enumerate(self.genes)}
        known = np.array([place.get(gene, -1) for gene in genes], dtype=int)
        return np.where(known[:, None] >= 0, self.weight[known], 0).astype(np.float32)

    def __call__(self, source: Source, counts: csr_matrix, log: csr_matrix) -> np.ndarray:
        """Encoder outputs (B, H) of a block as it was read and as log1p."""
        return product(source.plain(counts) if self.plain else log, self.columns(source.genes)) + self.bias


@dataclass
class Block:
    """What is known about B cells after labelling them; types as ints, -1 for Unknown."""

    embedding: np.ndarray  # (B, H)
    features: np.ndarray  # (B, D)
    probabilities: np.ndarray  # (B, L)
    near: np.ndarray | None  # (B, K) the nearest anchors of the labeller, nearest first, if it had to look
    strange: np.ndarray  # (B,) bool: no known type explains it, or it has no count at all


@dataclass(frozen=True)
class Learnt:
    """What labels teach: where the query's cells lie, what type that makes them, and how sure one may be of it."""

    weights: np.ndarray  # (G, H + V + L') of the query's genes: one product gives embedding, views and logits
    turn: np.ndarray  # (H, E) of the encoder's view
    shift: np.ndarray  # (D,) of all views, D = V + E
    shared: np.ndarray | None = None  # (G,) 1 for a gene shared with the references; None without them
    classify: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None  # features, logits -> (B, L); None: no types
    raw: np.ndarray | None = None  # (M, L) probabilities before neighbours have their say; None where they have none
    temperature: float = 1.0
    ece: float = float("nan")
    held_out: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))  # (R, 3) confidence, type called, type


@dataclass(frozen=True)
class Taught:
    """What was learnt, and what it says of the M cells of the query and of the R cells of references."""

    learnt: Learnt
    features: np.ndarray  # (M, D)
    probabilities: np.ndarray  # (M, L)
    others: tuple[np.ndarray, np.ndarray, np.ndarray]  # features (R, D) over neighbours, labels (R,), probabilities


@dataclass(frozen=True)
class Fitted:
    """The M cells of the query that were learnt from together."""

    rows: np.ndarray  # (M,) in the file
    log: csr_matrix  # (M, G)
    features: np.ndarray  # (M, D)
    averaged: np.ndarray  # (M, D) over neighbours
    probabilities: np.ndarray  # (M, L)
    strange: np.ndarray  # (M,) bool


@dataclass(frozen=True)
class Labeller:
    """What labels a query block by block; nothing in it grows with the query."""

    query: Source
    embedder: Embedder
    classes: list[str]
    learnt: Learnt = field(repr=False)
    fitted: Fitted = field(repr=False)
    anchors: np.ndarray = field(repr=False)  # (A,) places of the fitted cells that serve a block as neighbours
    unknown: confidence.Unknown | None = field(repr=False)  # None: no cell is called Unknown for its strangeness
    unexplained: float = 0.0  # share of the fitted cells that no type explains, at 5 % of known ones or what was asked
    shown: Embedder | None = None  # what the stored embedding is made by, if it is not what the labels are told by

    @property
    def width(self) -> int:
        """Dimensions of the embedding that a block comes with."""
        return len((self.shown or self.embedder).bias)

    def block(self, counts: csr_matrix) -> Block:
        """Label a block of the query as it was read, (B, genes of the file)."""
        log, empty = self.query.log(counts)
        learnt, length = self.learnt, self.length(log)
        hidden = len(self.embedder.bias)
        last = hidden + len(learnt.shift) - learnt.turn.shape[1]
        embedding, views, logits = np.split(product(log, learnt.weights), [hidden, last], axis=1)
        embedding = self.embedder(self.query, counts, log) if self.embedder.plain else embedding + self.embedder.bias
        features = (np.hstack([views * length, embedding @ learnt.turn]) - learnt.shift).astype(np.float32)  # (B, D)
        if self.shown is not None:
            embedding = self.shown(self.query, counts, log)
        if learnt.classify is None:
            return Block(embedding, features, np.zeros((len(features), 0)), None, empty)
        near = self.nearest(features) if learnt.raw is not None or self.unknown is not None else None
        probabilities = learnt.classify(features, logits * length)
        if learnt.raw is not None:
            probabilities = together(probabilities, learnt.raw[self.anchors[near]])
        probabilities = confidence.calibrate(probabilities, learnt.temperature)
        strange = empty.copy()
        if self.unknown is not None:
            around = self.fitted.features[self.anchors[near[:, : AVERAGED - 1]]].sum(axis=1)  # (B, D)
            averaged = (features + around) / (1 + min(AVERAGED - 1, near.shape[1]))
            strange |= self.unknown.score(averaged, probabilities, near) > self.unknown.threshold
        return Block(embedding, features, probabilities, near, strange)

    def nearest(self, features: np.ndarray) -> np.ndarray:
        """The anchors nearest to each cell (B, D), nearest first, as places among the anchors: (B, K)."""
        points = torch.from_numpy(self.fitted.features[self.anchors])  # (A, D)
        k = max(1, min(VOTERS - 1, len(points) // 4))
        norm = points.square().sum(dim=1)
        parts = torch.from_numpy(features).split(512)  # the products of so many stay in the processor's cache
        return torch.cat(
            [torch.addmm(norm, x, points.T, alpha=-2).topk(k, largest=False).indices for x in parts]
        ).numpy()

    def length(self, log: csr_matrix) -> np.ndarray | float:
        """What brings each cell's shared genes to one length, (B, 1); 1 without a reference."""
        if self.learnt.shared is None:
            return 1.0
        squares = log.multiply(log).tocsr() @ self.learnt.shared
        return (UNIT / np.sqrt(np.maximum(squares, 1e-12)))[:, None].astype(np.float32)


def fit(
    query: Source,
    embedder: Embedder,
    labels: np.ndarray,
    classes: list[str],
    references: Sequence[tuple[Source, np.ndarray]] = (),
    *,
    error: float | None = None,
    seed: int = 0,
) -> Labeller:
    """Learn from the labelled cells of the query (labels (N,) int, -1 for none), or of references (Source, labels).

    classes (L): names; none: only features are made. error: the share of known cells that may be called Unknown.
    """
    rows = choose_rows(labels, FIT, seed)
    counts = query.take(rows)
    log, empty = query.log(counts)
    rows, counts, log = rows[~empty], counts[~empty], log[~empty]
    if not len(rows):
        raise ValueError(f"{query.where}: none of its cells has any count, so there is nothing to tell them by")
    embedding = embedder(query, counts, log)
    with threadpool_limits(1):  # small solvers on busy cores wait for each other ten times longer than they compute
        if references:
            taught = _from_references(query, log, embedding, embedder, references, len(classes), seed)
        else:
            taught = _from_query(query, log, embedding, embedder, labels[rows], len(classes), seed)
    features, probabilities = taught.features, taught.probabilities
    averaged = features[neighbours(features, AVERAGED)].mean(axis=1)
    unknown, strange, unexplained = None, np.zeros(len(rows), bool), 0.0
    if classes and (error or references):
        points, theirs, of_theirs = taught.others
        foreign = np.arange(len(points) + len(rows)) >= len(points)
        unknown, scores = confidence.fit_unknown(
            np.vstack([points, averaged]),
            np.vstack([of_theirs, probabilities]),
            np.concatenate([theirs, labels[rows]]),
            foreign=foreign if references else None,
            error=error or 0.05,
            seed=seed,
        )
        found = scores[len(points) :] > unknown.threshold
        unexplained = float(found.mean())
    if error and unknown:
        strange, anchors = found, unknown.rows - len(points)
    else:
        unknown, few = None, min(len(rows), confidence.REFERENCE)
        anchors = np.sort(np.random.default_rng(seed).choice(len(rows), few, replace=False))
    fitted = Fitted(rows, log, features, averaged, probabilities, strange)
    return Labeller(query, embedder, classes, taught.learnt, fitted, anchors, unknown, unexplained)


def choose_rows(labels: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most `most` cells, in order: up to half of them labelled, evenly over the types, the others by chance."""
    if len(labels) <= most:
        return np.arange(len(labels))
    rng = np.random.default_rng(seed)
    known = evenly(labels, most // 2, rng)
    others = np.flatnonzero(labels < 0) if (labels < 0).any() else np.setdiff1d(np.arange(len(labels)), known)
    others = rng.choice(others, min(len(others), most - len(known)), replace=False)
    return np.sort(np.concatenate([known, others]))


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


def _from_query(query, log, embedding, embedder, labels, types: int, seed: int) -> Taught:
    """Labels in the query itself: three views of its cells, LR and self-training on them."""
    views = classify.fit_views(log, embedding, seed, embedder.own)
    features = classify.features(views, log, embedding).astype(np.float32)
    weights, turn, shift = _fold(views, embedder.columns(query.genes), np.arange(len(query.genes)))
    nothing = np.zeros((0, features.shape[1])), np.zeros(0, int), np.zeros((0, types))
    if not types:
        return Taught(Learnt(weights, turn, shift), features, np.zeros((len(features), 0)), nothing)
    rng = np.random.default_rng(seed)
    few = evenly(labels, MANY, rng)
    strength = classify.choose_strength(features[few], labels[few], seed)
    model = classify.learn(features, labels, types, strength=strength)
    rest = np.flatnonzero(labels < 0)
    rest = rng.choice(rest, OUT_OF_FOLD, replace=False) if len(rest) > OUT_OF_FOLD else rest
    some = np.sort(np.concatenate([evenly(labels, OUT_OF_FOLD, rng), rest]))

    def again(labels: np.ndarray) -> np.ndarray:
        return classify.learn(features[some], labels, types, strength=strength).predict(features[some])

    probabilities = model.predict(features)
    temperature, ece, held_out = _hold_out(again, labels[some], probabilities.mean(axis=0), seed)
    learnt = Learnt(
        weights=weights,
        turn=turn,
        shift=shift,
        classify=lambda f, _: model.predict(f),
        temperature=temperature,
        ece=ece,
        held_out=held_out,
    )
    return Taught(learnt, features, confidence.calibrate(probabilities, temperature), nothing)


def _from_references(query, log, embedding, embedder, references, types: int, seed: int) -> Taught:
    """Labels in other datasets: LR and a linear SVM on the shared genes, then the say of each cell's neighbours.

    Every cell is brought to one length, which takes away most of what depth and technique do. What is left is judged
    from where the types of the query lie, as far as it is known; half of that is taken away, as some types may be new.
    """
    rng = np.random.default_rng(seed)
    genes = shared_genes([query, *(source for source, _ in references)])
    mask = np.isin(query.genes, genes)  # (G,)
    ours = _unit(align.align(log, query.genes, genes))  # (M, S)
    parts, embeddings, labels = _read(references, embedder, genes, max(types, OF_REFERENCES // len(references)), rng)
    theirs = vstack(parts, format="csr")  # (R, S)
    views = classify.fit_views(vstack([theirs, ours], format="csr"), np.vstack([*embeddings, embedding]), seed)
    points = [classify.features(views, part, inside) for part, inside in zip(parts, embeddings, strict=True)]
    features, points, centre = _centred(classify.features(views, ours, embedding).astype(np.float32), points)
    near, beside = neighbours(features, VOTERS), _within(points, VOTERS)

    present, weights, bias = linear(theirs, labels, seed)
    logits, theirs_logits = ours @ weights, theirs @ weights
    bias = bias - 0.5 * drift(logits + bias, theirs_logits + bias, np.searchsorted(present, labels))
    raw = _of_logits(logits + bias, present, types)
    probabilities = voted(raw, near)
    some = evenly(labels, OUT_OF_FOLD, rng)

    def again(known: np.ndarray) -> np.ndarray:
        rows = some[known >= 0]
        found, weights, bias = linear(theirs[rows], labels[rows], seed)
        return voted(_of_logits(theirs @ weights + bias, found, types), beside)[some]

    temperature, ece, held_out = _hold_out(again, labels[some], probabilities.mean(axis=0), seed, folds=3)
    maps, turn, shift = _fold(views, embedder.columns(query.genes), np.flatnonzero(mask))
    of_logits = np.zeros((len(query.genes), len(present)), np.float32)
    of_logits[mask] = weights  # genes are in the query's order
    learnt = Learnt(
        weights=np.hstack([maps, of_logits]),
        turn=turn,
        shift=shift + centre,
        shared=mask.astype(np.float32),
        classify=lambda _, logits: _of_logits(logits + bias, present, types),
        raw=raw,
        temperature=temperature,
        ece=ece,
        held_out=held_out,
    )
    of_theirs = voted(_of_logits(theirs_logits + bias, present, types), beside)
    others = (
        np.vstack(points)[beside[:, :AVERAGED]].mean(axis=1), labels,
        confidence.calibrate(of_theirs, learnt.temperature),
    )  # fmt: skip
    return Taught(learnt, features, confidence.calibrate(probabilities, temperature), others)


def _read(references, embedder: Embedder, genes: list[str], most: int, rng: np.random.Generator):
    """At most `most` labelled cells of each dataset: shared genes and embeddings, one array each; all labels (R,)."""
    parts, embeddings, labels = [], [], []
    for source, known in references:
        rows = evenly(known, most, rng)
        counts = source.take(rows)
        log, empty = source.log(counts)
        parts.append(_unit(align.align(log[~empty], source.genes, genes)))
        embeddings.append(embedder(source, counts[~empty], log[~empty]))
        labels.append(known[rows[~empty]])
    return parts, embeddings, np.concatenate(labels)


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


def _within(points: Sequence[np.ndarray], k: int) -> np.ndarray:
    """`neighbours` within each dataset, as rows of all of them together."""
    found = [neighbours(part, k) for part in points]
    width = min(near.shape[1] for near in found)
    before = np.cumsum([0, *(len(part) for part in points)])
    return np.vstack([near[:, :width] + start for near, start in zip(found, before, strict=False)])


def _fold(views, encoder: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Encoder (G, H) and views as one linear map of genes (G, H + V), that of embeddings (H, E), and the shift (D,).

    place: where among the G genes those lie that the views were fitted on.
    """
    weights, shifts, turn = [encoder], [], []
    for (source, view), weight in zip(views, classify.view_weights(views), strict=True):
        inner = (view.weights * weight).astype(np.float32)
        shifts.append(view.offset * weight)
        if source != "genes":
            turn.append(inner)
            continue
        whole = np.zeros((len(encoder), inner.shape[1]), np.float32)
        whole[place if view.columns is None else place[view.columns]] = inner
        weights.append(whole)
    return np.hstack(weights), np.hstack(turn), np.concatenate(shifts).astype(np.float32)


def _unit(log: csr_matrix) -> csr_matrix:
    squares = np.asarray(log.multiply(log).sum(axis=1)).ravel()
    return (diags((UNIT / np.sqrt(np.maximum(squares, 1e-12))).astype(np.float32)) @ log).tocsr()


def _hold_out(again, labels: np.ndarray, shares: np.ndarray, seed: int, folds: int = 5):
    """Temperature, calibration error, and (R, 3) confidence, type called and type of held-out labelled cells."""
    held = confidence.out_of_fold(again, labels, len(shares), folds, seed)
    temperature = confidence.fit_temperature(held, labels, shares)
    rows = np.flatnonzero(np.isfinite(held).all(axis=1) & (labels >= 0))
    calibrated, truth = confidence.calibrate(held[rows], temperature), labels[rows]
    called = np.column_stack([calibrated.max(axis=1), calibrated.argmax(axis=1), truth])
    return temperature, confidence.ece(calibrated, truth), called


def _of_logits(logits: np.ndarray, present: np.ndarray, types: int) -> np.ndarray:
    """Probabilities (B, L) from logits of the types that are present (B, L')."""
    return classify.spread(softmax(logits, axis=1), present, types)
