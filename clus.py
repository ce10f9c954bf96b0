"""Clusters of the embedding against clusters of principal components, and UMAP pictures of both.

python clus.py                          every labelled dataset; figs/NAME_*.pdf, .png of one of them
python clus.py --datasets A,B           these datasets only
python clus.py --umap NAME              draw this dataset (--umap none: no picture)
"""

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

import data_loader as data
import utils
from files import fingerprint
from model import embed_counts
from reading import align
from stages import plot, reduce, score

SEEDS = 10  # k-means runs of a dataset, as published
SILHOUETTE_CELLS = 5000  # its cost grows with their square
METRICS = ("ari", "nmi", "silhouette")
PUBLISHED_PICTURE = "Quake_10x_Kidney"


def main(argv: Sequence[str] | None = None) -> int:
    return utils.run(command, utils.build_parser(__doc__), argv)


def command(args: argparse.Namespace) -> None:
    """Both arms of every labelled dataset clustered; the table; then the pictures."""
    device = utils.pick_device(args.cuda)
    utils.seed_everything(args.seed)
    checkpoint = utils.checkpoint_of(args)
    checkpoint.encoder.to(device)
    entries = data.wanted(**utils.flags(args, utils.DATA_FLAGS), labelled_because="there are no types to compare with")
    names = [entry.name for entry in entries]
    if args.umap and args.umap not in (*names, "none"):
        raise ValueError(f"--umap {args.umap} is not among the labelled datasets of this run: {', '.join(names)}")
    table = data.orthologs(args.data_dir, offline=args.offline)
    path = utils.clustering_results(args.save_result)
    seeds = [args.seed + repeat for repeat in range(SEEDS)]
    wanted = {
        (entry.name, arm, seed): run_identity(entry, arm, checkpoint, fingerprint(table), args)
        for entry in entries
        for arm in utils.ARMS
        for seed in seeds
    }
    todo = utils.unfinished(path, wanted, utils.CLUSTER_COLUMNS)
    for entry in entries:
        mine = {which: run for which, run in todo.items() if which[0] == entry.name}
        if not mine:
            continue
        dataset = prepare(entry, table, args)
        arms = points_of(dataset, checkpoint, args.seed)
        rows = {arm: clusterings(dataset, arms[arm], arm, seeds, args.seed) for arm in utils.ARMS}
        for row in (row for of_arm in rows.values() for row in of_arm):
            if run := mine.get((entry.name, row["arm"], row["seed"])):
                utils.write_result(path, row | {"run": run}, utils.CLUSTER_COLUMNS)
        words = ", ".join(f"{np.mean([row['ari'] for row in of_arm]):.3f} {arm}" for arm, of_arm in rows.items())
        cells, types = len(dataset.types.labels), len(dataset.types.classes)
        print(f"{entry.name}: adjusted Rand index {words} ({cells:,} cells, {types} types)")
    print(score.table(utils.results_of(path, wanted, utils.CLUSTER_COLUMNS), utils.ARMS, METRICS))
    print(f"{path} written")
    if args.umap != "none":
        entry = entry_to_draw(entries, args.umap, utils.read_results(path, utils.CLUSTER_COLUMNS))
        dataset = prepare(entry, table, args)
        for written in draw(dataset, points_of(dataset, checkpoint, args.seed), args):
            print(f"{written} written")
    print(f"next: {utils.command_line('fig.py', args)}")


def prepare(entry: data.Entry, table: dict[str, str], args: argparse.Namespace) -> data.Prepared:
    values = utils.flags(args, utils.VALUE_FLAGS)
    return data.prepare(entry, table, label_key=args.label_key, normalise=data.log_normalised, **values)


def points_of(dataset: data.Prepared, checkpoint: utils.Checkpoint, seed: int) -> dict[str, np.ndarray]:
    """Each arm's points (M, H) for all labelled cells: the embedding, and as many principal components."""
    data.report_overlap(dataset.names, checkpoint.genes, "the checkpoint")
    x = dataset.counts
    embedding = embed_counts(checkpoint.encoder, align.align(x, dataset.genes, checkpoint.genes), log1p=False)
    projected = reduce.project(x, *reduce.components(x, embedding.shape[1], seed=seed))
    return dict(zip(utils.ARMS, (embedding, projected), strict=True))


