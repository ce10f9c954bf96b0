"""Pre-train the encoder (phase 1, phase 2), or fine-tune it and test it on every labelled dataset.

python main.py --is_pretrain --kmeans                       phase 1: pseudo-labels are clusters of the inputs
python main.py --is_pretrain --kmeans --pretrain_output     phase 2: clusters of the encoder's outputs
python main.py --kmeans                                     fine-tune and test, with against without pre-training

Recipes: scpretrain2 (log-normalised genes, every dataset; tested with the few-label classifier, the encoder frozen, and
test cells take part without their labels) and paper (as published). Phase 2 and testing go by the checkpoint's recipe.
"""

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_matrix

import data_loader as data
import recipes
import utils
from files import fingerprint
from model import CentredMultiTask, Encoder, MultiTask
from reading import align
from recipes import Corpus, Recipe, Test
from stages import cluster, score, train
from stages.batch import SparseRows

# What a checkpoint, or a result, depends on.
PRETRAIN_FLAGS = ("avg_cluster_num", "batch_num", "pt_lr", "pt_patience", "hid", "seed", "kmeans", "pca_pt", "pca_dim")
OF_PRETRAINING = ("avg_cluster_num", "batch_num", "pt_epoch", "pt_lr", "pt_patience", "recipe", "resume")
TEST_FLAGS = ("per_train", "per_val", "max_tr_num", "label_key", "layer", "use_raw", "species")


def main(argv: Sequence[str] | None = None) -> int:
    return utils.run(command, utils.build_parser(__doc__), argv)


def command(args: argparse.Namespace) -> None:
    device = utils.pick_device(args.cuda)
    utils.seed_everything(args.seed)
    if args.is_pretrain:
        pretrain(args, device)
    else:
        finetune_and_test(args, device)


def file_values(args: argparse.Namespace) -> dict[str, object]:
    return utils.flags(args, utils.VALUE_FLAGS)


# -- pre-training ----------------------------------------------------------------
def pretrain(args: argparse.Namespace, device: torch.device) -> None:
    """Phase 1, or with --pretrain_output phase 2: cluster every dataset, train one encoder on all of it."""
    start = utils.load_checkpoint(args.pretrained_model, gene_list=args.gene_list) if args.pretrain_output else None
    recipe = recipes.chosen(args, start)
    if start and start.encoder.hidden != args.hid:
        raise ValueError(
            f"{args.pretrained_model} has {start.encoder.hidden} hidden units; use --hid {start.encoder.hidden}"
        )
    entries = data.wanted(**utils.flags(args, utils.DATA_FLAGS), labelled_because=recipe.why_labelled)
    cache = data.cache_in(args.data_dir, args.cache_dir)
    named = data.gene_names(entries, data.orthologs(args.data_dir, offline=args.offline), **file_values(args))
    species = [names.entry.species for names in named]
    genes = start.genes if start else align.vocabulary([names.genes for names in named], species)
    if not genes:
        raise ValueError(
            "the datasets share no gene: "
            + "; ".join(
                f"{names.entry.name} ({names.entry.species}): {', '.join(names.genes[:3])}" for names in named[:6]
            )
            + ". Are these gene symbols, and is the species right (--species)?"
        )
    of = "the checkpoint" if start else "the corpus"
    for names in named:
        data.report_overlap(names, genes, of)
    genes_hash = fingerprint(genes)
    matrices = [data.aligned(names, genes, cache, genes_hash, **recipe.reading, **file_values(args)) for names in named]
    cells = sum(matrix.shape[0] for matrix in matrices)
    kinds = ", ".join(sorted(set(species)))
    print(f"recipe {recipe.name}: {len(named)} datasets, {cells:,} cells, {len(genes):,} genes ({kinds})")

    method = "kmeans" if args.kmeans else "agglomerative"
    begin = time.perf_counter()
    encoder = start.encoder.to(device) if start else None
    labels = [
        pseudo_labels(recipe, names, matrix, encoder, start, cache, genes_hash, method, args, device)
        for names, matrix in zip(named, matrices, strict=True)
    ]
    corpus = Corpus(named, genes, matrices, labels)
    print(
        f"pseudo-labels by {method} of the {'encoder outputs' if start else 'inputs'}: "
        f"{sum(map(sum, corpus.partitions)):,} clusters in {time.perf_counter() - begin:.1f} s"
    )

    utils.seed_everything(args.seed)
    model, optimizer, how = recipe.training(corpus, encoder, args, device)
    tasks = [
        train.Task(
            names.entry.name, SparseRows(matrix, device, log1p=recipe.log1p), torch.from_numpy(targets).to(device)
        )
        for names, matrix, targets in zip(named, matrices, labels, strict=True)
    ]

    settings = utils.flags(args, PRETRAIN_FLAGS)
    identity = fingerprint(
        recipe.name,
        settings,
        genes_hash,
        [(names.entry.name, fingerprint(names.genes), data.stamp_of(names.entry.path)) for names in named],
        file_values(args),
        start.identity() if start else None,
        device.type,
        *([how["epochs"]] if "schedule" in how else []),  # a schedule of so many steps
    )
    progress = train_with_state(model, tasks, optimizer, args, identity, **how)

    phase = start.phase + 1 if start else 1
    utils.save_checkpoint(
        args.save_model,
        utils.Checkpoint(
            recipe.encoder(model),
            genes,
            recipe=recipe.name,
            phase=phase,
            species=sorted(set(species)),
            datasets=[names.entry.name for names in named],
            settings=settings | {"pt_epoch": how["epochs"]},
            history=(start.history if start else []) + progress.history,
        ),
    )
    utils.state_path(args.save_model).unlink(missing_ok=True)
    again = f", run {phase - 1} of it" if phase > 2 else ""
    print(
        f"phase {min(phase, 2)}{again}: {progress.epoch} epochs, lowest loss {progress.best_loss:.4f}; "
        f"{args.save_model} written"
    )
    saved = {"pretrained_model"} if "save_model" in args.given else set()
    after = argparse.Namespace(**vars(args) | {"pretrained_model": args.save_model, "given": args.given | saved})
    if not start:
        words = f"main.py --is_pretrain --kmeans --pretrain_output --save_model {args.save_model}"
        print(f"next, phase 2: {utils.command_line(words, after)}")
    print(f"next: {utils.command_line('main.py --kmeans', after)}")


