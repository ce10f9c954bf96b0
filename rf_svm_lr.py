"""Classifiers off the shelf on the frozen embedding, against principal components of the same cells.

python rf_svm_lr.py                     linear SVM, random forest, logistic regression and kNN, published settings
python rf_svm_lr.py --clf svm           one of them: svm, rf, lr, knn
python rf_svm_lr.py --clf lr --tuned    C (or depth, k) by cross-validation inside the training cells
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np

import data_loader as data
import utils
from files import fingerprint
from model import embed_counts
from reading import align
from stages import off_the_shelf, reduce, score

SPLIT_FLAGS = ("per_train", "per_val", "max_tr_num")


def main(argv: Sequence[str] | None = None) -> int:
    return utils.run(command, utils.build_parser(__doc__), argv)


def command(args: argparse.Namespace) -> None:
    """Both arms under each classifier on every labelled dataset, on the splits of main.py; then the tables."""
    device = utils.pick_device(args.cuda)
    utils.seed_everything(args.seed)
    kinds = utils.CLASSIFIERS if args.clf == "all" else (args.clf,)
    checkpoint = utils.checkpoint_of(args)
    checkpoint.encoder.to(device)
    entries = data.wanted(
        **utils.flags(args, utils.DATA_FLAGS), labelled_because="there is nothing to train a classifier on"
    )
    table = data.orthologs(args.data_dir, offline=args.offline)
    seeds = [args.seed + repeat for repeat in range(args.fold1 * args.fold2)]
    wanted = {
        kind: {
            (entry.name, arm, seed): run_identity(entry, kind, arm, checkpoint, fingerprint(table), args)
            for entry in entries
            for arm in utils.ARMS
            for seed in seeds
        }
        for kind in kinds
    }
    files = {kind: utils.classifier_results(args.save_result, kind, args.tuned) for kind in kinds}
    todo = {kind: utils.unfinished(files[kind], wanted[kind]) for kind in kinds}
    unsettled: Counter[str] = Counter()
    for entry in entries:
        left = {(name, seed) for runs in todo.values() for name, _, seed in runs if name == entry.name}
        if not left:
            continue
        dataset = data.prepare(
            entry,
            table,
            label_key=args.label_key,
            normalise=data.log_normalised,
            **utils.flags(args, utils.VALUE_FLAGS),
        )
        data.report_overlap(dataset.names, checkpoint.genes, "the checkpoint")
        embedding = embed_counts(
            checkpoint.encoder, align.align(dataset.counts, dataset.genes, checkpoint.genes), log1p=False
        )  # (M, H)
        for _, seed in sorted(left):
            parts = data.split_of(dataset, seed, **flags_of_split(args))
            arms = arms_of_split(dataset, embedding, parts, seed)
            for kind in kinds:
                rows = []
                for arm in utils.ARMS:
                    if run := todo[kind].get((entry.name, arm, seed)):
                        row, converged = test_arm(kind, arms[arm], dataset, parts, seed, args.tuned)
                        row |= {"dataset": entry.name, "arm": arm, "seed": seed, "run": run}
                        utils.write_result(files[kind], row)
                        unsettled[kind] += not converged
                        rows.append(row)
                if rows:
                    words = ", ".join(f"{row['macro_f1']:.3f} {row['arm']}" for row in rows)
                    print(f"{entry.name}, {kind}, seed {seed}: macro F1 {words} ({rows[0]['n_test']:,} cells)")
    for kind in kinds:
        print(f"\n{kind}{', tuned' if args.tuned else ''}:", end="")
        print(score.table(utils.results_of(files[kind], wanted[kind]), utils.ARMS, score.METRICS), end="")
        if unsettled[kind]:
            print(f"{unsettled[kind]} of {len(todo[kind])} fits stopped at their last iteration before they converged")
    print(f"\n{', '.join(str(path) for path in files.values())} written\nnext: {utils.command_line('fig.py', args)}")


def flags_of_split(args: argparse.Namespace) -> dict[str, float]:
    return {"per_train": args.per_train, "per_val": args.per_val, "most": args.max_tr_num}


def arms_of_split(
    dataset: data.Prepared, embedding: np.ndarray, parts: data.Split, seed: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each arm the points of training and of test cells: the same cells, as many dimensions at most."""
    train, test = dataset.counts[parts.train], dataset.counts[parts.test]
    fitted = reduce.components(train, embedding.shape[1], seed=seed)  # on training cells only; 200 as published
    points = (
        (embedding[parts.train], embedding[parts.test]),
        (reduce.project(train, *fitted), reduce.project(test, *fitted)),
    )
    return dict(zip(utils.ARMS, points, strict=True))


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


def run_identity(
    entry: data.Entry, kind: str, arm: str, checkpoint: utils.Checkpoint, table_hash: str, args: argparse.Namespace
) -> str:
    """A hash of all that a result depends on, but for its seed."""
    settings = utils.flags(args, (*SPLIT_FLAGS, "label_key", *utils.VALUE_FLAGS, "species"))
    weights = checkpoint.identity() if arm == utils.ARMS[0] else checkpoint.encoder.hidden
    names = None if entry.species == "mouse" else table_hash  # mouse genes need no ortholog table
    usual = off_the_shelf.make(kind, off_the_shelf.USUAL[kind], 1000, 0).get_params()
    how = "classifier", kind, usual, off_the_shelf.GRIDS[kind] if args.tuned else None
    return fingerprint(*how, settings, weights, entry.species, names, data.stamp_of(entry.path))


if __name__ == "__main__":
    raise SystemExit(main())
