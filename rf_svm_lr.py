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

import data_loader as data
import utils
from files import fingerprint
from model import embed_counts
from reading import align
from stages import off_the_shelf, reduce, score
from voice import RESULT, log


def main(argv: Sequence[str] | None = None) -> int:
    return flags.run(command, parser(), argv, check_paths=flags.check_paths)


def command(args: argparse.Namespace) -> None:
    """Both arms under each classifier on every labelled dataset, on the splits of main.py; then the tables."""
    device = utils.pick_device(args.cuda)
    utils.seed_everything(args.seed)
    checkpoint = utils.load_checkpoint(args.pretrained_model, gene_list=args.gene_list)
    checkpoint.encoder.to(device)
    where, splits = flags.fill(utils.Data, args), flags.fill(utils.Splits, args)
    entries, orthologs = where.entries("there is nothing to train a classifier on"), where.orthologs()
    tables = {}
    for kind in flags.CLASSIFIERS if args.clf == "all" else (args.clf,):
        identity = identity_of(kind, where, checkpoint, splits, fingerprint(orthologs), args.tuned)
        path = utils.classifier_results(args.save_result, kind, args.tuned)
        tables[kind] = utils.ResultTable.of(path, entries, splits.seeds, identity)
    left = utils.unfinished(tables)
    unsettled: Counter[str] = Counter()
    for entry in (entry for entry in entries if entry.name in left):
        dataset = where.prepare(entry, orthologs, data.log_normalised)
        embedding = embedding_of(dataset, checkpoint)  # (M, H)
        for seed, runs in left[entry.name].items():
            unsettled += test(dataset, embedding, splits.of(dataset, seed), seed, runs, tables, args.tuned)
    for kind, table in tables.items():
        words = f"{kind}{', tuned' if args.tuned else ''}"
        log.log(RESULT, f"{words}:{score.table(table.rows(), utils.ARMS, score.METRICS).rstrip()}")
        if unsettled[kind]:
            log.info(f"{kind}: {unsettled[kind]} fits stopped at their last iteration before they converged")
    log.log(RESULT, f"{', '.join(str(table.path) for table in tables.values())} written")
    log.info(f"next: {flags.command_line('fig.py', args)}")


def embedding_of(dataset: data.Prepared, checkpoint: utils.Checkpoint) -> np.ndarray:
    """The frozen encoder's outputs (M, H) for all labelled cells."""
    data.report_overlap(dataset.names, checkpoint.genes, "the checkpoint")
    columns = align.align(dataset.counts, dataset.genes, checkpoint.genes)
    return embed_counts(checkpoint.encoder, columns, log1p=False)


def test(
    dataset: data.Prepared,
    embedding: np.ndarray,
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
    arms = arms_of_split(dataset, embedding, parts, seed)
    unsettled: Counter[str] = Counter()
    for kind, arm in runs:
        rows = {}
        for points in [arm] if arm in arms else [one for one in arms if one not in utils.ARMS]:
            row, converged = test_arm(kind, arms[points], dataset, parts, seed, tuned)
            rows[points] = row | {"dataset": name, "arm": points, "seed": seed}
            unsettled[kind] += not converged
        best = max(rows, key=lambda points: rows[points]["macro_f1"])
        for row in (*rows.values(), rows[best] | {"arm": arm}):  # the arm last: with it the run is finished
            tables[kind].write(row)
        what, found = arm if best == arm else f"{arm} ({best})", rows[best]
        log.info(f"{name}, {kind}, seed {seed}: macro F1 {found['macro_f1']:.3f} {what}, {found['n_test']:,} cells")
    return unsettled


def arms_of_split(
    dataset: data.Prepared, embedding: np.ndarray, parts: data.Split, seed: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The embedding and each baseline: the points of training and of test cells, the same cells for all."""
    train, test = dataset.counts[parts.train], dataset.counts[parts.test]
    points = {utils.ARMS[0]: (embedding[parts.train], embedding[parts.test])}
    plain = reduce.baselines(train, seed)  # fitted on training cells only
    return points | {name: (made(train), made(test)) for name, made in plain.items()}


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