def pseudo_labels(
    recipe: Recipe,
    names: data.Names,
    matrix: csr_matrix,
    encoder: Encoder | None,
    start: utils.Checkpoint | None,
    cache: data.Cache,
    genes_hash: str,
    method: str,
    args: argparse.Namespace,
    device: torch.device,
) -> np.ndarray:
    """The clusters (N, 3) of one dataset, from the cache where they are there: of inputs, or of encoder outputs."""
    sizes = recipe.sizes(matrix.shape[0], args)

    def make() -> dict[str, np.ndarray]:
        points = recipe.points(matrix, encoder, args, device)
        return {"labels": cluster.pseudo_labels(points, sizes, method=method, seed=args.seed, spread=recipe.spread)}

    entry = names.entry
    key = (
        str(entry.path.resolve()),
        data.stamp_of(entry.path),
        genes_hash,
        fingerprint(names.genes),
        args.layer,
        args.use_raw,
        start.identity() if start else None,
        method,
        sizes,
        args.seed,
        device.type,
        *([] if recipe.name == "paper" else [recipe.name]),
    )
    return np.array(cache.arrays("labels", entry.name, key, make)["labels"])


def train_with_state(
    model: MultiTask | CentredMultiTask,
    tasks: list[train.Task],
    optimizer: torch.optim.Optimizer,
    args: argparse.Namespace,
    identity: str,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    **how: object,
) -> train.Progress:
    """Train; after every epoch the state is on disk, and with --resume the run goes on from there."""
    path = utils.state_path(args.save_model)
    progress = train.Progress()
    if args.resume:
        state = utils.load_state(path, identity)
        if state:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            if schedule:
                schedule.load_state_dict(state["schedule"])
            progress = train.Progress(**state["progress"])
            print(f"resumed after epoch {progress.epoch} from {path}")
        else:
            print(f"nothing to resume ({path} is not there): starting from the beginning")

    def chance_of(epoch: int) -> None:
        torch.manual_seed(args.seed * 100_003 + epoch)  # genes left out: the same in a resumed run

    def save(progress: train.Progress) -> None:
        chance_of(progress.epoch)
        utils.save_state(
            path,
            {
                "identity": identity,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict() if schedule else None,
                "progress": vars(progress),
            },
        )

    chance_of(progress.epoch)
    return train.pretrain(
        model,
        tasks,
        optimizer,
        steps=args.batch_num,
        seed=args.seed,
        schedule=schedule,
        progress=progress,
        after_epoch=save,
        **how,
    )


