"""How strange cells are to the types of other datasets, and the score above which a cell is of none of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.covariance import LedoitWolf

from annotation.confidence import conformal, precision_root, squared
from stages.score import entropy

# Chosen on 17 of the 42 pairs and 9 of the 11 halves of benchmarks/unknown_reference.py; on 10 other pairs of one
# tissue 1.7 % of the known cells are lost, .74 of a type left out found, and the AUROC is .976 (docs/results.md)
DOUBT, FAR = 0.1, 0.1  # weights of the doubt and of the log distance beside the cosine
CORE = 0.4  # share of a called type's cells, its surest, that say where the query has the type
ROUNDS = 3  # that they are looked for
PRIOR = 30  # cells that the shift of the whole query counts as beside a type's own
ALLOWED, RISEN = 0.5, 0.7  # what scores rise by between experiments, and by how much of what the surer rose
SUREST = 0.25  # quantile of the scores that is compared between query and held-out cells
NOISE, APART = 0.05, 0.02  # distance of halves of one experiment, and beyond it where half of that is allowed
CHANCE = 0.1  # that scores of two halves of one experiment differ by beyond what their quantiles say
FEW, RARE = 8, 0.2  # held-out cells of a type that say too little, and what its limit is raised by for that
MOVED, BANDWIDTH = 0.1, 0.04  # of a limit, to where fewest scores of the query are
CUTS = 10  # in halves, by chance
SHRINK = 20  # cells that the typical type's value counts as beside a type's own


@dataclass(frozen=True)
class Places:
    """Where the query has the L' types that the references have."""

    middle: np.ndarray  # (D,) of its types
    directions: np.ndarray  # (D, L') unit vectors from the references' middle of these types to each type
    root: np.ndarray  # (D, D) points @ root have unit spread within types
    centres: np.ndarray  # (L', D) of the types, times the root

    def local(self, averaged: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """Minus the cosine with the nearest type, seen from the middle, and the doubt: (B, D), (B, L) -> (B,).

        The cosine asks in which direction a cell lies and not how far, for that is what depth and technique change; and
        both sides are seen from the middle of the same types: how a type differs from the others of its dataset is
        what two experiments have in common (as in MetaNeighbor, Crow 2018, where types are replicable by that).
        """
        return -cosines(averaged - self.middle, self.directions).max(axis=1) + DOUBT * entropy(probabilities)

    def far(self, averaged: np.ndarray) -> np.ndarray:
        """The log of the squared distance to the nearest type, weighted: (B, D) -> (B,)."""
        return FAR * np.log(squared(averaged @ self.root, self.centres).min(axis=1) + 1e-9)


@dataclass
class Strange:
    """What cells of another dataset than the labelled ones are scored with; nothing in it grows with the query."""

    places: Places
    local: np.ndarray  # (A,) of the anchors, which serve a block as neighbours
    limits: np.ndarray  # (L,) scores by called type above which a cell is Unknown
    threshold: float = 0.0

    def score(
        self, averaged: np.ndarray, probabilities: np.ndarray, near: np.ndarray, called: np.ndarray
    ) -> np.ndarray:
        """How far above its type's limit each cell is: (B, D) averaged over neighbours, (B, L) of the cell alone.

        near (B, K): its neighbours as places among the anchors. called (B,): the type it is taken for.
        """
        local = self.places.local(averaged, probabilities) + self.local[near].sum(axis=1)
        return local / (1 + near.shape[1]) + self.places.far(averaged) - self.limits[called]


def cosines(points: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Of points (B, D) with unit vectors (D, L'): (B, L')."""
    return points @ directions / np.maximum(np.linalg.norm(points, axis=1), 1e-9)[:, None]


def places(
    points: np.ndarray, labels: np.ndarray, features: np.ndarray, averaged: np.ndarray, called: np.ndarray
) -> Places:
    """Where the query has the types of references (R, D) with labels (R,).

    features (M, D) of the query, averaged over neighbours (M, D), called (M,): the type each is taken for. The middle
    is the mean of the types that it has, on both sides alike: of their surest cells, that those of a new type move it
    little, and each type counts with the root of its cells. A type lies where the references have it, moved as the
    middle is, and by what its surest cells are moved beyond, as far as there are many of them.
    """
    types = np.unique(labels)  # (L',)
    centres = np.stack([points[labels == k].mean(axis=0) for k in types])  # (L', D)
    rest = points - centres[np.searchsorted(types, labels)]
    root = precision_root(LedoitWolf(assume_centered=True).fit(rest).covariance_)
    cells = [np.flatnonzero(called == k) for k in types]
    seen = [i for i, rows in enumerate(cells) if len(rows) > 2]
    if not seen:
        return Places(features.mean(axis=0), unit(centres - centres.mean(axis=0)).T, root, centres @ root)
    weight = np.sqrt([len(cells[i]) for i in seen])
    weight /= weight.sum()
    theirs = weight @ centres[seen] if len(seen) > 1 else centres.mean(axis=0)
    directions, core = unit(centres - theirs).T, cells
    for _ in range(ROUNDS):
        means = np.stack([features[core[i]].mean(axis=0) for i in seen])  # (S, D)
        # one type alone has no others to differ from: the middle is where it would be
        middle = weight @ means if len(seen) > 1 else means[0] - centres[seen[0]] + theirs
        sure = cosines(averaged - middle, directions).max(axis=1)
        core = [rows[np.argsort(-sure[rows], kind="stable")[: max(3, int(CORE * len(rows)))]] for rows in cells]
    moved = np.tile(middle - theirs, (len(types), 1))
    for i in seen:
        own = features[core[i]].mean(axis=0) - centres[i]
        moved[i] = (len(core[i]) * own + PRIOR * moved[i]) / (len(core[i]) + PRIOR)
    return Places(middle, directions, root, (centres + moved) @ root)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)


def scores(places: Places, averaged: np.ndarray, probabilities: np.ndarray, near: np.ndarray):
    """How strange cells (M, D), (M, L) are, and the part of it that neighbours (M, K) share: (M,), (M,)."""
    local = places.local(averaged, probabilities)
    return local[near].mean(axis=1) + places.far(averaged), local


def apart(points: np.ndarray, labels: np.ndarray, features: np.ndarray, called: np.ndarray, seed: int) -> float:
    """How far the same type lies in the query and in the references, in squared distances of a type to its nearest.

    Of the type that lies nearest, beyond `NOISE`. Both sides are cut in halves, and the difference of one pair of
    halves is multiplied with that of the other: two batches of one experiment have 0, however few their cells, for
    noise does not agree.
    """
    rng = np.random.default_rng(seed)
    types = [k for k in np.unique(labels) if (labels == k).sum() > 3]
    seen = [i for i, k in enumerate(types) if (called == k).sum() > 5]
    if len(types) < 2 or not seen:
        return 0.0
    between, off = np.zeros((len(types), len(types))), np.zeros(len(seen))
    for _ in range(CUTS):
        theirs = _halves(points, labels, types, rng)  # (2, L', D)
        ours = _halves(features, called, [types[i] for i in seen], rng)  # (2, S, D)
        steps = theirs[:, :, None] - theirs[:, None]  # (2, L', L', D)
        between += (steps[0] * steps[1]).sum(axis=-1) / CUTS
        off += ((ours[0] - theirs[0, seen]) * (ours[1] - theirs[1, seen])).sum(axis=-1) / CUTS
    np.fill_diagonal(between, np.inf)
    return float(max(0.0, off.min() / max(np.median(between.min(axis=1)), 1e-9) - NOISE))


def _halves(x: np.ndarray, of: np.ndarray, types: list, rng: np.random.Generator) -> np.ndarray:
    """The means (2, L', D) of two halves, drawn by chance, of the cells of each type."""
    found = []
    for k in types:
        rows = rng.permutation(np.flatnonzero(of == k))
        found.append([x[rows[: len(rows) // 2]].mean(axis=0), x[rows[len(rows) // 2 :]].mean(axis=0)])
    return np.array(found).transpose(1, 0, 2)


def limits_of(
    held: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    called: np.ndarray,
    types: int,
    error: float,
    between: float = 0.0,
) -> np.ndarray:
    """By called type the score that about `error` of its cells in the query exceed (L,).

    held (R,): scores of reference cells that travelled the query's road, and labels (R,), what they were called there:
    by what they are, cells between two types pay for the others. A conformal quantile for each (Vovk 2012), drawn to
    the typical type's where it has few cells. scores (M,) of the query, which was called. between: how far `apart` it
    is beyond what held-out cells are: scores rise between experiments by what no held-out cell of one experiment shows,
    so a limit is at least so much above its type's typical score, and is moved a little to where the query has a gap.
    """
    if len(held) < 6:
        return np.full(types, np.inf)
    count = np.bincount(labels, minlength=types)
    middle = np.full(types, np.median(held))
    for k in np.flatnonzero(count):
        middle[k] = (count[k] * np.median(held[labels == k]) + SHRINK * middle[k]) / (count[k] + SHRINK)
    above = held - middle[labels]
    typical = conformal(above, error)
    own = np.full(types, typical)
    for k in np.flatnonzero(count):
        own[k] = (count[k] * conformal(above[labels == k], error) + SHRINK * typical) / (count[k] + SHRINK)
    risen = float(np.quantile(scores - middle[called], SUREST) - np.quantile(above, SUREST))
    allowed = (ALLOWED + RISEN * max(risen, 0.0)) * between / (between + APART)
    limits = middle + RARE * (count < FEW) + np.maximum(own + CHANCE, allowed)
    return limits + (emptiest(scores - limits[called]) if between else 0.0)


def emptiest(above: np.ndarray) -> float:
    """Where within `MOVED` of 0 fewest of the values (M,) lie: new types lie apart from known ones."""
    places = np.linspace(-MOVED, MOVED, 41)
    crowd = [np.exp(-0.5 * ((above - place) / BANDWIDTH) ** 2).sum() for place in places]
    return float(places[int(np.argmin(crowd))])
