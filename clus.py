"""Clusters of the embedding against the best of four kinds of principal components, and UMAP pictures of both.

python clus.py                          every labelled dataset; figs/NAME_*.pdf, .png of one of them
python clus.py --datasets A,B           these datasets only
python clus.py --umap NAME              draw this dataset (--umap none: no picture)
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import flags


def parser() -> flags.Parser:
    shown = flags.data, flags.encoder, flags.umap, flags.pictures, flags.results, flags.running
    return flags.build_parser(__doc__, *shown)


if __name__ == "__main__":
    flags.answer(parser(), flags.check_paths)

import warnings

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

import data_loader as data
import ranks
import recipes
import utils
from files import fingerprint
from stages import cluster, plot, reduce, score
from voice import RESULT, log

SEEDS = 10  # k-means runs of a dataset, as published
LEIDEN = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0)  # resolutions, the same for all
SILHOUETTE_CELLS = 5000  # its cost grows with their square
DRAWN = "50 PCs"  # the baseline of the pictures
PUBLISHED_PICTURE = "Quake_10x_Kidney"


def main(argv: Sequence[str] | None = None) -> int:
    return flags.run(command, parser(), argv, check_paths=flags.check_paths)


@ranks.joined()
def command(args: argparse.Namespace) -> None:
    """Both arms of every labelled dataset clustered; the table; then the pictures."""
    if args.umap != "none":
        flags.check_folder(f"--figs {args.figs}", args.figs)
    device = utils.pick_device(args.cuda)
    utils.seed_everything(args.seed)
    checkpoint = utils.load_checkpoint(args.pretrained_model, gene_list=args.gene_list)
    checkpoint.encoder.to(device)
    where = flags.fill(utils.Data, args)
    with ranks.one_first():
        entries, orthologs = where.entries("there are no types to compare with"), where.orthologs()
    names = [entry.name for entry in entries]
    if args.umap and args.umap not in (*names, "none"):
        raise ValueError(f"--umap {args.umap} is not among the labelled datasets of this run: {', '.join(names)}")
    seeds = [args.seed + repeat for repeat in range(SEEDS)]
    identity = identity_of(where, checkpoint, fingerprint(orthologs), args.seed)
    path = utils.clustering_results(args.save_result)
    table = utils.ResultTable.of(path, entries, seeds, identity, utils.CLUSTER_COLUMNS)
    left = utils.unfinished({"clus": table})
    for entry in (entry for entry in utils.mine(entries) if entry.name in left):
        dataset = where.prepare(entry, orthologs, data.log_normalised)
        data.report_overlap(dataset.names, checkpoint.genes, "the checkpoint")
        runs = {(arm, seed) for seed, of_seed in left[entry.name].items() for _, arm in of_seed}
        test(dataset, points_of(dataset, checkpoint, args.seed), seeds, runs, table)
    ranks.gathered(None)
    if not ranks.first():
        return
    log.log(RESULT, score.table(table.rows(), utils.ARMS, score.CLUSTER_METRICS))
    log.log(RESULT, f"{path} written")
    if args.umap != "none":
        entry = entry_to_draw(entries, args.umap, table.rows())
        dataset = where.prepare(entry, orthologs, data.log_normalised)
        points = points_of(dataset, checkpoint, args.seed)
        arms = dict(zip(utils.ARMS, (points[utils.ARMS[0]], points[DRAWN]), strict=True))
        for written in draw(dataset, arms, args.seed, flags.fill(utils.Pictures, args)):
            log.log(RESULT, f"{written} written")
    log.info(f"next: {flags.command_line('fig.py', args)}")


def test(
    dataset: data.Prepared,
    arms: dict[str, np.ndarray],
    seeds: Sequence[int],
    runs: set[tuple[str, int]],
    table: utils.ResultTable,
) -> None:
    """Cluster all with every seed and write the rows of these (arm, seed).

    The arm without pre-training is that baseline which has the best mean adjusted Rand index, in its favour.
    """
    rows = {arm: clusterings(dataset, points, arm, seeds, seeds[0]) for arm, points in arms.items()}
    plain = [name for name in arms if name not in (*utils.ARMS, utils.FROZEN)]
    best = max(plain, key=lambda name: np.mean([row["ari"] for row in rows[name]]))
    rows[utils.ARMS[1]] = [row | {"arm": utils.ARMS[1]} for row in rows[best]]
    for row in sorted((row for of_arm in rows.values() for row in of_arm), key=lambda row: row["arm"] in utils.ARMS):
        # the arms last: with them a run is finished
        if (utils.run_of(row["arm"]), row["seed"]) in runs:
            table.write(row)
    words = ", ".join(f"{np.mean([row['ari'] for row in of_arm]):.3f} {arm}" for arm, of_arm in rows.items())
    cells, types = len(dataset.types.labels), len(dataset.types.classes)
    log.info(
        f"{dataset.names.entry.name}: adjusted Rand index {words} (the best: {best}; {cells:,} cells, {types} types)"
    )


def points_of(dataset: data.Prepared, checkpoint: utils.Checkpoint, seed: int) -> dict[str, np.ndarray]:
    """The embedding (M, H) of all labelled cells, that of the frozen encoder, and each baseline's points (M, D).

    A checkpoint that knows no signal shares of genes has its frozen encoder for an embedding.
    """
    x, frozen = dataset.counts, recipes.frozen_points(dataset, checkpoint)
    arms = {utils.ARMS[0]: frozen}
    if checkpoint.shares is not None:
        arms = {utils.ARMS[0]: recipes.own_points(dataset, checkpoint, seed), utils.FROZEN: frozen}
    return arms | {name: made(x) for name, made in reduce.baselines(x, seed).items()}


def clusterings(
    dataset: data.Prepared, points: np.ndarray, arm: str, seeds: Sequence[int], sample_seed: int
) -> list[dict[str, object]]:
    """One row a seed: how k-means with k = number of types agrees with them; silhouette and Leiden, once for all."""
    labels, types = dataset.types.labels, len(dataset.types.classes)
    row = {"dataset": dataset.names.entry.name, "arm": arm, "n_cells": len(labels), "n_types": types}
    row["silhouette"] = silhouette(points, labels, sample_seed)
    graphs = cluster.leiden(points, LEIDEN, sample_seed)
    agree = {resolution: float(adjusted_rand_score(labels, found)) for resolution, found in graphs.items()}
    row |= {"leiden": agree[1.0], "leiden_best": max(agree.values())}
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


def identity_of(
    where: utils.Data, checkpoint: utils.Checkpoint, orthologs_hash: str, seed: int
) -> Callable[[data.Entry, str], str]:
    """A hash of all that the result of a dataset and an arm depends on, but for the seed of its k-means."""
    weights = {utils.ARMS[0]: checkpoint.identity(), utils.ARMS[1]: "best of four"}

    def identity(entry: data.Entry, arm: str) -> str:
        return fingerprint("clus", LEIDEN, seed, weights[arm], where.identity(entry, orthologs_hash))

    return identity


# -- pictures ----------------------------------------------------------------
def entry_to_draw(entries: Sequence[data.Entry], name: str | None, results: pd.DataFrame) -> data.Entry:
    """The dataset asked for, else the published one where it is there, else the one with most labelled cells."""
    by_name = {entry.name: entry for entry in entries}
    if name or PUBLISHED_PICTURE in by_name:
        return by_name[name or PUBLISHED_PICTURE]
    cells = results[results["dataset"].isin(list(by_name))].groupby("dataset")["n_cells"].max()
    return by_name[cells.idxmax()]


def draw(dataset: data.Prepared, arms: dict[str, np.ndarray], seed: int, pictures: utils.Pictures) -> list[Path]:
    """NAME_pretrain, NAME_without and NAME_both, in every format asked for; returns the files."""
    name, labels, classes = dataset.names.entry.name, dataset.types.labels, dataset.types.classes
    log.info(f"UMAP of {name}: {len(labels):,} cells, both arms")
    layouts = {arm: reduce.umap(points, seed) for arm, points in arms.items()}
    with rc_context(plot.STYLE):
        written = []
        kinds = {"pretrain": utils.ARMS[:1], "without": utils.ARMS[1:], "both": utils.ARMS}
        for suffix, shown in kinds.items():
            figure = picture(layouts, shown, labels, classes, name, seed)
            written += pictures.save(figure, f"{name}_{suffix}")
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
    titles = {utils.ARMS[0]: "scPretrain embedding", utils.ARMS[1]: "50 principal components (without pretraining)"}
    for axis, arm in zip(axes[0], shown, strict=True):
        plot.embedding(axis, layouts[arm], labels, len(classes), title=titles[arm], seed=seed)
    figure.suptitle(name, fontsize=11, fontweight="bold")
    plot.type_legend(figure, words)
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