# -- fine-tuning and testing ----------------------------------------------------------------
def finetune_and_test(args: argparse.Namespace, device: torch.device) -> None:
    """Both arms on every labelled dataset, the same split and the same first weights for both; then the table."""
    checkpoint = utils.checkpoint_of(args)
    recipe = recipes.of_checkpoint(checkpoint, args)
    recipes.without_effect(sorted(args.given.intersection(OF_PRETRAINING)), "testing (without --is_pretrain)")
    if checkpoint.encoder.hidden != args.hid:
        raise ValueError(
            f"{args.pretrained_model} has {checkpoint.encoder.hidden} hidden units; use --hid "
            f"{checkpoint.encoder.hidden}"
        )
    entries = data.wanted(**utils.flags(args, utils.DATA_FLAGS), labelled_because="there is nothing to test on")
    table = data.orthologs(args.data_dir, offline=args.offline)
    table_hash = fingerprint(table)
    csv_path = args.save_result.with_suffix(".csv")
    seeds = [args.seed + repeat for repeat in range(args.fold1 * args.fold2)]
    wanted = {
        (entry.name, arm, seed): run_identity(recipe, entry, arm, checkpoint, table_hash, args)
        for entry in entries
        for arm in utils.ARMS
        for seed in seeds
    }
    todo = utils.unfinished(csv_path, wanted)
    for entry in entries:
        if not any(name == entry.name for name, _, _ in todo):
            continue
        normalise = recipe.reading.get("normalise")
        dataset = data.prepare(entry, table, label_key=args.label_key, normalise=normalise, **file_values(args))
        data.report_overlap(dataset.names, checkpoint.genes, "the checkpoint")
        for seed in sorted({seed for name, _, seed in todo if name == entry.name}):
            parts = data.split_of(dataset, seed, args.per_train, args.per_val, args.max_tr_num)
            for arm in utils.ARMS:
                if run := todo.get((entry.name, arm, seed)):
                    test = Test(dataset, arm, checkpoint, parts, seed)
                    row = test_arm(recipe, test, args, device) | {"run": run}
                    utils.write_result(csv_path, row)
                    print(
                        f"{entry.name}, {arm}, seed {seed}: accuracy {row['accuracy']:.3f}, kappa {row['kappa']:.3f}, "
                        f"macro F1 {row['macro_f1']:.3f} on {row['n_test']:,} cells in {row['seconds']:.1f} s"
                    )
    results = utils.results_of(csv_path, wanted)
    utils.write_published(args.save_result, results)
    print(score.table(results, utils.ARMS, score.METRICS))
    print(f"{csv_path} and {args.save_result} written")


def run_identity(
    recipe: Recipe,
    entry: data.Entry,
    arm: str,
    checkpoint: utils.Checkpoint,
    table_hash: str,
    args: argparse.Namespace,
) -> str:
    """A hash of all that a result depends on, but for its seed: a result made otherwise is made again."""
    weights = checkpoint.identity() if arm == utils.ARMS[0] else None
    settings = utils.flags(args, TEST_FLAGS) | recipe.tested_with(args)
    names = None if entry.species == "mouse" else table_hash  # mouse genes need no ortholog table
    return fingerprint("finetune", settings, weights, entry.species, names, data.stamp_of(entry.path))


def test_arm(recipe: Recipe, test: Test, args: argparse.Namespace, device: torch.device) -> dict[str, object]:
    """Teach one arm the training cells of a split; its row of the result table, scored on the test cells."""
    begin = time.perf_counter()
    outputs = recipe.outputs(test, args, device)
    types, parts = test.dataset.types, test.parts
    row = {"dataset": test.dataset.names.entry.name, "arm": test.arm, "seed": test.seed}
    row |= {"n_train": len(parts.train), "n_test": len(parts.test)}
    row |= score.scores(types.labels[parts.test], outputs)
    return row | {"seconds": time.perf_counter() - begin}


if __name__ == "__main__":
    raise SystemExit(main())
