"""Pre-train the encoder (phase 1, phase 2), or fine-tune it and test it on every labelled dataset.

python main.py --is_pretrain --kmeans                       phase 1: pseudo-labels are clusters of the inputs
python main.py --is_pretrain --kmeans --pretrain_output     phase 2: clusters of the encoder's outputs
python main.py --kmeans                                     fine-tune and test, with against without pre-training
torchrun --nproc_per_node 4 main.py ...                     any of them by 4 processes that share the work

Recipes: scpretrain2 (log-normalised genes, every dataset; tested with the few-label classifier, the encoder frozen, and
test cells take part without their labels) and paper (as published). Phase 2 and testing go by the checkpoint's recipe.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import flags


def parser() -> flags.Parser:
    shown = flags.data, flags.cache, flags.pretraining, flags.encoder, flags.splits, flags.network, flags.results
    return flags.build_parser(__doc__, *shown, flags.running)


if __name__ == "__main__":
    flags.answer(parser(), flags.check_paths)

import numpy as np
import torch
from scipy.sparse import csr_matrix

import data_loader as data
import ranks
import recipes
import utils
from files import clear_parts, fingerprint, locked
from reading import align
from recipes import Corpus, Recipe, Test, Training
from stages import embedding, score, train
from stages.batch import SparseRows, part
from voice import RESULT, log


def main(argv: Sequence[str] | None = None) -> int:
    return flags.run(command, parser(), argv, check_paths=flags.check_paths)


@ranks.joined()
def command(args: argparse.Namespace) -> None:
    """Hand the flags on as what they set: data, checkpoint, recipe; then pre-train, or fine-tune and test."""
    device = utils.pick_device(args.cuda)
    utils.seed_everything(args.seed)
    where = flags.fill(utils.Data, args)
    wanted = recipes.Wanted(args.recipe, str(args.pretrained_model), args.given, partial(flags.fill, args=args))
    start = None
    if args.pretrain_output or not args.is_pretrain:
        start = utils.load_checkpoint(args.pretrained_model, gene_list=args.gene_list)
    recipe = recipes.chosen(wanted, start) if args.is_pretrain else recipes.of_checkpoint(start, wanted)
    if start and start.encoder.hidden != args.hid:
        hidden = start.encoder.hidden
        raise ValueError(f"{args.pretrained_model} has {hidden} hidden units; use --hid {hidden}")
    if args.is_pretrain:
        cache = data.cache_in(args.data_dir, args.cache_dir)
        with locked(args.save_model, wait=0) if ranks.first() else nullcontext():  # two runs would write one state
            pretrain(
                recipe,
                Cells(where, cache, device, utils.bf16(device, args.mixed)),
                start,
                args.save_model,
                resume=args.resume,
            )
        after = flags.after_saving(args)
        if not start:
            words = f"main.py --is_pretrain --kmeans --pretrain_output --save_model {args.save_model}"
            log.info(f"next, phase 2: {flags.command_line(words, after)}")
        log.info(f"next: {flags.command_line('main.py --kmeans', after)}")
    else:
        splits = flags.fill(utils.Splits, args)
        finetune_and_test(recipe, where, start, splits, args.save_result, device)
        for words in ("rf_svm_lr.py", "clus.py", "fig.py"):
            log.info(f"next: {flags.command_line(words, args)}")


# -- pre-training ----------------------------------------------------------------
@dataclass(frozen=True)
class Cells:
    """Where the cells of a pre-training run come from, where they are kept and where they are worked on."""

    where: utils.Data
    cache: data.Cache
    device: torch.device
    bf16: bool = False  # products of training


def pretrain(recipe: Recipe, cells: Cells, start: utils.Checkpoint | None, save_model: Path, *, resume: bool) -> None:
    """Phase 1, or with a checkpoint to start from phase 2: cluster every dataset, train one encoder on all of it."""
    with ranks.one_first():  # what is to be fetched is fetched once
        entries, orthologs = cells.where.entries(recipe.why_labelled), cells.where.orthologs()
    named = data.gene_names(entries, orthologs, **cells.where.values)
    genes = start.genes if start else vocabulary(named)
    matrices = matrices_of(recipe, cells, named, genes, "the checkpoint" if start else "the corpus")  # (N, G) each
    labels = labels_of(recipe, cells, named, matrices, genes, start)  # (N, P) each
    corpus = Corpus(genes, [np.isin(genes, names.genes) for names in named], matrices, labels)

    utils.seed_everything(recipe.seed)
    training = recipe.network(corpus, start.encoder if start else None, cells.device)
    identity = run_identity(recipe, cells, named, genes, start)
    tasks = [
        task_of(names, matrix, targets, cells.device, log1p=recipe.log1p)
        for names, matrix, targets in zip(named, matrices, labels, strict=True)
    ]
    of_all_weights = run_identity(recipe, cells, named, genes, None)
    asked = fingerprint(2 if start else 1, training.epochs, of_all_weights)
    state = utils.state_path(save_model)
    finished = partial(utils.is_finished, save_model, start, identity, asked, resume=resume)
    if ranks.from_first(finished):
        if ranks.first():
            clear_parts(save_model)
            state.unlink(missing_ok=True)
        words = "trains on" if start else "trains anew"
        log.log(RESULT, f"this run was finished: {save_model} is what it made; without --resume the command {words}")
        return
    progress = train_with_state(recipe, training, tasks, state, identity, bf16=cells.bf16, resume=resume)

    phase = start.phase + 1 if start else 1
    made = utils.Checkpoint(
        recipe.encoder(training.model),
        genes,
        recipe=recipe.name,
        phase=phase,
        species=sorted({names.entry.species for names in named}),
        datasets=[names.entry.name for names in named],
        settings=recipe.settings() | {"pt_epoch": training.epochs},
        history=(start.history if start else []) + progress.history,
        run=identity,
        asked=asked,
        shares=shares_of(recipe, cells, named, corpus) if recipe.keeps_shares else None,
    )
    if ranks.first():
        utils.save_checkpoint(save_model, made)
        state.unlink(missing_ok=True)
    again = f", run {phase - 1} of it" if phase > 2 else ""
    said = f"phase {min(phase, 2)}{again}: {progress.epoch} epochs, lowest loss {progress.best_loss:.4f}"
    log.log(RESULT, f"{said}; {save_model} written")


def task_of(
    names: data.Names, matrix: csr_matrix, targets: np.ndarray, device: torch.device, *, log1p: bool
) -> train.Task:
    """A dataset as `train.pretrain` takes it: with many processes each holds its part of the cells (N, G)."""
    own = ranks.share(matrix.shape[0])
    rows = SparseRows(part(matrix, own), device, log1p=log1p)
    return train.Task(names.entry.name, rows, torch.from_numpy(targets[own]).to(device), own.start, matrix.shape[0])


def vocabulary(named: Sequence[data.Names]) -> list[str]:
    """The genes of a new encoder. Raises ValueError where the datasets share none."""
    genes = align.vocabulary([names.genes for names in named], [names.entry.species for names in named])
    if not genes:
        examples = "; ".join(
            f"{names.entry.name} ({names.entry.species}): {', '.join(names.genes[:3])}" for names in named[:6]
        )
        raise ValueError(
            f"the datasets share no gene: {examples}. Are these gene symbols, and is the species right (--species)?"
        )
    return genes


def matrices_of(
    recipe: Recipe, cells: Cells, named: Sequence[data.Names], genes: list[str], of: str
) -> list[csr_matrix]:
    """Every dataset's cells (N, G) on the scale of the recipe, from the cache where they are there."""
    for names in named:
        data.report_overlap(names, genes, of)
    how = {"normalise": recipe.normalise, "recipe": recipe.scale, **cells.where.values}

    def aligned(names: data.Names) -> csr_matrix:
        return data.aligned(names, genes, cells.cache, fingerprint(genes), **how)

    if ranks.size() > 1 and cells.cache.folder:  # each is made by one process, then all of them find it
        ranks.spread(lambda names: aligned(names).shape, named, sizes_of(named))
    found = [aligned(names) for names in named]
    count = sum(matrix.shape[0] for matrix in found)
    species = ", ".join(sorted({names.entry.species for names in named}))
    log.info(f"recipe {recipe.name}: {len(named)} datasets, {count:,} cells, {len(genes):,} genes ({species})")
    return found


