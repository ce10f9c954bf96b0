"""Components, k-means and sums over cells where the cells are: dense products in torch, on a GPU or the CPU.

Nothing here depends on the order in which threads add up, and nothing waits for the device before its result is read.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from stages.batch import SparseRows
from stages.reduce import SAMPLE

PASSES = 7  # of the sample through its own covariance: more change the 50th component of real cells by less than noise
BEYOND = 10  # directions carried along with those wanted
ITERATIONS = 20  # of Lloyd's, as published
BLOCK = 4096  # cells that are dense at once
ENTRIES = 1 << 27  # numbers of a dense block at most, 0.5 GB


def blocks(cells: SparseRows) -> Iterator[tuple[slice, Tensor]]:
    """Rows of `cells` (N, G) and their dense values (B, G), a block at a time."""
    for start in range(0, len(cells), BLOCK):
        rows = slice(start, min(start + BLOCK, len(cells)))
        yield rows, cells[rows]


# -- components ----------------------------------------------------------------
def components(cells: SparseRows, dimensions: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The first components (D, G) and the mean (G,) of cells (N, G), as `reduce.components` finds them.

    Randomised subspace iteration (Halko, Martinsson and Tropp, SIAM Review 2011) on a sample of at most 20,000 cells,
    which is dense on the device (1.4 GB of 17,298 genes). D is at most min(N, G) - 1.
    """
    rng = np.random.default_rng(seed)
    rows = np.arange(len(cells))
    if len(cells) > SAMPLE:
        rows = np.sort(rng.choice(len(cells), SAMPLE, replace=False))
    x = cells[torch.from_numpy(rows)]  # (n, G)
    dimensions = max(1, min(dimensions, min(x.shape) - 1))
    mean = x.mean(dim=0)
    x -= mean
    width = min(dimensions + BEYOND, *x.shape)
    y = torch.from_numpy(rng.standard_normal((x.shape[1], width), dtype=np.float32)).to(x.device)
    for _ in range(PASSES):
        y = _orthonormal(x.T @ _orthonormal(x @ y))  # (G, D + 10)
    points = (x @ y).double()
    _, turn = torch.linalg.eigh(points.T @ points)  # the smallest first
    found = (y @ turn.flip(1)[:, :dimensions].float()).T  # (D, G)
    largest = found.gather(1, found.abs().argmax(dim=1, keepdim=True))
    return found * torch.where(largest < 0, -1.0, 1.0), mean


def _orthonormal(columns: Tensor) -> Tensor:
    return torch.linalg.qr(columns)[0]


def project(cells: SparseRows, components: Tensor, centre: Tensor) -> Tensor:
    """Cells (N, G) on components (D, G) around `centre` (G,): (N, D)."""
    shift = centre @ components.T
    return torch.cat([x @ components.T - shift for _, x in blocks(cells)])


# -- k-means ----------------------------------------------------------------
def kmeans(points: Tensor, sizes: Sequence[int], *, seed: int = 0, spread: bool = False) -> Tensor:
    """Cluster `points` (N, D) once for every number in `sizes`: (N, len(sizes)) int64; all in the same passes.

    20 iterations of Lloyd's from random cells; with `spread` from cells far apart (greedy k-means++, Arthur and
    Vassilvitskii 2007), the better of two runs. As many clusters as cells or more: a cluster each. A cluster that loses
    its last cell keeps its centre.
    """
    cells = len(points)
    fewer = [size for size in sizes if size < cells]
    if not fewer:
        return torch.arange(cells, device=points.device)[:, None].repeat(1, len(sizes))
    points = points.float() - points.float().mean(dim=0)
    generator = torch.Generator(points.device).manual_seed(seed)
    runs = fewer * 2 if spread else fewer
    start = _far_apart if spread else _at_random
    centres = torch.cat([points[start(points, size, generator)] for size in runs])  # (sum K, D)
    labels, inertia = lloyd(points, centres, runs)
    if spread:
        first, second = labels.chunk(2, dim=1)
        labels = torch.where(inertia[: len(fewer)] <= inertia[len(fewer) :], first, second)
    columns = iter(labels.unbind(dim=1))
    alone = torch.arange(cells, device=points.device)
    return torch.stack([next(columns) if size < cells else alone for size in sizes], dim=1)


