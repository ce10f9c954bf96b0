"""What has been learnt from the labelled cells, and how it labels the query, block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_matrix, diags, vstack
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from query import Source
from stages import align, classify, confidence, consensus
from stages.product import product

FIT = 20_000  # query cells that are learnt from together; the rest is labelled block by block
OF_REFERENCES = 6_000  # reference cells that are learnt from, evenly over types: more take time and change little
OUT_OF_FOLD = 4_000  # unlabelled cells that take part when labelled ones are held out
FEW = 30  # query cells below which their mean says more about their types than about their batch
UNIT = 30.0  # length of a cell's vector of shared genes: about that of 2,500 genes at log1p 0.5


@dataclass
class Embedder:
    """The encoder's weights by gene name. plain: it was trained on log1p of counts that are not scaled."""

    genes: list[str]
    weight: np.ndarray  # (G, H)
    bias: np.ndarray  # (H,)
    plain: bool = False

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
    empty: np.ndarray  # (B,) bool: no count at all
    strange: np.ndarray  # (B,) bool: no known type explains it


@dataclass
class Labeller:
    """A query's features, and where there are labels a classifier with its temperature and its limits."""

    query: Source
    embedder: Embedder
    classes: list[str]
    weights: np.ndarray = field(repr=False)  # (G, H + V + L') of the query's genes: one product does it all
    hidden: int
    turn: np.ndarray = field(repr=False)  # (H, E) of the encoder's view
    shift: np.ndarray = field(repr=False)  # (D,)
    shared: np.ndarray | None = field(repr=False)  # (G,) 1 for a gene shared with the references; None without them
    classify: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None  # features, logits -> (B, L)
    temperature: float = 1.0
    unknown: confidence.Unknown | None = None
    rows: np.ndarray | None = None  # (M,) query cells it was fitted on
    fitted: Block | None = None  # what became of them
    log: csr_matrix | None = field(default=None, repr=False)  # (M, G) their values
    ece: float = float("nan")
    held_out: np.ndarray | None = None  # (R, 2) confidence and whether right of held-out labelled cells

    def block(self, counts: csr_matrix) -> Block:
        """Label a block of the query as it was read, (B, genes of the file)."""
        log, empty = self.query.log(counts)
        length = self.length(log)
        out = product(log, self.weights)  # (B, H + V + L')
        embedding = out[:, : self.hidden] + self.embedder.bias
        if self.embedder.plain:
            embedding = self.embedder(self.query, counts, log)
        views = self.shift.shape[0] - self.turn.shape[1]
        features = np.hstack([out[:, self.hidden : self.hidden + views] * length, embedding @ self.turn])
        features = (features - self.shift).astype(np.float32)
        return self.judge(embedding, features, out[:, self.hidden + views :] * length, empty)

    def length(self, log: csr_matrix) -> np.ndarray | float:
        """What brings each cell's shared genes to one length, (B, 1); 1 without a reference."""
        if self.shared is None:
            return 1.0
        squares = log.multiply(log).tocsr() @ self.shared
        return (UNIT / np.sqrt(np.maximum(squares, 1e-12)))[:, None].astype(np.float32)

    def judge(self, embedding, features, logits, empty) -> Block:
        if self.classify is None:
            probabilities = np.zeros((len(features), 0))
        else:
            probabilities = confidence.calibrate(self.classify(features, logits), self.temperature)
        strange = empty.copy()
        if self.unknown is not None:
            strange |= self.unknown.score(features, probabilities) > self.unknown.threshold
        return Block(embedding, features, probabilities, empty, strange)


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
    known = labels[rows]
    embedding = embedder(query, counts, log)
    if references:
        made = _from_references(query, log, embedding, embedder, references, len(classes), seed)
    else:
        made = _from_query(query, log, embedding, known, len(classes), seed)
    labeller, features, logits, around = made
    labeller.embedder, labeller.classes, labeller.rows, labeller.log = embedder, classes, rows, log
    labeller.weights = np.hstack([embedder.columns(query.genes), labeller.weights])
    labeller.fitted = labeller.judge(embedding, features, logits, np.zeros(len(rows), bool))
    if classes and error:
        other, other_labels, other_probabilities = around  # of the references
        labeller.unknown, scores = confidence.fit_unknown(
            np.vstack([other, features]),
            np.vstack([other_probabilities, labeller.fitted.probabilities]),
            np.concatenate([other_labels, known]),
            foreign=np.arange(len(other) + len(features)) >= len(other) if len(other) else None,
            error=error,
            seed=seed,
        )
        labeller.fitted.strange = scores[len(other) :] > labeller.unknown.threshold
    return labeller


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


