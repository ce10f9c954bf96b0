"""What has been learnt from the labelled cells, and how it labels the query, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from threadpoolctl import threadpool_limits

from annotation import confidence, foreign, lessons, road
from annotation import strange as of_references
from annotation.calling import Calling
from annotation.lessons import Lessons
from annotation.product import product
from reading import align
from reading.source import Source
from stages import classify

FIT = 20_000  # query cells that are learnt from together; the rest is labelled block by block
MANY = 1_000  # labelled cells: more do not change the choice of C
AVERAGED = 10  # cells that features are averaged over for what is strange and what to label next


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
    calling: Calling | None = None  # None: no types
    raw: np.ndarray | None = None  # (M, L) probabilities before neighbours have their say; None where they have none
    temperature: float = 1.0
    ece: float = float("nan")
    held_out: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))  # (R, 3) confidence, type called, type
    most: float = 1.0  # probability that a type may have in a cell that no type explains
    familiarity: float | None = None  # of the query with the references; None: labels of its own, or too few to tell

    @property
    def foreign(self) -> bool:
        """The query as a whole is of another organ or species: no label of it means anything."""
        return self.familiarity is not None and self.familiarity < foreign.FAMILIAR


@dataclass(frozen=True)
class Seen:
    """The M cells of the query that are learnt from together, before anything is learnt."""

    query: Source
    embedder: Embedder
    rows: np.ndarray  # (M,) in the file
    log: csr_matrix  # (M, G)
    embedding: np.ndarray  # (M, H)


@dataclass(frozen=True)
class Taught:
    """What was learnt from the query's own labels, and what it says of its M cells."""

    learnt: Learnt
    features: np.ndarray  # (M, D)
    probabilities: np.ndarray  # (M, L)


@dataclass(frozen=True)
class Fitted:
    """The M cells of the query that were learnt from together."""

    rows: np.ndarray  # (M,) in the file
    log: csr_matrix  # (M, G)
    features: np.ndarray  # (M, D)
    averaged: np.ndarray  # (M, D) over neighbours
    probabilities: np.ndarray  # (M, L)
    strange: np.ndarray  # (M,) bool
    scores: np.ndarray  # (M,) how strange, above 0 where no type explains it; empty where it was not looked at


