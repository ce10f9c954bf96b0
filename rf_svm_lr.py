"""Classifiers off the shelf on the frozen embedding, against the best of four kinds of principal components.

python rf_svm_lr.py                     linear SVM, random forest, logistic regression and kNN, published settings
python rf_svm_lr.py --clf svm           one of them: svm, rf, lr, knn
python rf_svm_lr.py --clf lr --tuned    C (or depth, k) by cross-validation inside the training cells
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence

import flags


def parser() -> flags.Parser:
    shown = flags.data, flags.encoder, flags.splits, flags.off_the_shelf, flags.results, flags.running
    return flags.build_parser(__doc__, *shown)


if __name__ == "__main__":
    flags.answer(parser(), flags.check_paths)

import numpy as np
from threadpoolctl import threadpool_limits

import data_loader as data
import ranks
import recipes
import utils
from files import fingerprint
from stages import off_the_shelf, reduce, score
from voice import RESULT, log


def main(argv: Sequence[str] | None = None) -> int:
    return flags.run(command, parser(), argv, check_paths=flags.check_paths)


@ranks.joined()
def command(args: argparse.Namespace) -> None:
    """Both arms under each classifier on every labelled dataset, on the splits of main.py; then the tables."""
    device = utils.pick_device(args.cuda)
    utils.seed_everything(args.seed)
    checkpoint = utils.load_checkpoint(args.pretrained_model, gene_list=args.gene_list)
    checkpoint.encoder.to(device)
    where, splits = flags.fill(utils.Data, args), flags.fill(utils.Splits, args)
    with ranks.one_first():
        entries, orthologs = where.entries("there is nothing to train a classifier on"), where.orthologs()
    tables = {}
    for kind in flags.CLASSIFIERS if args.clf == "all" else (args.clf,):
        identity = identity_of(kind, where, checkpoint, splits, fingerprint(orthologs), args.tuned)
        path = utils.classifier_results(args.save_result, kind, args.tuned)
        tables[kind] = utils.ResultTable.of(path, entries, splits.seeds, identity)
    left = utils.unfinished(tables)
    unsettled: Counter[str] = Counter()
    for entry in (entry for entry in utils.mine(entries) if entry.name in left):
        dataset = where.prepare(entry, orthologs, data.log_normalised)
        data.report_overlap(dataset.names, checkpoint.genes, "the checkpoint")
        for seed, runs in left[entry.name].items():
            parts = splits.of(dataset, seed)
            arms = arms_of_split(dataset, checkpoint, parts, seed)
            unsettled += test(dataset, arms, parts, seed, runs, tables, args.tuned)
    unsettled = sum(ranks.gathered(unsettled), Counter())
    if not ranks.first():
        return
    for kind, table in tables.items():
        words = f"{kind}{', tuned' if args.tuned else ''}"
        log.log(RESULT, f"{words}:{score.table(table.rows(), utils.ARMS, score.METRICS).rstrip()}")
        if unsettled[kind]:
            log.info(f"{kind}: {unsettled[kind]} fits stopped at their last iteration before they converged")
    log.log(RESULT, f"{', '.join(str(table.path) for table in tables.values())} written")
    log.info(f"next: {flags.command_line('fig.py', args)}")


def test(
    dataset: data.Prepared,
    arms: dict[str, tuple[np.ndarray, np.ndarray]],
    parts: data.Split,
    seed: int,
    runs: Sequence[tuple[str, str]],
    tables: dict[str, utils.ResultTable],
    tuned: bool,
) -> Counter[str]:
    """Write the rows of these (classifier, arm) on one split; returns how many fits of each did not converge.

    The arm without pre-training is that baseline which has the best macro F1 on the test cells, in its favour.
    """
    name = dataset.names.entry.name
    unsettled: Counter[str] = Counter()
    for kind, arm in runs:
        rows = {}
        for points in [one for one in arms if utils.run_of(one) == arm]:
            row, converged = test_arm(kind, arms[points], dataset, parts, seed, tuned)
            rows[points] = row | {"dataset": name, "arm": points, "seed": seed}
            unsettled[kind] += not converged
        best = arm if arm in arms else max(rows, key=lambda points: rows[points]["macro_f1"])
        others = [row for points, row in rows.items() if points != arm]
        for row in (*others, rows[best] | {"arm": arm}):  # the arm last: with it the run is finished
            tables[kind].write(row)
        what, found = arm if best == arm else f"{arm} ({best})", rows[best]
        log.info(f"{name}, {kind}, seed {seed}: macro F1 {found['macro_f1']:.3f} {what}, {found['n_test']:,} cells")
    return unsettled


def arms_of_split(
    dataset: data.Prepared, checkpoint: utils.Checkpoint, parts: data.Split, seed: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The embedding, the frozen encoder and each baseline: points of training and of test cells, the same for all.

    Map and baselines are fitted on training cells only. A checkpoint that knows no signal shares of genes has its
    frozen encoder for an embedding.
    """
    train, test = dataset.counts[parts.train], dataset.counts[parts.test]
    points = {utils.ARMS[0]: recipes.frozen_points(dataset, checkpoint)}
    if checkpoint.shares is not None:
        points = {
            utils.ARMS[0]: recipes.own_points(dataset, checkpoint, seed, parts.train),
            utils.FROZEN: points[utils.ARMS[0]],
        }
    arms = {name: (whole[parts.train], whole[parts.test]) for name, whole in points.items()}
    return arms | {name: (made(train), made(test)) for name, made in reduce.baselines(train, seed).items()}


def test_arm(
    kind: str,
    points: tuple[np.ndarray, np.ndarray],
    dataset: data.Prepared,
    parts: data.Split,
    seed: int,
    tuned: bool,
) -> tuple[dict[str, object], bool]:
    """The scores of one classifier on the test cells, and whether its solver converged."""
    begin = time.perf_counter()
    labels = dataset.types.labels
    with threadpool_limits(1, user_api="blas"):  # the same digits on any number of cores
        fitted = off_the_shelf.fit(kind, points[0], labels[parts.train], seed=seed, tuned=tuned)
        outputs = fitted.outputs(points[1], len(dataset.types.classes))  # (n_test, L)
    row: dict[str, object] = {"n_train": len(parts.train), "n_test": len(parts.test)}
    row |= score.scores(labels[parts.test], outputs)
    return row | {"seconds": time.perf_counter() - begin}, fitted.converged


def identity_of(
    kind: str,
    where: utils.Data,
    checkpoint: utils.Checkpoint,
    splits: utils.Splits,
    orthologs_hash: str,
    tuned: bool,
) -> Callable[[data.Entry, str], str]:
    """A hash of all that the result of a dataset and an arm depends on, but for its seed."""
    weights = {utils.ARMS[0]: checkpoint.identity(), utils.ARMS[1]: "best of four"}
    usual = off_the_shelf.make(kind, off_the_shelf.USUAL[kind], 1000, 0).get_params()
    how = "classifier", kind, usual, off_the_shelf.GRIDS[kind] if tuned else None, splits.settings()

    def identity(entry: data.Entry, arm: str) -> str:
        return fingerprint(*how, weights[arm], where.identity(entry, orthologs_hash))

    return identity


if __name__ == "__main__":
    raise SystemExit(main())