def sizes_of(named: Sequence[data.Names]) -> list[int]:
    """Bytes of each dataset's files: what its reading costs, next to the others'."""
    return [sum(size for _, size, _ in data.stamp_of(names.entry.path)) for names in named]


def labels_of(
    recipe: Recipe,
    cells: Cells,
    named: Sequence[data.Names],
    matrices: Sequence[csr_matrix],
    genes: list[str],
    start: utils.Checkpoint | None,
) -> list[np.ndarray]:
    """The pseudo-labels (N, 3) of every dataset, from the cache where they are there."""
    begin = time.perf_counter()
    encoder = start.encoder.to(cells.device) if start else None
    method, genes_hash = recipes.method_of(recipe), fingerprint(genes)

    def labels(which: int) -> np.ndarray:
        names, matrix = named[which], matrices[which]
        path = names.entry.path
        key = (
            *(str(path.resolve()), data.stamp_of(path), fingerprint(names.genes), genes_hash, cells.where.values),
            *(recipe.name, recipe.sizes(matrix.shape[0]), method, recipe.seed, cells.device.type),
            start.identity() if start else None,
        )
        make = partial(_labels, recipe, matrix, encoder, cells.device)
        return np.array(cells.cache.arrays("labels", names.entry.name, key, make)["labels"])

    found = ranks.spread(labels, range(len(named)), [matrix.nnz for matrix in matrices])
    clusters = sum(int(targets.max(axis=0).sum()) + targets.shape[1] for targets in found)
    of = "encoder outputs" if start else "inputs"
    log.info(f"pseudo-labels by {method} of the {of}: {clusters:,} clusters in {time.perf_counter() - begin:.1f} s")
    return found


