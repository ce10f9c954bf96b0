"""What the numbers of a dataset are (counts, CP10k, log1p ...) and how they become log1p of CP10k."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.sparse import csr_matrix

TARGET_SUM = 1e4  # counts a cell before the logarithm: what scanpy, Seurat and CellTypist call log-normalised
SCALES = (1e4, 1e5, 1e6)  # CP10k; TPM/10; CPM, TPM, RPM
BASES = {"e": math.e, "2": 2.0, "10": 10.0}
HIGHEST = {"e": 16.2, "2": 23.3, "10": 7.1}  # logarithms of 1e7: no normalised value is larger
LOG_UP_TO = 20.5  # numbers that nothing else tells from logarithms: log2 of a million is 19.9
LN_UP_TO = 9.3  # the logarithm of 10,000 is 9.21
SAME_SUM = 0.003  # row sums closer than this are one constant; float16 and two decimals stay below
LEAST_SUM = 100.0  # a hundredth of CP10k: cells that sum to less were scaled to something else
CALLED_COUNTS = ("layers['counts']", "layers['raw_counts']")
NEAR = 0.08  # mean distance from whole numbers; 0.25 is chance, 0.05 is what two decimals leave
LOG_OF_LOG_UP_TO = 2.9  # log1p of 16.2, which no logarithm of a normalised value exceeds
DENSE, MANY_GENES = 0.95, 2000  # share of entries above 0 among so many genes that only a model gives
MOST_ROWS = 1000  # of a sample; more rows do not change an answer

SUPPLY = (
    "supply the raw counts (adata.layers['counts'] or adata.raw), or log1p of counts scaled to 10,000 a "
    "cell, as they "
    "were before sc.pp.scale, regress_out or batch correction"
)


@dataclass(frozen=True)
class Values:
    """What the numbers are: decided once for a dataset, then applied to each of its row blocks.

    kind: 'counts', 'scaled' (divided by depth, not logged), 'log' (of scaled values) or 'log_counts'. base:
    of the logarithm, 0 without one. total: the sum of a cell before the logarithm and over all genes, where
    known or assumed; None where each cell's own sum is used. sure: whether a test found it, not only the size
    of the numbers. twice: whether log1p was taken of the logarithms once more. doubt: why they may not be what they
    are taken for, with the number that gives it away; "" for none.
    """

    kind: str
    base: float = 0.0
    total: float | None = None
    sure: bool = True
    note: str = ""
    twice: bool = False
    doubt: str = field(default="", compare=False)

    def what(self) -> str:
        """What was found, in a few words."""
        scale = "values of unknown scale" if self.total is None else _scale_words(self.total)
        found = {
            "counts": "raw counts",
            "scaled": f"{scale}, not logged",
            "log_counts": f"{self._log()} of raw counts",
            "log": f"{self._log()} of {scale}",
        }[self.kind]
        return f"log1p of {found}" if self.twice else found

    def describe(self, where: str = "X") -> str:
        """One line: what was found and what is done about it."""
        steps = [f"{'log1p and ' if self.twice else ''}{self._log()} undone"] if self.base else []
        if self.total is None or not _close(self.total, TARGET_SUM):
            steps.append(f"{'scaled' if self.kind == 'counts' else 'rescaled'} to {TARGET_SUM:,.0f} a cell")
        done = "used as it is" if self.is_log1p() else " and ".join([", ".join(steps), "log1p"] if steps else ["log1p"])
        guess = "" if self.sure else " (told by the size of the numbers alone; --values says it for certain)"
        note = f" ({self.note})" if self.note else ""
        return f"{where} holds {self.what()}{note}{guess}: {done}"

    def _log(self) -> str:
        return {2.0: "log2(x + 1)", 10.0: "log10(x + 1)"}.get(self.base, "log1p")

    def is_log1p(self) -> bool:
        """Whether the values are log1p of CP10k already."""
        return self.kind == "log" and _is_log_of(self, TARGET_SUM)


# What --values may say. cpm serves TPM and RPM as well.
NAMED = {
    "counts": Values("counts"),
    "cp10k": Values("scaled", total=1e4),
    "cpm": Values("scaled", total=1e6),
    "tpm": Values("scaled", total=1e6),
    "log1p": Values("log", math.e, 1e4),
    "log1p_cpm": Values("log", math.e, 1e6),
    "log1p_counts": Values("log_counts", math.e),
    "log2": Values("log", 2.0, None),
    "log2_cp10k": Values("log", 2.0, 1e4),
    "log2_cpm": Values("log", 2.0, 1e6),
    "log2_tpm10": Values("log", 2.0, 1e5),
    "log2_counts": Values("log_counts", 2.0),
    "log10": Values("log", 10.0, None),
}


def values_named(name: str) -> Values:
    """The Values that --values NAME stands for. Raises ValueError, listing the names, for another one."""
    if name not in NAMED:
        raise ValueError(f"--values {name}: unknown; one of {', '.join(NAMED)}, or leave it out to have it decided")
    return NAMED[name]


def detect(sample: csr_matrix, where: str = "X") -> Values:
    """What the numbers in sample (n, G), csr, are; a few hundred cells with all their genes are enough.

    The tests, surest first: whole numbers; whole numbers under a logarithm; one row sum for all cells, under
    no or any logarithm; mostly whole numbers (counts corrected for collisions or shared reads); rows that are
    whole multiples of their smallest value, which normalised counts are even where only some genes are left;
    and then the size of the numbers. Raises ValueError for values below 0, NaN, infinite, or all 0, with what
    to supply instead.
    """
    if sample.shape[0] > MOST_ROWS:
        sample = sample[sample_of(sample.shape[0])]
    refuse(sample, where)
    values = _detect(sample, where)
    return replace(values, doubt=_doubt(values, sample, where))


def sample_of(cells: int) -> np.ndarray:
    """The rows, at most 1,000 and evenly spread, by which `detect` tells what the numbers of so many cells are."""
    return np.arange(0, cells, max(1, -(-cells // MOST_ROWS)))


def _doubt(values: Values, sample: csr_matrix, where: str) -> str:
    """Why values may not be what they are taken for, with the number that gives it away; "" where nothing does."""
    v = sample.data[sample.data > 0].astype(np.float64)
    share = len(v) / max(1, sample.shape[0] * sample.shape[1])
    top, whole = float(v.max()), float((np.abs(v - np.round(v)) < 1e-6 * np.maximum(1, v)).mean())
    if values.twice:
        return f"a logarithm was taken twice (the largest value is {top:.3g}); both are undone"
    squares = np.square(v[v < 30])  # of larger values float32 keeps too few decimals
    near = np.abs(squares - np.round(squares)) < 1e-5 * np.maximum(1, squares)
    if whole < 0.999 and len(squares) * 2 > len(v) and near.mean() > 0.999:
        return f"they are square roots of counts ({1 - whole:.0%} are not whole, but all their squares are)"
    if not values.sure and values.kind == "counts":
        if where in CALLED_COUNTS and share <= DENSE:  # corrected for ambient RNA, say: its owner knows what they are
            return ""
        return (
            f"{1 - whole:.0%} are not whole, and the largest is {top:,.4g}, too large for a logarithm: residuals, "
            "or values of a scale of their own"
        )
    if not values.sure:
        return (
            f"no scale and no base fits: the largest is {top:.3g}, and cells differ in their sums; a logarithm of "
            "a logarithm, a share of each gene's largest value or residuals look so"
        )
    if share > DENSE and sample.shape[1] >= MANY_GENES:
        return f"{share:.0%} of all entries are above 0, as in denoised or imputed values, not in counted ones"
    return ""


def _detect(sample: csr_matrix, where: str) -> Values:
    filled = sample[np.flatnonzero(np.diff(sample.indptr))]
    v = filled.data.astype(np.float64)
    v, filled = (v, filled) if (v > 0).all() else _without_zeros(filled)
    if not len(v):
        raise ValueError(f"{where} holds only zeros, so there is nothing to tell cells by; {SUPPLY}")
    starts = filled.indptr[:-1]
    whole = np.abs(v - np.round(v)) < 1e-6 * np.maximum(1, v)
    if whole.mean() >= 0.999:
        return Values("counts")
    top = float(v.max())
    bases = {"": 0.0} | {name: base for name, base in BASES.items() if top <= HIGHEST[name]}
    linear = {name: _undo(v, base) for name, base in bases.items()}
    for name, base in bases.items():
        if base and _whole_under_log(linear[name], _nearly_whole(v), starts):
            return Values("log_counts", base)
    spread = {name: _spread_of_sums(np.add.reduceat(x, starts)) for name, x in linear.items()}
    best = min(spread, key=lambda name: spread[name][0])
    if spread[best][0] < SAME_SUM:
        total = _standard(spread[best][1])
        return Values("log" if best else "scaled", bases[best], total)
    if top <= LOG_OF_LOG_UP_TO and (found := _log_of_log(v, starts)):
        return found
    distance = {name: _distance_from_multiples(x, filled.indptr) for name, x in linear.items()}
    near_whole = (np.abs(v - np.round(v)) < 0.05) & (v > 0.5)
    best = min(distance, key=distance.get)
    same_one = distance[best] < NEAR and _share_a_smallest_near_one(np.minimum.reduceat(linear[best], starts))
    if same_one and best:
        return Values("log_counts", bases[best], note="not whole, as corrected counts are")
    if same_one or whole.mean() >= 0.5 or near_whole.mean() >= 0.7:
        return Values("counts", note=f"{1 - whole.mean():.0%} not whole, as corrected or shared counts are")
    sums = {name: float(np.quantile(np.add.reduceat(x, starts), 0.99)) for name, x in linear.items()}
    some = f"only some of the genes: cells sum to at most {sums[best]:,.0f}"
    if distance[best] < NEAR:
        return Values("log" if best else "scaled", bases[best], _scale_above(sums[best]), note=some)
    if top > LOG_UP_TO:
        return Values("counts", sure=False, note="not whole numbers")
    best = "e" if top <= LN_UP_TO else "2"
    total = _scale_above(sums[best]) if sums[best] > LEAST_SUM else None
    return Values("log", BASES[best], total, sure=False)


def to_log1p(counts: csr_matrix, values: Values, target_sum: float = TARGET_SUM) -> csr_matrix:
    """counts (N, G) csr, as values says they are, as log1p of counts scaled to target_sum a cell; float32.

    The values are new, the two index arrays those of counts. Rows depend on nothing but themselves, so blocks
    give what the whole gives. A cell without counts stays zero. Raises ValueError for values below 0, NaN or
    infinite: the sample did not hold them.
    """
    refuse(counts)
    same_log = _is_log_of(values, target_sum)
    x = counts.data.astype(np.float32)  # a copy: the rest works in place
    if same_log:
        return csr_matrix((x, counts.indices, counts.indptr), shape=counts.shape)
    x = _undo(np.expm1(x) if values.twice else x, values.base)
    if values.total is None:
        filled = np.flatnonzero(np.diff(counts.indptr))
        totals = np.add.reduceat(x, counts.indptr[filled], dtype=np.float64)  # (filled cells,)
        factors = np.divide(target_sum, totals, out=np.zeros_like(totals), where=totals > 0)
        x *= np.repeat(factors.astype(np.float32), np.diff(counts.indptr)[filled])
    elif not _close(values.total, target_sum):
        x *= np.float32(target_sum / values.total)
    return csr_matrix((np.log1p(x, out=x), counts.indices, counts.indptr), shape=counts.shape)


def choose(candidates: Mapping[str, csr_matrix]) -> tuple[str, Values]:
    """Which matrix of a file to use and what it holds; candidates: '.raw', "layers['counts']", 'X' -> sample.

    One with most of the genes comes before a selection of them, raw counts before the rest, what a test found
    before what is doubtful; then .raw, layers['counts'], X. Other layers (spliced, imputed) only where those
    cannot be used. Raises ValueError, with the reason for each, where none can.
    """
    order = (".raw", "layers['counts']", "layers['raw_counts']", "layers['raw']", "X")
    most = max((sample.shape[1] for sample in candidates.values()), default=0)
    usable, refused = [], []
    for place, (words, sample) in enumerate(candidates.items()):
        try:
            values = detect(sample, words)
        except ValueError as error:
            refused.append(str(error))
            continue
        known = order.index(words) if words in order else len(order)
        rank = 2 if values.doubt else 0 if values.kind in ("counts", "log_counts") else 1
        usable.append((known == len(order), sample.shape[1] < most / 2, rank, known, place, words, values))
    if not usable:
        raise ValueError("; ".join(refused) or f"there is no matrix to choose from; {SUPPLY}")
    *_, words, values = min(usable, key=lambda row: row[:5])
    return words, values


def refuse(counts: csr_matrix, where: str = "X") -> None:
    """ValueError, with what to supply instead, where counts (N, G) holds what no logarithm can come from."""
    if not counts.nnz:
        return
    low, high = float(counts.data.min()), float(counts.data.max())
    if not math.isfinite(low + high):
        raise ValueError(f"{where} holds NaN or infinite values; {SUPPLY}")
    if low < 0:
        raise ValueError(
            f"{where} holds negative values (smallest {low:.3g}): it was scaled to z-scores, centred or "
            "corrected, and "
            f"expression cannot be had back from that; {SUPPLY}"
        )


def _is_log_of(values: Values, total: float) -> bool:
    """Whether values are log1p, once, of values that sum to `total` a cell."""
    once = values.base == math.e and not values.twice
    return once and values.total is not None and _close(values.total, total)


def _undo(v: np.ndarray, base: float) -> np.ndarray:
    """v before log(x + 1); v itself where base is 0."""
    if not base:
        return v
    return np.expm1(v if base == math.e else v * v.dtype.type(math.log(base)))


def _log_of_log(v: np.ndarray, starts: np.ndarray) -> Values | None:
    """What v (n,) are if log1p of logarithms: of values with one sum a cell, or of whole numbers; else None."""
    once = np.expm1(v)
    linear = {base: _undo(once, base) for name, base in BASES.items() if once.max() <= HIGHEST[name]}
    for base, x in linear.items():
        if _whole_under_log(x, _nearly_whole(v), starts):
            return Values("log_counts", base, twice=True)
    spread = {base: _spread_of_sums(np.add.reduceat(x, starts)) for base, x in linear.items()}
    best = min(spread, key=lambda base: spread[base][0], default=None)
    if best is None or spread[best][0] >= SAME_SUM:
        return None
    return Values("log", best, _standard(spread[best][1]), twice=True)


def _without_zeros(counts: csr_matrix) -> tuple[np.ndarray, csr_matrix]:
    counts = counts.copy()
    counts.eliminate_zeros()
    counts = counts[np.flatnonzero(np.diff(counts.indptr))]
    return counts.data.astype(np.float64), counts


def _whole_under_log(x: np.ndarray, whole: np.ndarray, starts: np.ndarray) -> bool:
    """Whether x, undone from a logarithm, are whole numbers where the values themselves (`whole`) are not.

    Only x up to 100 count: there chance reaches 0.04 of the allowance, which is what float32 or four decimals
    keep. Two fifths are enough, because corrected counts are not all whole, but in three quarters of the
    cells; values that were whole before prove nothing, as 2**3 - 1 is whole like 3.
    """
    small = (x > 0.5) & (x < 100)
    if small.sum() < max(5, 0.1 * len(x)):
        return False
    near = small & _nearly_whole(x)
    gained = np.add.reduceat(near & ~whole, starts, dtype=int) - np.add.reduceat(
        small & whole & ~near, starts, dtype=int
    )
    lacking = np.add.reduceat(small & ~whole, starts, dtype=int)
    return bool((gained[lacking > 0] > 0.4 * lacking[lacking > 0]).mean() >= 0.75) if lacking.any() else False


def _nearly_whole(x: np.ndarray) -> np.ndarray:
    return np.abs(x - np.round(x)) < 0.01 + 1e-4 * x


def _spread_of_sums(sums: np.ndarray) -> tuple[float, float]:
    """(relative width of the middle nine tenths of the sums, their median); few are held against SCALES."""
    middle = float(np.median(sums))
    if len(sums) < 5:
        scale = min(SCALES, key=lambda scale: abs(math.log(middle / scale)))
        return float(np.abs(sums / scale - 1).max()), scale
    low, high = np.quantile(sums, (0.05, 0.95))
    return float((high - low) / middle), middle


def _distance_from_multiples(x: np.ndarray, indptr: np.ndarray) -> float:
    """How far a row is from whole multiples of its smallest value (or of 1/2, 1/3 of it): 0 to 0.25."""
    found = []
    for a, b in zip(indptr[:-1], indptr[1:], strict=True):
        row = x[a:b]
        ratio = row / row.min()
        ratio = ratio[(ratio > 1.001) & (ratio < 10.5)]
        if len(ratio) >= 8:
            found.append(min(np.abs(ratio * k - np.round(ratio * k)).mean() for k in (1, 2, 3)))
        if len(found) == 200:
            break
    return float(np.median(found)) if found else 1.0


def _share_a_smallest_near_one(smallest: np.ndarray) -> bool:
    """Whether most cells have the same smallest value, about 1: dividing by depth would have undone that."""
    values, times = np.unique(smallest.round(3), return_counts=True)
    return bool(times.max() * 2 >= len(smallest) and abs(values[times.argmax()] - 1) < 0.05)


def _standard(total: float) -> float:
    """The usual scale within a thousandth of total, or total."""
    return next((scale for scale in (1.0, *SCALES) if abs(total / scale - 1) < 0.001), total)


def _scale_above(highest_sum: float) -> float | None:
    """The smallest usual scale that leaves room for this sum of some of the genes; None above all."""
    return next((scale for scale in SCALES if highest_sum <= scale * (1 + SAME_SUM)), None)


def _close(a: float, b: float) -> bool:
    return abs(a / b - 1) < 1e-6


def _scale_words(total: float) -> str:
    return {1e4: "CP10k", 1e6: "CPM or TPM"}.get(total, f"values that sum to {total:,.6g} a cell")
