"""A classifier for few labels: principal components and encoder outputs, averaged over neighbours, under LR."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

DIMENSIONS = 50
NEIGHBOURS = 10
POINTS = 5_000  # cells that serve as neighbours of a block


@dataclass
class Features:
    """How a cell becomes what the classifier sees; D dimensions before the averaging."""

    components: np.ndarray  # (G, D1)
    axes: np.ndarray  # (H, D2)
    centres: np.ndarray  # (origins, D), subtracted from the cells of each origin
    scale: np.ndarray  # (D,)
    points: np.ndarray  # (R, D) of the last origin: neighbours of a block

    def __call__(self, log_genes: csr_matrix, encoder: np.ndarray, origin: int = -1) -> np.ndarray:
        """(B, G), (B, H) -> points (B, D)."""
        return self.of_maps(np.asarray(log_genes @ self.components), encoder, origin)

    def of_maps(self, projected: np.ndarray, encoder: np.ndarray, origin: int = -1) -> np.ndarray:
        """The same where log_genes @ components (B, D1) is at hand."""
        return ((np.hstack([projected, encoder @ self.axes]) - self.centres[origin]) * self.scale).astype(np.float32)

    def averaged(self, points: np.ndarray) -> np.ndarray:
        """Points of new cells (B, D) beside their mean over the neighbours among the known ones: (B, 2 D)."""
        k = max(1, min(NEIGHBOURS - 1, len(self.points) // 4))
        near = NearestNeighbors(n_neighbors=k).fit(self.points).kneighbors(points, return_distance=False)
        return np.hstack([points, (points + self.points[near].sum(1)) / (k + 1)])


def fit_features(
    log_genes: csr_matrix, encoder: np.ndarray, origin: np.ndarray | None = None, seed: int = 0
) -> tuple[Features, np.ndarray, np.ndarray]:
    """Features of cells (N, G), (N, H); their points (N, D) and the averaged ones (N, 2 D).

    origin: (N,) int, which dataset a cell is from, the query's number last; each is centred by itself.
    """
    origin = np.zeros(len(encoder), int) if origin is None else origin
    rng = np.random.default_rng(seed)
    components = principal_axes(log_genes, origin, rng)
    projected = np.asarray(log_genes @ components)
    centred = encoder - group_means(encoder, origin)[origin]
    spread, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, :DIMENSIONS].astype(np.float32)
    both = np.hstack([projected, encoder @ axes])
    centres = group_means(both, origin)
    points = both - centres[origin]
    wide = projected.shape[1]
    length = [np.sqrt((part**2).sum(1).mean()) + 1e-9 for part in (points[:, :wide], points[:, wide:])]
    scale = np.repeat([10 / length[0], 10 / length[1]], [wide, axes.shape[1]]) / np.sqrt(2)
    points = (points * scale).astype(np.float32)
    averaged = np.empty((len(points), 2 * points.shape[1]), np.float32)
    for j in np.unique(origin):
        rows = np.flatnonzero(origin == j)
        k = max(1, min(NEIGHBOURS, len(rows) // 4))
        near = NearestNeighbors(n_neighbors=k).fit(points[rows]).kneighbors(points[rows], return_distance=False)
        averaged[rows] = np.hstack([points[rows], points[rows][near].mean(1)])
    last = np.flatnonzero(origin == origin.max())
    keep = np.sort(rng.choice(last, min(POINTS, len(last)), replace=False))
    return Features(components, axes, centres, scale, points[keep]), points, averaged


def fit_classifier(features: np.ndarray, labels: np.ndarray, n_types: int, seed: int = 0):
    """A function (B, D) -> probabilities (B, L), from the cells (N, D) with labels (N,) of 0 and more."""
    rows = np.flatnonzero(labels >= 0)
    present = np.unique(labels[rows])
    if len(present) == 1:
        return lambda x: np.tile(np.eye(n_types)[present[0]], (len(x), 1))
    model = LogisticRegression(C=1.0, max_iter=200, random_state=seed).fit(features[rows], labels[rows])

    def probabilities(x: np.ndarray) -> np.ndarray:
        out = np.zeros((len(x), n_types))
        out[:, model.classes_] = model.predict_proba(x)
        return out

    return probabilities


def group_means(x: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Mean of each origin's rows (origins, D)."""
    return np.stack([x[origin == j].mean(0) for j in range(origin.max() + 1)])


def principal_axes(x: csr_matrix, origin: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The widest axes (G, D) of sparse cells (N, G) about the mean of their origin, by a randomised SVD."""
    n = origin.max() + 1
    member = csr_matrix((np.ones(len(origin), np.float32), (origin, np.arange(len(origin)))), shape=(n, len(origin)))
    means = (member @ x).toarray() / np.maximum(np.asarray(member.sum(1)), 1)  # (origins, G)
    k = max(1, min(DIMENSIONS, min(x.shape) - 1))
    v = rng.standard_normal((x.shape[1], min(k + 10, min(x.shape)))).astype(np.float32)
    for _ in range(5):
        q = np.linalg.qr(x @ v - (means @ v)[origin])[0]
        v = np.linalg.qr(x.T @ q - means.T @ (member @ q))[0]  # (G, k + 10)
    left = x @ v - (means @ v)[origin]
    spread, turn = np.linalg.eigh(left.T @ left)
    return (v @ turn[:, ::-1][:, :k]).astype(np.float32)