def lloyd(points: Tensor, centres: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Labels (N, P) after 20 iterations of the P partitions whose `centres` (sum K, D) follow each other.

    Also each partition's inertia (P,) float64, less the squared lengths of the points, which are the same for all.
    """
    offsets = torch.tensor([0, *np.cumsum(sizes)[:-1]], device=points.device)
    block = max(1, min(1 << 16, ENTRIES // max(1, len(centres), points.shape[1])))
    for iteration in range(ITERATIONS + 1):  # the last pass only assigns
        total, count = torch.zeros_like(centres), torch.zeros(len(centres), device=points.device)
        norm, labels, inertia = centres.square().sum(dim=1), [], torch.zeros(len(sizes), device=points.device).double()
        for x in points.split(block):
            distance = torch.addmm(norm, x, centres.T, alpha=-2)  # (B, sum K), up to a constant a row
            least = [part.min(dim=1) for part in distance.split(list(sizes), dim=1)]
            nearest = torch.stack([one.indices for one in least], dim=1)  # (B, P)
            inertia += torch.stack([one.values for one in least], dim=1).sum(dim=0, dtype=torch.float64)
            labels.append(nearest)
            if iteration < ITERATIONS:
                member = distance.zero_().scatter_(1, nearest + offsets, 1.0)
                total += member.T @ x  # a product, as sums by index depend on who adds first
                count += member.sum(dim=0)
        if iteration < ITERATIONS:
            centres = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], centres)
    return torch.cat(labels), inertia


def _at_random(points: Tensor, size: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(len(points), generator=generator, device=points.device)[:size]


def _far_apart(points: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Rows (size,) of centres to start from: each the best of a few drawn by their distance to those there are."""
    trials = 2 + int(math.log(size))
    length = points.square().sum(dim=1)
    chosen = torch.randint(len(points), (1,), generator=generator, device=points.device)
    closest = torch.full_like(length, float("inf"))
    rows = []
    for place in range(size):
        square = length[:, None] + length[chosen] - 2 * points @ points[chosen].T  # (N, trials)
        least = torch.minimum(closest[:, None], square.clamp(min=0))
        best = least.sum(dim=0).argmin()
        rows.append(chosen[best])
        closest = least[:, best]
        if place + 1 < size:
            chosen = torch.multinomial(closest + 1e-20, trials, replacement=True, generator=generator)
    return torch.stack(rows)


# -- sums over cells ----------------------------------------------------------------
def moments(x: csr_matrix, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (G,) of every gene of `x` (N, G), float32: as `directions.moments`."""
    total, square = torch.zeros(2, x.shape[1], dtype=torch.float64, device=device)
    for _, block in blocks(SparseRows(x, device)):
        total += block.sum(dim=0, dtype=torch.float64)
        square += block.square().sum(dim=0, dtype=torch.float64)
    mean = total / x.shape[0]
    variance = (square / x.shape[0] - mean.square()).clamp(min=0)
    return mean.float().cpu().numpy(), variance.float().cpu().numpy()


def weighted_sums(
    x: csr_matrix, partitions: np.ndarray, weights: Sequence[np.ndarray], device: torch.device
) -> list[np.ndarray]:
    """The sums (K, G) of the cells of each cluster of `partitions` (N, P), a cluster's times its weight, (K,) each."""
    sizes = [len(one) for one in weights]
    offsets = torch.tensor([0, *np.cumsum(sizes)[:-1]], device=device)
    labels = torch.from_numpy(partitions).to(device) + offsets  # (N, P), clusters of all partitions in a row
    found = torch.zeros(sum(sizes), x.shape[1], device=device)
    for rows, block in blocks(SparseRows(x, device)):
        member = torch.zeros(len(block), len(found), device=device).scatter_(1, labels[rows], 1.0)
        found += member.T @ block
    found *= torch.from_numpy(np.concatenate(weights)).to(device)[:, None]
    return [one.cpu().numpy() for one in found.split(sizes)]