@dataclass(frozen=True)
class Labeller:
    """What labels a query block by block; nothing in it grows with the query."""

    query: Source
    embedder: Embedder
    classes: list[str]
    learnt: Learnt = field(repr=False)
    fitted: Fitted = field(repr=False)
    anchors: np.ndarray = field(repr=False)  # (A,) places of the fitted cells that serve a block as neighbours
    unknown: confidence.Unknown | of_references.Strange | None = field(repr=False)  # None: strangeness is not looked at
    calls_unknown: bool = False  # whether strange cells are called Unknown; else they only lose confidence
    unexplained: float = 0.0  # share of the fitted cells that no type explains, at 5 % of known ones or what was asked
    shown: Embedder | None = None  # what the stored embedding is made by, if it is not what the labels are told by
    lessons: Lessons | None = field(default=None, repr=False)  # of references; None: the query's own cells were them

    @property
    def width(self) -> int:
        """Dimensions of the embedding that a block comes with."""
        return len((self.shown or self.embedder).bias)

    @property
    def tells_unknown(self) -> bool:
        """Whether there were labels enough to tell unknown cells by."""
        unknown = self.unknown
        limits = unknown.limits if isinstance(unknown, of_references.Strange) else getattr(unknown, "threshold", np.inf)
        return bool(np.isfinite(limits).all())

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
        if learnt.calling is None:
            return Block(embedding, features, np.zeros((len(features), 0)), None, empty)
        near = self.nearest(features) if learnt.raw is not None or self.unknown is not None else None
        probabilities = learnt.calling(features, logits * length)
        strange = np.zeros(len(features), bool)
        if learnt.raw is not None:  # labels from references
            alone, around = probabilities, self.anchors[near]
            probabilities = confidence.calibrate(road.together(alone, learnt.raw[around]), learnt.temperature)
            averaged = (features + self.fitted.features[around].sum(axis=1)) / (1 + near.shape[1])
            assert isinstance(self.unknown, of_references.Strange)  # as references give it
            scores = self.unknown.score(averaged, alone, near, probabilities.argmax(axis=1))
            strange = (scores > self.unknown.threshold) | learnt.foreign
            humble = confidence.humbled(probabilities, learnt.most)
            probabilities = np.where(strange[:, None], humble, probabilities)
        else:
            probabilities = confidence.calibrate(probabilities, learnt.temperature)
            if isinstance(self.unknown, confidence.Unknown):
                around = self.fitted.features[self.anchors[near[:, : AVERAGED - 1]]].sum(axis=1)  # (B, D)
                averaged = (features + around) / (1 + min(AVERAGED - 1, near.shape[1]))
                strange = self.unknown.score(averaged, probabilities, near) > self.unknown.threshold
        return Block(embedding, features, probabilities, near, strange & self.calls_unknown | empty)

    def nearest(self, features: np.ndarray) -> np.ndarray:
        """The anchors nearest to each cell (B, D), nearest first, as places among the anchors: (B, K)."""
        points = torch.from_numpy(self.fitted.features[self.anchors])  # (A, D)
        k = max(1, min(road.VOTERS - 1, len(points) // 4))
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
        return (road.UNIT / np.sqrt(np.maximum(squares, 1e-12)))[:, None].astype(np.float32)


def fit(
    query: Source,
    embedder: Embedder,
    labels: np.ndarray,
    classes: list[str],
    references: Sequence[tuple[Source, np.ndarray]] = (),
    *,
    batches: Sequence[np.ndarray] | None = None,
    error: float | None = None,
    seed: int = 0,
) -> Labeller:
    """Learn from the labelled cells of the query (labels (N,) int, -1 for none), or of references (Source, labels).

    classes (L): names; none: only features are made. error: the share of known cells that may be called Unknown.
    batches: of each reference what batch or donor its cells are of (R,), any values; whole ones are then held out.
    """
    log, rows, counts = _cells_of(query, labels, seed)
    embedding = embedder(query, counts, log)
    with threadpool_limits(1):  # small solvers on busy cores wait for each other ten times longer than they compute
        if references:
            seen, rng = Seen(query, embedder, rows, log, embedding), np.random.default_rng(seed)
            read = lessons.read(query, references, batches, embedder, len(classes), rng)
            return _by_lessons(seen, classes, read, error, seed, rng)
        taught = _from_query(query, log, embedding, embedder, labels[rows], len(classes), seed)
    features, probabilities = taught.features, taught.probabilities
    averaged = features[road.neighbours(features, AVERAGED)].mean(axis=1)
    few = min(len(rows), confidence.REFERENCE)
    anchors = np.sort(np.random.default_rng(seed).choice(len(rows), few, replace=False))
    unknown, strange, scores = None, np.zeros(len(rows), bool), np.zeros(0)
    if classes and error:
        unknown, scores = confidence.fit_unknown(averaged, probabilities, labels[rows], error=error, seed=seed)
        scores, anchors = scores - unknown.threshold, unknown.rows
        strange = scores > 0
    fitted = Fitted(rows, log, features, averaged, probabilities, strange, scores)
    return Labeller(
        query=query, embedder=embedder, classes=classes, learnt=taught.learnt, fitted=fitted, anchors=anchors,
        unknown=unknown, calls_unknown=bool(error), unexplained=float(strange.mean()),
    )  # fmt: skip


def teach(
    query: Source, embedder: Embedder, classes: list[str], known: Lessons, *, error: float | None, seed: int
) -> Labeller:
    """The same as `fit` from labelled cells of others that were read before, or kept; their genes are the query's."""
    log, rows, counts = _cells_of(query, np.full(len(query), -1), seed)
    seen = Seen(query, embedder, rows, log, embedder(query, counts, log))
    with threadpool_limits(1):
        return _by_lessons(seen, classes, known.of(query.genes), error, seed, np.random.default_rng(seed))


def _cells_of(query: Source, labels: np.ndarray, seed: int) -> tuple[csr_matrix, np.ndarray, np.ndarray]:
    """Log1p (M, G) of the cells that are learnt from, which they are (M,), and how the file has them."""
    rows = choose_rows(labels, FIT, seed)
    counts = query.take(rows)
    log, empty = query.log(counts)
    if empty.all():
        raise ValueError(f"{query.where}: none of its cells has any count, so there is nothing to tell them by")
    return log[~empty], rows[~empty], counts[~empty]


def _by_lessons(seen: Seen, classes, known: Lessons, error: float | None, seed: int, rng) -> Labeller:
    """Labels from other datasets; thresholds and temperature from parts of them that travel the query's road."""
    types, query = len(classes), seen.query
    genes, plain, embeddings, labels, batch = known.genes, known.parts, known.embeddings, known.labels, known.batch
    ours = align.align(seen.log, query.genes, genes)  # (M, S)
    familiarity = _familiarity(plain, np.concatenate(labels), ours, seed)
    parts = [road.unit(part) for part in plain]
    sent = road.send(parts, embeddings, labels, road.unit(ours), seen.embedding, types, seed)
    held = road.held_out(parts, embeddings, labels, batch, types, seed)
    learnt = _folded(seen, genes, sent, (held.voted, np.concatenate(known.truth)[held.rows]), familiarity)

    taken = sent.voted.argmax(axis=1)  # (M,) the type that a cell is taken for, here and among the held-out ones
    between = max(0.0, sent.apart - held.apart)
    called = held.voted.argmax(axis=1)
    limits = of_references.limits_of(held.scores, called, sent.scores, taken, types, error or 0.05, between)
    anchors = np.sort(rng.choice(len(taken), min(len(taken), confidence.REFERENCE), replace=False))
    unknown = of_references.Strange(sent.places, sent.local[anchors], limits)
    excess = sent.scores - limits[taken]
    strange = (excess > 0) | learnt.foreign
    unexplained = float(strange.mean())
    # of the strange cells so many are expected to be of known types: none of them may be surer of its type than that
    learnt = replace(learnt, most=float(np.clip((error or 0.05) / max(unexplained, 1e-9), 0.5, 1.0)))
    probabilities = confidence.calibrate(sent.voted, learnt.temperature)
    probabilities = np.where(strange[:, None], confidence.humbled(probabilities, learnt.most), probabilities)
    averaged = sent.features[sent.near[:, :AVERAGED]].mean(axis=1)
    fitted = Fitted(seen.rows, seen.log, sent.features, averaged, probabilities, strange & bool(error), excess)
    return Labeller(
        query=query, embedder=seen.embedder, classes=classes, learnt=learnt, fitted=fitted, anchors=anchors,
        unknown=unknown, calls_unknown=bool(error), unexplained=unexplained, lessons=known,
    )  # fmt: skip


def _folded(seen: Seen, genes: list[str], sent: road.Sent, held: tuple, familiarity: float | None) -> Learnt:
    """The query's road as one map of its genes, with the temperature that `held` asks for: cells (R, L), types (R,)."""
    temperature, ece, called = _measured(held[0], held[1], sent.voted.mean(axis=0))
    own, types = seen.query.genes, sent.voted.shape[1]
    mask = np.isin(own, genes)  # (G,)
    maps, turn, shift = _fold(sent.views, seen.embedder.columns(own), np.flatnonzero(mask))
    of_logits = np.zeros((len(own), sent.weights.shape[1]), np.float32)
    of_logits[mask] = sent.weights  # genes are in the query's order
    return Learnt(
        weights=np.hstack([maps, of_logits]),
        turn=turn,
        shift=shift + sent.centre,
        shared=mask.astype(np.float32),
        calling=Calling(sent.bias, sent.present, types),
        raw=sent.raw,
        temperature=temperature,
        ece=ece,
        held_out=called,
        familiarity=familiarity,
    )


def choose_rows(labels: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most `most` cells, in order: up to half of them labelled, evenly over the types, the others by chance."""
    if len(labels) <= most:
        return np.arange(len(labels))
    rng = np.random.default_rng(seed)
    known = road.evenly(labels, most // 2, rng)
    others = np.flatnonzero(labels < 0) if (labels < 0).any() else np.setdiff1d(np.arange(len(labels)), known)
    others = rng.choice(others, min(len(others), most - len(known)), replace=False)
    return np.sort(np.concatenate([known, others]))


def _from_query(query, log, embedding, embedder, labels, types: int, seed: int) -> Taught:
    """Labels in the query itself: three views of its cells, LR and self-training on them."""
    views = classify.fit_views(log, embedding, seed, embedder.own)
    features = classify.features(views, log, embedding).astype(np.float32)
    weights, turn, shift = _fold(views, embedder.columns(query.genes), np.arange(len(query.genes)))
    if not types:
        return Taught(Learnt(weights, turn, shift), features, np.zeros((len(features), 0)))
    rng = np.random.default_rng(seed)
    few = road.evenly(labels, MANY, rng)
    strength = classify.choose_strength(features[few], labels[few], seed)
    model = classify.learn(features, labels, types, strength=strength)
    rest = np.flatnonzero(labels < 0)
    rest = rng.choice(rest, road.OUT_OF_FOLD, replace=False) if len(rest) > road.OUT_OF_FOLD else rest
    some = np.sort(np.concatenate([road.evenly(labels, road.OUT_OF_FOLD, rng), rest]))

    def again(labels: np.ndarray) -> np.ndarray:
        return classify.learn(features[some], labels, types, strength=strength).predict(features[some])

    calling = Calling.of(model)
    probabilities = calling(features)
    temperature, ece, held_out = _hold_out(again, labels[some], probabilities.mean(axis=0), seed)
    learnt = Learnt(
        weights=weights,
        turn=turn,
        shift=shift,
        calling=calling,
        temperature=temperature,
        ece=ece,
        held_out=held_out,
    )
    return Taught(learnt, features, confidence.calibrate(probabilities, temperature))


def _familiarity(parts, labels: np.ndarray, ours: csr_matrix, seed: int) -> float | None:
    """`foreign.familiarity` on a few cells of each side; None where genes, cells or types are too few to tell."""
    if ours.shape[1] < foreign.LEAST_GENES or ours.shape[0] < foreign.LEAST_CELLS:
        return None
    rng = np.random.default_rng(seed)
    few = road.evenly(labels, foreign.CELLS, rng)
    if (np.bincount(labels[few]) > 2).sum() < 2:
        return None
    mine = np.sort(rng.choice(ours.shape[0], min(foreign.CELLS, ours.shape[0]), replace=False))
    return foreign.familiarity(vstack(parts, format="csr")[few], labels[few], ours[mine], seed)


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


def _hold_out(again, labels: np.ndarray, shares: np.ndarray, seed: int, n_folds: int = 5):
    """Temperature, calibration error, and (R, 3) confidence, type called and type of held-out labelled cells."""
    return _measured(confidence.out_of_fold(again, labels, len(shares), n_folds, seed), labels, shares)


def _measured(held: np.ndarray, labels: np.ndarray, shares: np.ndarray):
    """What held-out cells (R, L), NaN where none, with labels (R,) teach: see `_hold_out`."""
    temperature = confidence.fit_temperature(held, labels, shares)
    rows = np.flatnonzero(np.isfinite(held).all(axis=1) & (labels >= 0))
    calibrated, truth = confidence.calibrate(held[rows], temperature), labels[rows]
    called = np.column_stack([calibrated.max(axis=1), calibrated.argmax(axis=1), truth])
    return temperature, confidence.ece(calibrated, truth), called