def _labels(recipe: Recipe, matrix: csr_matrix, *where: object) -> dict[str, np.ndarray]:
    return {"labels": recipe.pseudo_labels(matrix, *where)}


def shares_of(recipe: Recipe, cells: Cells, named: Sequence[data.Names], corpus: Corpus) -> torch.Tensor:
    """The genes' signal shares (G,) in the corpus: the mean over datasets that have a gene, by the root of their cells.

    Those of a dataset come from the cache where they are there.
    """
    genes_hash = fingerprint(corpus.genes)

    def shares(which: int) -> np.ndarray:
        names, matrix = named[which], corpus.matrices[which]
        path = names.entry.path
        key = (str(path.resolve()), data.stamp_of(path), fingerprint(names.genes), genes_hash, cells.where.values)
        make = partial(_shares, recipe, matrix)
        entry = cells.cache.arrays("shares", names.entry.name, (*key, recipe.name, recipe.seed), make)
        return np.array(entry["shares"])

    found = ranks.spread(shares, range(len(named)), [matrix.nnz for matrix in corpus.matrices])
    roots = np.sqrt([matrix.shape[0] for matrix in corpus.matrices])
    return torch.from_numpy(embedding.average(found, corpus.measured, roots).astype(np.float32))


def _shares(recipe: Recipe, matrix: csr_matrix) -> dict[str, np.ndarray]:
    return {"shares": recipe.shares(matrix)}


def run_identity(
    recipe: Recipe,
    cells: Cells,
    named: Sequence[data.Names],
    genes: list[str],
    start: utils.Checkpoint | None,
) -> str:
    """A hash of all that the course of a training depends on: a state of another one is not gone on from."""
    settings = {name: value for name, value in recipe.settings().items() if name != "pt_epoch"}
    datasets = [(names.entry.name, fingerprint(names.genes), data.stamp_of(names.entry.path)) for names in named]
    of_start = start.identity() if start else None
    where = cells.where.values, cells.device.type, *(["bf16"] if cells.bf16 else [])
    return fingerprint(recipe.name, settings, fingerprint(genes), datasets, where, of_start)


