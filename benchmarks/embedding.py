"""The embedding against what people use: one table a setting, every arm on the same cells.

python benchmarks/embedding.py --data_dir DIR                      spot: made of the dataset's own cells
python benchmarks/embedding.py --data_dir DIR --setting unseen     with a corpus that leaves out the dataset's family
python benchmarks/embedding.py --data_dir DIR --setting seen       with a corpus that has it, without its labels
python benchmarks/embedding.py --data_dir DIR --setting invented   genes permuted, and a homogeneous population
python benchmarks/embedding.py --data_dir DIR --setting halves     cells a map was made of against cells left out
python benchmarks/embedding.py --data_dir DIR --setting size       maps of few cells, and of thinned counts

Arms: ours, 15, 50 and 200 PCs of log genes, 50 PCs of 2,000 standardised variable genes as in scanpy's tutorial (scanpy
itself where it is installed), these by Harmony where the file names batches. With a corpus also the frozen encoder.
Measures: adjusted Rand index of Leiden at resolution 1 and at the best of one grid, of k-means with the true number of
types, mutual information of that, silhouette of the true types, macro F1 of 5 nearest neighbours from 5 and 20 labels a
type, share of a cell's 15 neighbours with its type. Intervals: bootstrap over datasets. Leiden needs scanpy and igraph.
With --out the numbers of a dataset are appended as they come, and a run goes on where an earlier one stopped.
"""

# ruff: noqa: E402  the project's folder comes first

import argparse
import contextlib
import io
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import pandas as pd
from scipy.sparse import csc_matrix, csr_matrix, diags
from sklearn.cluster import KMeans
from sklearn.metrics import (
    adjusted_rand_score,
    f1_score,
    normalized_mutual_info_score,
    pairwise_distances,
    silhouette_score,
)
from sklearn.neighbors import NearestNeighbors

import data_loader as data
from reading import catalogue
from stages import directions, embedding, reduce

try:
    import scanpy
    from anndata import AnnData
except ImportError:
    scanpy = None
try:
    import harmonypy
except ImportError:
    harmonypy = None

SETTINGS = ("spot", "unseen", "seen", "invented", "halves", "size")
RESOLUTIONS = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0)
MEASURES = ("knn 5", "knn 20", "purity", "leiden 1", "leiden best", "k-means", "nmi", "silhouette")
TISSUES = {"PBMC": ("PBMC", "Kang", "Zheng", "Hao", "Treg"), "Tian": ("Tian",), "islets": ("Baron", "panc8", "Xin")}
BATCHES = ("batch", "donor", "tech", "technology", "plate", "individual")  # columns Harmony may take
CORPUS_DIMENSIONS = 50  # of the frozen encoder
NEIGHBOURS = 15  # of a cell, for purity and for Leiden's graph
SPLITS = {5: 20, 20: 10}  # labels a type: random splits
SIZES, DEPTHS = (60, 120, 250, 500, 1000), (0.1, 0.03)
LEAST_CELLS = 600  # of a dataset in the setting `size`


@dataclass
class Cells:
    """One dataset: cells that have a type, on its own genes in the corpus's spelling."""

    name: str
    x: csr_matrix  # (N, G) log1p of 10,000 counts
    counts: csr_matrix  # (N, G) as in the file
    genes: np.ndarray  # (G,)
    labels: np.ndarray | None  # (N,) ints
    batches: np.ndarray | None  # (N,), for Harmony
    mouse: bool

    def rows(self, rows: np.ndarray) -> "Cells":
        labels = None if self.labels is None else self.labels[rows]
        batches = None if self.batches is None else self.batches[rows]
        return Cells(self.name, self.x[rows], self.counts[rows], self.genes, labels, batches, self.mouse)

    def measured(self) -> "Cells":
        """Without genes that fewer than three cells have."""
        kept = np.asarray((self.x > 0).sum(axis=0)).ravel() > 2
        x, counts = self.x[:, kept].tocsr(), self.counts[:, kept].tocsr()
        return Cells(self.name, x, counts, self.genes[kept], self.labels, self.batches, self.mouse)


# -- arms: fitted on cells (N, G), they give a map of cells with the same genes -------------------
Map = Callable[[csr_matrix], np.ndarray]