def _from_query(query: Source, log: csr_matrix, embedding: np.ndarray, labels: np.ndarray, types: int, seed: int):
    """Labels in the query itself: three views of its cells, LR and self-training on them."""
    views = classify.fit_views(log, embedding, seed)
    labeller, features = _labeller(query, views, log, embedding)
    nothing = np.zeros((0, features.shape[1])), np.zeros(0, int), np.zeros((0, types))
    if not types:
        return labeller, features, None, nothing
    known = np.flatnonzero(labels >= 0)
    strength = classify.choose_strength(features[known], labels[known], seed)
    model = classify.self_train(features, labels, strength)
    labeller.classify = lambda f, _: _spread(model, f, types)
    rng = np.random.default_rng(seed)
    rest = np.flatnonzero(labels < 0)
    rest = rng.choice(rest, OUT_OF_FOLD, replace=False) if len(rest) > OUT_OF_FOLD else rest
    some = np.sort(np.concatenate([evenly(labels, OUT_OF_FOLD, rng), rest]))

    def again(labels: np.ndarray) -> np.ndarray:
        return _spread(classify.self_train(features[some], labels, strength), features[some], types)

    _calibrate(labeller, again, labels[some], labeller.classify(features, None).mean(axis=0), seed)
    return labeller, features, np.zeros((len(features), 0)), nothing