def train_with_state(
    recipe: Recipe,
    training: Training,
    tasks: list[train.Task],
    path: Path,
    identity: str,
    *,
    bf16: bool,
    resume: bool,
) -> train.Progress:
    """Train; after every epoch the state is on disk at `path`, and with `resume` the run goes on from there."""
    progress = train.Progress()
    parts = {"model": training.model, "optimizer": training.optimizer}
    if resume:
        if state := ranks.from_first(partial(utils.load_state, path, identity)):
            for name, part in parts.items():
                part.load_state_dict(state[name])
            progress = train.Progress(**state["progress"])
            log.info(f"resumed after epoch {progress.epoch} from {path}")
        else:
            log.info(f"nothing to resume ({path} is not there): starting from the beginning")

    def chance_of(epoch: int) -> None:
        torch.manual_seed(recipe.seed * 100_003 + epoch)  # genes left out: the same in a resumed run

    def save(progress: train.Progress) -> None:
        chance_of(progress.epoch)
        if not ranks.first():
            return
        states = {name: part.state_dict() for name, part in parts.items()}
        utils.save_state(path, {"identity": identity, **states, "progress": vars(progress)})

    chance_of(progress.epoch)
    return train.pretrain(
        training.model,
        tasks,
        training.optimizer,
        epochs=training.epochs,
        steps=recipe.batch_num,
        patience=training.patience,
        seed=recipe.seed,
        sizes=training.sizes,
        bf16=bf16,
        progress=progress,
        after_epoch=save,
    )


# -- fine-tuning and testing ----------------------------------------------------------------
def finetune_and_test(
    recipe: Recipe,
    where: utils.Data,
    checkpoint: utils.Checkpoint,
    splits: utils.Splits,
    save_result: Path,
    device: torch.device,
) -> None:
    """Both arms on every labelled dataset, the same split and the same first weights for both; then the table."""
    with ranks.one_first():
        entries, orthologs = where.entries("there is nothing to test on"), where.orthologs()
    identity = identity_of(recipe, where, checkpoint, splits, fingerprint(orthologs))
    table = utils.ResultTable.of(save_result.with_suffix(".csv"), entries, splits.seeds, identity)
    left = utils.unfinished({recipe.name: table})
    for entry in (entry for entry in utils.mine(entries) if entry.name in left):
        dataset = where.prepare(entry, orthologs, recipe.normalise)
        data.report_overlap(dataset.names, checkpoint.genes, "the checkpoint")
        for seed, runs in left[entry.name].items():
            parts = splits.of(dataset, seed)
            for _, arm in runs:
                row = test_arm(recipe, Test(dataset, arm, checkpoint, parts, seed), device)
                table.write(row)
                log.info(
                    f"{entry.name}, {arm}, seed {seed}: accuracy {row['accuracy']:.3f}, kappa {row['kappa']:.3f}, "
                    f"macro F1 {row['macro_f1']:.3f} on {row['n_test']:,} cells in {row['seconds']:.1f} s"
                )
    ranks.gathered(None)
    if not ranks.first():
        return
    results = table.rows()
    utils.write_published(save_result, results)
    log.log(RESULT, score.table(results, utils.ARMS, score.METRICS))
    log.log(RESULT, f"{table.path} and {save_result} written")


def identity_of(
    recipe: Recipe, where: utils.Data, checkpoint: utils.Checkpoint, splits: utils.Splits, orthologs_hash: str
) -> Callable[[data.Entry, str], str]:
    """A hash of all that the result of a dataset and an arm depends on: one made otherwise is made again."""
    weights = {utils.ARMS[0]: checkpoint.identity(), utils.ARMS[1]: None}
    settings = splits.settings() | recipe.tested_with()

    def identity(entry: data.Entry, arm: str) -> str:
        return fingerprint("finetune", settings, weights[arm], where.identity(entry, orthologs_hash))

    return identity


def test_arm(recipe: Recipe, test: Test, device: torch.device) -> dict[str, object]:
    """Teach one arm the training cells of a split; its row of the result table, scored on the test cells."""
    begin = time.perf_counter()
    outputs = recipe.outputs(test, device)
    types, parts = test.dataset.types, test.parts
    row = {"dataset": test.dataset.names.entry.name, "arm": test.arm, "seed": test.seed}
    row |= {"n_train": len(parts.train), "n_test": len(parts.test)}
    row |= score.scores(types.labels[parts.test], outputs)
    return row | {"seconds": time.perf_counter() - begin}


if __name__ == "__main__":
    raise SystemExit(main())