def clusterings(
    dataset: data.Prepared, points: np.ndarray, arm: str, seeds: Sequence[int], sample_seed: int
) -> list[dict[str, object]]:
    """One row a seed: how k-means with k = number of types agrees with the types, and their silhouette."""
    labels, types = dataset.types.labels, len(dataset.types.classes)
    row = {"dataset": dataset.names.entry.name, "arm": arm, "n_cells": len(labels), "n_types": types}
    row["silhouette"] = silhouette(points, labels, sample_seed)
    rows = []
    for seed in seeds:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Number of distinct clusters")  # cells that are all equal
            found = KMeans(types, random_state=seed).fit_predict(points)
        agreement = {
            "ari": float(adjusted_rand_score(labels, found)),
            "nmi": float(normalized_mutual_info_score(labels, found)),
        }
        rows.append(row | agreement | {"seed": seed})
    return rows


def silhouette(points: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """Mean silhouette of the true types, of 5,000 cells (the same for both arms) where there are more."""
    if len(labels) > SILHOUETTE_CELLS:
        rows = np.random.default_rng(seed).choice(len(labels), SILHOUETTE_CELLS, replace=False)
        points, labels = points[rows], labels[rows]
    types = len(np.unique(labels))
    return float(silhouette_score(points, labels)) if 1 < types < len(labels) else 0.0


def run_identity(
    entry: data.Entry, arm: str, checkpoint: utils.Checkpoint, table_hash: str, args: argparse.Namespace
) -> str:
    """A hash of all that a result depends on, but for the seed of its k-means."""
    settings = utils.flags(args, ("seed", "label_key", *utils.VALUE_FLAGS, "species"))
    weights = checkpoint.identity() if arm == utils.ARMS[0] else checkpoint.encoder.hidden
    names = None if entry.species == "mouse" else table_hash  # mouse genes need no ortholog table
    return fingerprint("clus", settings, weights, entry.species, names, data.stamp_of(entry.path))


# -- pictures ----------------------------------------------------------------
def entry_to_draw(entries: Sequence[data.Entry], name: str | None, results) -> data.Entry:
    """The dataset asked for, else the published one where it is there, else the one with most labelled cells."""
    by_name = {entry.name: entry for entry in entries}
    if name or PUBLISHED_PICTURE in by_name:
        return by_name[name or PUBLISHED_PICTURE]
    cells = results[results["dataset"].isin(list(by_name))].groupby("dataset")["n_cells"].max()
    return by_name[cells.idxmax()]


def draw(dataset: data.Prepared, arms: dict[str, np.ndarray], args: argparse.Namespace) -> list[Path]:
    """NAME_pretrain, NAME_without and NAME_both, in every format asked for; returns the files."""
    name, labels, classes = dataset.names.entry.name, dataset.types.labels, dataset.types.classes
    print(f"UMAP of {name}: {len(labels):,} cells, both arms")
    layouts = {arm: reduce.umap(points, args.seed) for arm, points in arms.items()}
    with rc_context(plot.STYLE):
        written = []
        pictures = {"pretrain": utils.ARMS[:1], "without": utils.ARMS[1:], "both": utils.ARMS}
        for suffix, shown in pictures.items():
            figure = picture(layouts, shown, labels, classes, name, args.seed)
            written += utils.save_figure(figure, args.figs / f"{name}_{suffix}", args.format, args.dpi)
    return written


def picture(
    layouts: dict[str, np.ndarray],
    shown: Sequence[str],
    labels: np.ndarray,
    classes: Sequence[str],
    name: str,
    seed: int,
) -> Figure:
    """A square for every arm in `shown`, and one legend for all."""
    words = plot.legend_words(classes, np.bincount(labels, minlength=len(classes)))
    _, width, height = plot.legend_size(words)
    figure = Figure(figsize=(4.4 * len(shown) + width, max(4.6, height)), layout="constrained")
    axes = figure.subplots(1, len(shown), squeeze=False)
    titles = {utils.ARMS[0]: "scPretrain embedding", utils.ARMS[1]: "principal components (without pretraining)"}
    for axis, arm in zip(axes[0], shown, strict=True):
        plot.embedding(axis, layouts[arm], labels, len(classes), title=titles[arm], seed=seed)
    figure.suptitle(name, fontsize=11, fontweight="bold")
    plot.type_legend(figure, words)
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