def _from_references(query, log, embedding, embedder, references, types: int, seed: int):
    """Labels in other datasets: LR on the shared genes of every cell brought to one length.

    The common length takes away most of what depth and technique do, which a fit on plain log1p values learns.
    """
    shared = set(query.genes).intersection(*(source.genes for source, _ in references))
    genes = [gene for gene in query.genes if gene in shared]
    rng = np.random.default_rng(seed)
    parts, embeddings, labels = [], [], []
    for source, known in references:
        rows = evenly(known, OF_REFERENCES // len(references), rng)
        counts = source.take(rows)
        values, empty = source.log(counts)
        parts.append(align.align(values[~empty], source.genes, genes))
        embeddings.append(embedder(source, counts[~empty], values[~empty]))
        labels.append(known[rows[~empty]])
    ours = _unit(align.align(log, query.genes, genes))
    theirs = _unit(vstack(parts, format="csr"))
    labels = np.concatenate(labels)
    views = classify.fit_views(vstack([theirs, ours], format="csr"), np.vstack([*embeddings, embedding]), seed)
    mask = np.isin(query.genes, genes)
    labeller, features = _labeller(query, views, ours, embedding, mask)
    origins = [classify.features(views, _unit(part), inside) for part, inside in zip(parts, embeddings, strict=True)]
    centre = features.mean(axis=0) if len(features) >= FEW else np.vstack(origins).mean(axis=0)
    labeller.shift = labeller.shift + centre
    features = features - centre
    around = np.vstack([points - points.mean(axis=0) for points in origins])

    model = LogisticRegression(C=1.0, max_iter=200, random_state=seed).fit(theirs, labels)
    place = np.flatnonzero(mask)
    coefficients = np.zeros((len(query.genes), len(model.coef_)), np.float32)
    coefficients[place] = model.coef_.T  # genes are in the query's order
    labeller.weights = np.hstack([labeller.weights, coefficients])
    labeller.classify = lambda _, logits: _of_logits(logits + model.intercept_, model.classes_, types)
    some = evenly(labels, OUT_OF_FOLD // 2, rng)

    def again(known: np.ndarray) -> np.ndarray:
        rows = np.flatnonzero(known >= 0)
        held = LogisticRegression(C=1.0, max_iter=100, random_state=seed).fit(theirs[some[rows]], known[rows])
        return _spread(held, theirs[some], types)

    logits = ours @ model.coef_.T
    _calibrate(labeller, again, labels[some], labeller.classify(None, logits).mean(axis=0), seed, folds=3)
    probabilities = confidence.calibrate(_spread(model, theirs, types), labeller.temperature)
    return labeller, features, logits, (around, labels, probabilities)


def _labeller(query: Source, views, log: csr_matrix, embedding: np.ndarray, mask: np.ndarray | None = None):
    """A labeller without a classifier, its views folded into one matrix, and the features (M, D)."""
    genes = len(query.genes)
    place = np.arange(genes) if mask is None else np.flatnonzero(mask)
    weights, shifts, turn = [], [], np.zeros((embedding.shape[1], 0), np.float32)
    for (source, view), weight in zip(views, classify.view_weights(views), strict=True):
        inner = (view.inverse[:, None] * view.axes * weight).astype(np.float32)
        shifts.append(view.shift @ view.axes * weight)
        if source == "encoder":
            turn = inner
            continue
        whole = np.zeros((genes, inner.shape[1]), np.float32)
        whole[place if view.columns is None else place[view.columns]] = inner
        weights.append(whole)
    labeller = Labeller(
        query, None, [], np.hstack(weights), embedding.shape[1], turn, np.concatenate(shifts).astype(np.float32),
        None if mask is None else mask.astype(np.float32),
    )  # fmt: skip
    return labeller, classify.features(views, log, embedding).astype(np.float32)


def _unit(log: csr_matrix) -> csr_matrix:
    squares = np.asarray(log.multiply(log).sum(axis=1)).ravel()
    return (diags((UNIT / np.sqrt(np.maximum(squares, 1e-12))).astype(np.float32)) @ log).tocsr()


def _calibrate(labeller: Labeller, again, labels: np.ndarray, shares: np.ndarray, seed: int, folds: int = 5) -> None:
    """Set the temperature, and measure the calibration error, on labelled cells that were held out."""
    held = confidence.out_of_fold(again, labels, len(shares), folds, seed)
    labeller.temperature = confidence.fit_temperature(held, labels, shares)
    rows = np.flatnonzero(np.isfinite(held).all(axis=1) & (labels >= 0))
    if len(rows):
        calibrated = confidence.calibrate(held[rows], labeller.temperature)
        labeller.ece = confidence.ece(calibrated, labels[rows])
        right = calibrated.argmax(axis=1) == labels[rows]
        labeller.held_out = np.column_stack([calibrated.max(axis=1), right])


def _of_logits(logits: np.ndarray, present: np.ndarray, types: int) -> np.ndarray:
    """Probabilities (B, L) from logits of the types that are present; one column of two types is their difference."""
    if len(present) == 2 and logits.shape[1] == 1:
        logits = np.hstack([np.zeros_like(logits), logits])
    out = np.zeros((len(logits), types))
    out[:, present] = softmax(logits, axis=1)
    return out


def _spread(model: LogisticRegression, x, types: int) -> np.ndarray:
    out = np.zeros((x.shape[0], types))
    out[:, model.classes_] = model.predict_proba(x)
    return out


# -- what follows for the cells together ----------------------------------------------------------------
def over_cluster(labeller: Labeller, seed: int) -> np.ndarray:
    """Centres (K, D) of many small clusters of the query."""
    return consensus.over_cluster(labeller.fitted.features, seed=seed)[0]


def lay_out(features: np.ndarray, seed: int) -> np.ndarray:
    """UMAP coordinates (M, 2) of cells (M, D); a line or a point where there are too few for a map."""
    if len(features) < 5:
        return np.column_stack([np.arange(len(features)), np.zeros(len(features))]).astype(np.float32)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the seed, which costs it its threads
        from umap import UMAP

        start = "spectral" if len(features) > 50 else "random"
        neighbours = min(15, len(features) - 1)
        return UMAP(n_neighbors=neighbours, init=start, random_state=seed, n_jobs=1).fit_transform(features)


@dataclass
class Map:
    """Places a block beside its nearest cells of the map."""

    features: np.ndarray  # (R, D)
    places: np.ndarray  # (R, 2)

    def __call__(self, features: np.ndarray, neighbours: int = 3) -> np.ndarray:  # (B, 2)
        near = NearestNeighbors(n_neighbors=min(neighbours, len(self.features))).fit(self.features)
        distance, rows = near.kneighbors(features)
        weight = 1 / (distance + 1e-6)
        return (self.places[rows] * (weight / weight.sum(axis=1, keepdims=True))[:, :, None]).sum(axis=1)