def linear(weight: np.ndarray, bias: np.ndarray) -> Map:
    return lambda x: x @ weight.T + bias


def ours(cells: Cells, prior: np.ndarray | None = None) -> Map:
    return linear(*embedding.own(cells.x, prior=prior))


def components(dimensions: int) -> Callable[[Cells], Map]:
    def fit(cells: Cells) -> Map:
        axes, mean = reduce.components(cells.x, dimensions)
        return linear(axes, -axes @ mean)

    return fit


def variable_genes(cells: Cells) -> Map:
    """scanpy's tutorial: 2,000 variable genes, each scaled and cut at 10 deviations, 50 PCs."""
    chosen = np.arange(len(cells.genes))
    if len(chosen) > 2000:
        if scanpy:
            adata = AnnData(cells.x.copy())
            scanpy.pp.highly_variable_genes(adata, n_top_genes=2000)
            chosen = np.flatnonzero(adata.var["highly_variable"])
        else:  # most variance beyond genes that are as abundant
            mean, variance = directions.moments(cells.x)
            excess = np.empty_like(variance)
            for rows in np.array_split(np.argsort(mean, kind="stable"), 20):
                excess[rows] = variance[rows] / (np.median(variance[rows]) + 1e-9)
            chosen = np.sort(np.argsort(-excess, kind="stable")[:2000])
    mean, variance = directions.moments(cells.x[:, chosen].tocsr())
    deviation = np.sqrt(variance * cells.x.shape[0] / (cells.x.shape[0] - 1)) + 1e-12

    def scaled(x: csr_matrix) -> np.ndarray:
        return np.clip((x[:, chosen].toarray() - mean) / deviation, None, 10)  # (N, 2000), scanpy cuts above only

    z = scaled(cells.x)
    centre = z.mean(axis=0)
    axes = np.linalg.svd(z - centre, full_matrices=False)[2][: min(50, min(z.shape) - 1)]
    return lambda x: (scaled(x) - centre) @ axes.T


VARIABLE = f"variable genes{'' if scanpy else ', own code'}"
ARMS: dict[str, Callable[[Cells], Map]] = {
    "ours": ours,
    "15 PCs": components(15),
    "50 PCs": components(50),
    "200 PCs": components(200),
    VARIABLE: variable_genes,
}
OF_NOTHING = ("ours", "15 PCs", "50 PCs")  # arms where nothing, or no cell, was to be learnt


def harmony(points: np.ndarray, batches: np.ndarray) -> np.ndarray:
    frame = pd.DataFrame({"batch": batches.astype(str)})
    with contextlib.redirect_stderr(io.StringIO()):
        found = np.asarray(harmonypy.run_harmony(points, frame, "batch", verbose=False).Z_corr)
    return found if found.shape[0] == len(points) else found.T


# -- measures -------------------
def measures(points: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    points = np.asarray(points, dtype=np.float64) - points.mean(axis=0)
    distance = pairwise_distances(points)
    out = {f"knn {few}": few_labels(distance, labels, few) for few in SPLITS}
    out["purity"] = purity(points, labels)
    guesses = [KMeans(len(set(labels)), n_init=1, random_state=seed).fit_predict(points) for seed in range(5)]
    out["k-means"] = np.mean([adjusted_rand_score(labels, guess) for guess in guesses])
    out["nmi"] = np.mean([normalized_mutual_info_score(labels, guess) for guess in guesses])
    out["silhouette"] = silhouette_score(distance, labels, metric="precomputed")
    if scanpy:
        found = [adjusted_rand_score(labels, one) for one in leiden(points, RESOLUTIONS)]
        out |= {"leiden 1": found[RESOLUTIONS.index(1.0)], "leiden best": max(found)}
    return out


def purity(points: np.ndarray, labels: np.ndarray) -> float:
    """Share of a cell's neighbours that have its type."""
    count = min(NEIGHBOURS, len(points) - 1)
    nearest = NearestNeighbors(n_neighbors=count).fit(points).kneighbors(return_distance=False)
    return float((labels[nearest] == labels[:, None]).mean())


def few_labels(distance: np.ndarray, labels: np.ndarray, few: int) -> float:
    """Macro F1 of the 5 nearest labelled cells, nearer ones count more; types with 5 other cells at least."""
    types = [one for one in np.unique(labels) if (labels == one).sum() >= few + 5]
    if len(types) < 2:
        return np.nan
    rng, scores, usable = np.random.default_rng(0), [], np.flatnonzero(np.isin(labels, types))
    for _ in range(SPLITS[few]):
        known = np.concatenate([rng.permutation(np.flatnonzero(labels == one))[:few] for one in types])
        rest = np.setdiff1d(usable, known)
        among = distance[np.ix_(rest, known)]
        near = np.argsort(among, axis=1, kind="stable")[:, :5]
        weight = 1 / (np.take_along_axis(among, near, axis=1) + 1e-9)
        votes = np.stack([(weight * (labels[known][near] == one)).sum(axis=1) for one in types], axis=1)
        scores.append(f1_score(labels[rest], np.array(types)[votes.argmax(axis=1)], average="macro"))
    return float(np.mean(scores))


def leiden(points: np.ndarray, resolutions: Sequence[float]) -> list[np.ndarray]:
    adata = AnnData(np.zeros((len(points), 1), np.float32), obsm={"X": points})
    scanpy.pp.neighbors(adata, n_neighbors=min(NEIGHBOURS, len(points) - 1), use_rep="X")
    found = []
    for resolution in resolutions:
        scanpy.tl.leiden(adata, resolution=resolution, flavor="igraph", n_iterations=2, directed=False)
        found.append(adata.obs["leiden"].to_numpy().astype(int))
    return found


def islands(points: np.ndarray) -> dict[str, float]:
    """Silhouette of ten k-means clusters, and how many clusters Leiden finds at resolution 1."""
    guess = KMeans(min(10, len(points) // 3), n_init=3, random_state=0).fit_predict(points)
    found = {"silhouette of ten": silhouette_score(points, guess)}
    return found | ({"leiden clusters": len(set(leiden(points, (1.0,))[0]))} if scanpy else {})


# -- settings -------------------
def compared(dataset: Cells, corpus: "Corpus | None") -> dict[str, dict[str, float]]:
    """Every arm on one dataset, all its cells fitted."""
    cells, out = dataset.measured(), {}
    for arm, fit in ARMS.items():
        points = (ours(cells, prior_of(cells, corpus)) if corpus and arm == "ours" else fit(cells))(cells.x)
        out[arm] = measures(points, cells.labels)
        if arm == VARIABLE and harmonypy and cells.batches is not None:
            out[f"{VARIABLE}, Harmony"] = measures(harmony(points, cells.batches), cells.labels)
    if corpus and len(ARMS) > 1:
        out["ours, no corpus"] = measures(ours(cells)(cells.x), cells.labels)
        out["frozen encoder"] = measures(frozen(cells, corpus), cells.labels)
    return out


def invented(dataset: Cells) -> dict[str, dict[str, float]]:
    cells = dataset.measured()
    cells.x = permuted(cells.x)
    return {arm: islands(ARMS[arm](cells)(cells.x)) for arm in OF_NOTHING if arm in ARMS}


def halves(dataset: Cells) -> dict[str, dict[str, float]]:
    """Fitted half minus left-out half, mean of three splits; clusters are those of the fitted half."""
    out = {}
    for arm in [arm for arm in OF_NOTHING if arm in ARMS]:
        gaps = []
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(dataset.x.shape[0])
            sides = [np.sort(side) for side in np.array_split(order, 2)]
            fitted = dataset.rows(sides[0])
            kept = np.asarray((fitted.x > 0).sum(axis=0)).ravel() > 2
            fitted.x, fitted.genes = fitted.x[:, kept].tocsr(), fitted.genes[kept]
            embed = ARMS[arm](fitted)
            pair = [np.asarray(embed(dataset.x[side][:, kept].tocsr())) for side in sides]
            clusters = KMeans(min(10, len(sides[0]) // 8), n_init=3, random_state=0).fit(pair[0])
            spread = np.sqrt(np.square(pair[0] - pair[0].mean(axis=0)).sum(axis=1).mean())
            rows = []
            for points, side in zip(pair, sides, strict=True):
                nearest = NearestNeighbors(n_neighbors=1).fit(points).kneighbors()[0]
                guess = clusters.predict(points)
                rows.append((silhouette_score(points, guess), purity(points, dataset.labels[side]),
                             np.median(nearest) / spread))  # fmt: skip
            gaps.append(np.subtract(*rows))
        out[arm] = dict(zip(("silhouette", "purity", "nearest"), np.mean(gaps, axis=0), strict=True))
    return out


def by_size(dataset: Cells, corpus: "Corpus") -> dict[str, dict[str, float]]:
    """Maps of few cells, judged on all cells; and of counts thinned to a share."""
    out, whole = {}, np.round(dataset.counts.data[:2000]) == dataset.counts.data[:2000]
    conditions = [*SIZES, *(DEPTHS if whole.all() else ())]
    for condition in conditions:
        cells = dataset if condition >= 1 else thinned(dataset, condition)
        order = np.random.default_rng(0).permutation(cells.x.shape[0])
        if condition > len(order):
            continue
        fitted = cells.rows(np.sort(order[: condition if condition >= 1 else None]))
        kept = np.asarray((fitted.x > 0).sum(axis=0)).ravel() > 2
        fitted.x, fitted.genes = fitted.x[:, kept].tocsr(), fitted.genes[kept]
        x = cells.x[:, kept].tocsr()
        arms = {
            "with corpus": ours(fitted, prior_of(fitted, corpus)),
            "alone": ours(fitted),
            "15 PCs": ARMS["15 PCs"](fitted),
        }
        for arm, embed in arms.items():
            points = embed(x)
            distance = pairwise_distances(points)
            words = f"{condition} cells" if condition >= 1 else f"{condition:.0%} depth"
            out[f"{words}, {arm}"] = {
                "knn 5": few_labels(distance, cells.labels, 5), "purity": purity(points, cells.labels),
            }  # fmt: skip
    return out


# -- corpus -------------------
@dataclass
class Corpus:
    """Datasets (N, G) on genes they share, with their signal shares (G,) and the genes each has."""

    genes: np.ndarray
    matrices: list[csr_matrix]
    measured: list[np.ndarray]
    shares: list[np.ndarray]

    @property
    def place(self) -> dict[str, int]:
        return {gene: i for i, gene in enumerate(self.genes)}

    @cached_property
    def encoder(self) -> np.ndarray:
        """The frozen encoder's weight (H, G)."""
        return embedding.fit(self.matrices, self.measured, self.shares, dimensions=CORPUS_DIMENSIONS)[0]


def corpus_of(datasets: list[Cells], shares: dict[str, np.ndarray], genes: np.ndarray) -> Corpus:
    corpus = Corpus(genes, [], [], [])
    place = corpus.place
    for one in datasets:
        known = np.array([gene in place for gene in one.genes])
        target = np.array([place[gene] for gene in one.genes[known]])
        x = one.x[:, known].tocsr()
        corpus.matrices.append(csr_matrix((x.data, target[x.indices], x.indptr), (x.shape[0], len(genes))))
        share, has = np.zeros(len(genes)), np.zeros(len(genes), bool)
        share[target], has[target] = shares[one.name][known], True
        corpus.shares.append(share)
        corpus.measured.append(has)
    return corpus


def prior_of(cells: Cells, corpus: Corpus) -> np.ndarray:
    """Signal shares of the corpus for the dataset's genes (G,); NaN where it has none, and the dataset's own count."""
    roots = np.sqrt([matrix.shape[0] for matrix in corpus.matrices])
    place, shares = corpus.place, embedding.average(corpus.shares, corpus.measured, roots)
    return np.array([shares[place[gene]] if gene in place else np.nan for gene in cells.genes])


def frozen(cells: Cells, corpus: Corpus) -> np.ndarray:
    """Every cell (N, H) by the frozen encoder."""
    place = corpus.place
    columns = np.array([place.get(gene, -1) for gene in cells.genes])
    return cells.x @ np.where(columns >= 0, corpus.encoder[:, columns], 0).T


# -- cells -------------------
def permuted(x: csr_matrix, seed: int = 0) -> csr_matrix:
    """Every gene's values among other cells: all structure gone, every gene as it was."""
    rng, columns = np.random.default_rng(seed), x.tocsc()
    rows, values = columns.indices.copy(), columns.data.copy()
    for start, stop in zip(columns.indptr[:-1], columns.indptr[1:], strict=True):
        rows[start:stop] = np.sort(rng.choice(x.shape[0], stop - start, replace=False))
        values[start:stop] = rng.permutation(values[start:stop])
    return csc_matrix((values, rows, columns.indptr), x.shape).tocsr()


def log_normal(counts: csr_matrix) -> csr_matrix:
    total = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    return (diags(1e4 / total) @ counts).tocsr().log1p().astype(np.float32)


def thinned(cells: Cells, depth: float, seed: int = 0) -> Cells:
    counts = cells.counts.tocsr().copy()
    counts.data = np.random.default_rng(seed).binomial(np.round(counts.data).astype(int), depth).astype(np.float32)
    counts.eliminate_zeros()
    return Cells(cells.name, log_normal(counts), counts, cells.genes, cells.labels, cells.batches, cells.mouse)


def homogeneous(cells: int, depth: int, seed: int = 0) -> Cells:
    """One population: Poisson counts of 8,000 genes, cells differ in depth alone."""
    rng = np.random.default_rng(seed)
    profile = rng.gamma(0.3, 1, 8000)
    counts = rng.poisson(rng.lognormal(np.log(depth), 0.4, cells)[:, None] * profile / profile.sum())
    counts = csr_matrix(counts.astype(np.float32))
    return Cells(
        f"one population, {cells} x {depth}", log_normal(counts), counts, np.arange(8000).astype(str), None, None, False
    )


def load(folder: Path, names: Sequence[str] | None, most: int) -> list[Cells]:
    with contextlib.redirect_stdout(io.StringIO()):
        table = catalogue.orthologs(folder, offline=True)
        entries = [entry for entry in catalogue.read_catalogue(folder) if entry.path is not None]
        entries = [entry for entry in entries if not names or entry.name in names]
        named = data.gene_names(entries, table)
    out = []
    for one in named:
        cells = data.load(one.entry)
        genes = np.array(one.genes)
        used = np.flatnonzero(genes != "")
        rows, labels = np.arange(cells.counts.shape[0]), None
        if one.entry.labelled:
            types = data.cell_types(cells)
            rows, labels = types.rows, types.labels
        x = data.log_normalised(cells.counts)[rows][:, used].tocsr()
        batches = batches_of(one.entry.path, rows)
        found = Cells(one.entry.name, x, cells.counts[rows][:, used].tocsr(), genes[used], labels, batches,
                      one.entry.species == "mouse")  # fmt: skip
        if len(rows) > most:
            found = found.rows(np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False)))
        out.append(found)
    return out


def batches_of(path: Path, rows: np.ndarray) -> np.ndarray | None:
    if path.suffix != ".h5":
        return None
    import h5py

    with h5py.File(path) as file:
        for column in BATCHES:
            if column in file.get("obs", {}) and 1 < len(set(file["obs"][column][:])) < 50:
                return file["obs"][column][:][rows]
    return None


def family(name: str) -> str:
    return next((tissue for tissue, starts in TISSUES.items() if name.startswith(starts)), name)


# -- the command -------------------
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="datasets.csv and the files it lists")
    parser.add_argument("--setting", choices=SETTINGS, default=SETTINGS[0], help="default: %(default)s")
    parser.add_argument("--datasets", metavar="A,B", help="these only; a corpus has all others all the same")
    parser.add_argument("--arms", metavar="A,B", help=f"these only, of {', '.join(ARMS)}")
    parser.add_argument("--most", type=int, default=2000, help="cells of a dataset (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="a CSV of every dataset's numbers, gone on with where it is there")
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    for arm in set(ARMS) - set(args.arms.split(",") if args.arms else ARMS):
        del ARMS[arm]
    return measure(
        args.data_dir, args.setting, args.datasets.split(",") if args.datasets else None, args.most, args.out
    )


def measure(folder: Path, setting: str, names: list[str] | None, most: int, out: Path | None) -> int:
    alone = setting in ("spot", "invented", "halves")
    datasets = load(folder, names if alone else None, most)
    tested = [one for one in datasets if one.labels is not None and (not names or one.name in names)]
    if setting == "size":
        tested = [one for one in tested if one.x.shape[0] >= LEAST_CELLS]
    if setting == "invented" and not names:
        tested += [homogeneous(cells, depth) for cells, depth in ((1000, 3000), (1000, 800), (300, 3000))]
    frame = pd.read_csv(out) if out and out.exists() else pd.DataFrame(columns=["dataset", "arm"])
    tested = [one for one in tested if one.name not in set(frame["dataset"])]
    tested.sort(key=lambda one: family(one.name))  # a corpus serves its family
    corpora = Corpora(datasets) if tested and setting in ("unseen", "seen", "size") else None
    for one in tested:
        begin = time.perf_counter()
        found = measured(one, setting, corpora)
        rows = pd.DataFrame([{"dataset": one.name, "arm": arm, **values} for arm, values in found.items()])
        frame = pd.concat([frame, rows]) if len(frame) else rows
        if out:
            frame.to_csv(out, index=False)
        print(f"{one.name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    if setting != "size":
        report(frame)
        return 0
    frame[["condition", "arm"]] = frame["arm"].str.split(", ", n=1, expand=True)
    for condition, part in frame.groupby("condition", sort=False):  # each against its own
        print(f"\n{condition}")
        report(part.drop(columns="condition"))
    return 0


def measured(one: Cells, setting: str, corpora: "Corpora | None") -> dict[str, dict[str, float]]:
    """The numbers of each arm on one dataset."""
    if setting == "invented" and one.labels is None:  # simulated: nothing to permute
        cells = one.measured()
        return {arm: islands(ARMS[arm](cells)(cells.x)) for arm in OF_NOTHING if arm in ARMS}
    if setting in ("invented", "halves"):
        return (invented if setting == "invented" else halves)(one)
    if corpora is None:
        return compared(one, None)
    left_out = family(one.name)
    if setting == "size":
        return by_size(one, corpora.without(left_out))
    return compared(one, corpora.without(left_out if setting == "unseen" else None))


class Corpora:
    """The corpus without a family; the last one is kept."""

    def __init__(self, datasets: list[Cells]):
        self.datasets = datasets
        by_species = [set().union(*(one.genes for one in datasets if one.mouse is mouse)) for mouse in (True, False)]
        self.genes = np.array(sorted(by_species[0] & by_species[1]))
        self.shares = {one.name: embedding.shares_of_split(one.x, 0) for one in datasets}
        self.made: dict[str | None, Corpus] = {}

    def without(self, left_out: str | None) -> Corpus:
        if left_out not in self.made:
            self.made.clear()
            kept = [one for one in self.datasets if family(one.name) != left_out]
            self.made[left_out] = corpus_of(kept, self.shares, self.genes)
        return self.made[left_out]


def report(frame: pd.DataFrame) -> None:
    """Means over datasets, and ours minus every other arm with its 95 % interval."""
    columns = [column for column in frame if column not in ("dataset", "arm")]
    order = list(dict.fromkeys(frame["arm"]))
    means = frame.groupby("arm")[columns].mean().loc[order]
    means.insert(0, "datasets", frame.groupby("arm").size())
    print(means.round(3).to_string())
    first = order[0]
    own = frame[frame["arm"] == first].set_index("dataset")[columns]
    print(f"{first} minus each arm, 95 % interval by bootstrap over datasets")
    for arm in order[1:]:
        other = frame[frame["arm"] == arm].set_index("dataset")[columns]
        gap = (own - other).dropna(how="all")
        rng = np.random.default_rng(0)
        drawn = [gap.iloc[rng.integers(len(gap), size=len(gap))].mean() for _ in range(1000)]
        low, high = (pd.DataFrame(drawn).quantile(q) for q in (0.025, 0.975))
        words = "  ".join(f"{c} {gap[c].mean():+.3f} ({low[c]:+.3f} {high[c]:+.3f})" for c in columns)
        print(f"{arm:<28} {words}")


if __name__ == "__main__":
    sys.exit(main())
