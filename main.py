"""Pre-train the encoder (phase 1, phase 2), or fine-tune it and test it on every labelled dataset.

python main.py --is_pretrain --kmeans                       phase 1: pseudo-labels are clusters of the inputs
python main.py --is_pretrain --kmeans --pretrain_output     phase 2: clusters of the encoder's outputs
python main.py --kmeans                                     fine-tune and test, with against without pre-training

--recipe scpretrain2 for the first two: log-normalised genes, every dataset, few steps from a closed-form start. Its
checkpoints are tested with the few-label classifier on the same splits, with the encoder against without it; the
encoder stays as it is, and test cells take part without their labels.
"""

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack

import data_loader as data
import utils
from model import CentredMultiTask, Classifier, Encoder, MultiTask, ProjectedEncoder, embed, embed_counts, transfer
from stages import align, classify, cluster, directions, pca, score, train
from stages.batch import SparseRows
from stages.files import fingerprint

# What the encoder of a recipe sees: log1p of the counts, taken batch by batch, or values log-normalised beforehand.
INPUT = {"paper": {}, "scpretrain2": {"normalise": data.log_normalised, "recipe": "log1p_cp10k"}}

# What a checkpoint, or a result, depends on; the network's flags are those of the paper recipe.
PRETRAIN_FLAGS = ("avg_cluster_num", "batch_num", "pt_lr", "pt_patience", "hid", "seed", "kmeans", "pca_pt", "pca_dim")
NETWORK_FLAGS = ("ft_epoch", "ft_lr", "ft_batch_size", "patience", "pca_ft", "pca_dim", "hid")
TEST_FLAGS = ("per_train", "per_val", "max_tr_num", "label_key", "layer", "use_raw", "species")

# scpretrain2: steps are few, as the encoder starts in closed form
POINTS = 50  # principal components that are clustered in phase 1
EPOCHS = {1: 4, 2: 2}  # at most, of --batch_num steps; phase 1, phase 2
STEP_CELLS = 512  # of all datasets together, each in proportion to the root of its size
LEAST_STEP_CELLS = 4  # of any dataset
DROPOUT = 0.3  # share of genes hidden
ENCODER_LR, HEADS_LR, DECAY, WARM_UP = 2e-4, 1e-2, 0.01, 0.2


def main(argv: Sequence[str] | None = None) -> int:
    return utils.run(command, utils.build_parser(__doc__), argv)


def command(args: argparse.Namespace) -> None:
    device = utils.pick_device(args.cuda)
    utils.seed_everything(args.seed)
    if args.is_pretrain:
        pretrain(args, device)
    else:
        finetune_and_test(args, device)


def datasets(args: argparse.Namespace) -> list[data.Entry]:
    """The datasets of this run, with their files."""
    why = "there is nothing to test on"
    if args.is_pretrain:
        why = "the paper recipe pre-trains on labelled datasets only" if args.recipe == "paper" else ""
    return data.wanted(**utils.flags(args, utils.DATA_FLAGS), labelled_because=why)


def file_values(args: argparse.Namespace) -> dict[str, object]:
    return utils.flags(args, utils.VALUE_FLAGS)


# -- pre-training ----------------------------------------------------------------
def pretrain(args: argparse.Namespace, device: torch.device) -> None:
    """Phase 1, or with --pretrain_output phase 2: cluster every dataset, train one encoder on all of it."""
    paper = args.recipe == "paper"
    if args.pca_pt and not paper:
        raise ValueError(f"--pca_pt belongs to the paper recipe; leave it out with --recipe {args.recipe}")
    start = utils.load_checkpoint(args.pretrained_model, gene_list=args.gene_list) if args.pretrain_output else None
    if start and start.recipe != args.recipe:
        raise ValueError(
            f"{args.pretrained_model} was made by --recipe {start.recipe}; phase 2 needs the same: "
            f"add --recipe {start.recipe}"
        )
    if start and start.encoder.hidden != args.hid:
        raise ValueError(
            f"{args.pretrained_model} has {start.encoder.hidden} hidden units; use --hid {start.encoder.hidden}"
        )
    entries = datasets(args)
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
    matrices = [
        data.aligned(names, genes, cache, genes_hash, **INPUT[args.recipe], **file_values(args)) for names in named
    ]
    cells = sum(matrix.shape[0] for matrix in matrices)
    print(f"{len(named)} datasets, {cells:,} cells, {len(genes):,} genes ({', '.join(sorted(set(species)))})")

    method = "kmeans" if args.kmeans else "agglomerative"
    begin = time.perf_counter()
    encoder = start.encoder.to(device) if start else None
    labels = [
        pseudo_labels(names, matrix, encoder, start, cache, genes_hash, method, args, device)
        for names, matrix in zip(named, matrices, strict=True)
    ]
    partitions = [[int(column.max()) + 1 for column in targets.T] for targets in labels]
    print(
        f"pseudo-labels by {method} of the {'encoder outputs' if start else 'inputs'}: "
        f"{sum(map(sum, partitions)):,} clusters in {time.perf_counter() - begin:.1f} s"
    )

    utils.seed_everything(args.seed)
    if paper:
        model = paper_model(encoder, matrices, partitions, args, device)
        optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=args.pt_lr, fused=True)
        how = {"epochs": args.pt_epoch, "patience": args.pt_patience}
    else:
        model = centred_model(named, matrices, labels, partitions, genes, args.hid, device)
        epochs = min(args.pt_epoch, EPOCHS[2 if start else 1])
        optimizer, schedule = one_cycle(model, epochs * args.batch_num)
        sizes = [max(LEAST_STEP_CELLS, round(STEP_CELLS * share)) for share in model.shares]
        how = {"epochs": epochs, "patience": epochs, "sizes": sizes, "schedule": schedule}
    tasks = [
        train.Task(names.entry.name, SparseRows(matrix, device, log1p=paper), torch.from_numpy(targets).to(device))
        for names, matrix, targets in zip(named, matrices, labels, strict=True)
    ]

    settings = utils.flags(args, PRETRAIN_FLAGS)
    identity = fingerprint(
        args.recipe,
        settings,
        genes_hash,
        [(names.entry.name, fingerprint(names.genes), data.stamp_of(names.entry.path)) for names in named],
        file_values(args),
        start.identity() if start else None,
        device.type,
    )
    progress = train_with_state(model, tasks, optimizer, args, identity, **how)

    if not paper:
        encoder = model.folded()
    else:
        encoder = model.encoder.folded() if args.pca_pt else model.encoder
    phase = start.phase + 1 if start else 1
    utils.save_checkpoint(
        args.save_model,
        utils.Checkpoint(
            encoder,
            genes,
            recipe=args.recipe,
            phase=phase,
            species=sorted(set(species)),
            datasets=[names.entry.name for names in named],
            settings=settings | {"pt_epoch": args.pt_epoch},
            history=(start.history if start else []) + progress.history,
        ),
    )
    utils.state_path(args.save_model).unlink(missing_ok=True)
    print(
        f"phase {phase}: {progress.epoch} epochs, lowest loss {progress.best_loss:.4f}; {args.save_model} written\n"
        f"next: python main.py --kmeans --data_dir {args.data_dir} --pretrained_model {args.save_model}"
    )


def pseudo_labels(
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
    """The clusters (N, 3) of one dataset, from the cache where they are there: of raw counts, or of encoder outputs."""
    paper = args.recipe == "paper"
    cells = matrix.shape[0]
    sizes = cluster.partition_sizes(cells, args.avg_cluster_num) if paper else cluster.few_sizes(cells)

    def make() -> dict[str, np.ndarray]:
        if not paper:
            if encoder is not None:
                points = embed_counts(encoder, matrix, log1p=False)  # (N, H)
            else:
                points = pca.project(matrix, *pca.components(matrix, POINTS, seed=args.seed))  # (N, 50)
            return {"labels": cluster.pseudo_labels(points, sizes, method=method, seed=args.seed, spread=True)}
        points = matrix if device.type == "cpu" else SparseRows(matrix, device)  # phase 1: raw counts, as published
        if encoder is not None:
            points = embed(encoder, SparseRows(matrix, device, log1p=True))  # (N, H)
            points = points.numpy() if device.type == "cpu" else points
        return {"labels": cluster.pseudo_labels(points, sizes, method=method, seed=args.seed)}

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
        *([] if paper else [args.recipe]),
    )
    return np.array(cache.arrays("labels", entry.name, key, make)["labels"])


def paper_model(
    encoder: Encoder | None,
    matrices: Sequence[csr_matrix],
    partitions: list[list[int]],
    args: argparse.Namespace,
    device: torch.device,
) -> MultiTask:
    """The published networks: an encoder from a random start, or phase 1's, and a head for every partition."""
    start, encoder = encoder, encoder or Encoder(matrices[0].shape[1], args.hid)
    if args.pca_pt:
        components, centre = pca.components(log1p_sample(matrices, args.seed), args.pca_dim, seed=args.seed)
        projected = ProjectedEncoder(torch.from_numpy(components), torch.from_numpy(centre), args.hid).to(device)
        encoder = projected.start_from(encoder.to(device)) if start else projected
    return MultiTask(encoder, partitions).to(device)


def centred_model(
    named: Sequence[data.Names],
    matrices: Sequence[csr_matrix],
    labels: Sequence[np.ndarray],
    partitions: list[list[int]],
    genes: Sequence[str],
    hidden: int,
    device: torch.device,
) -> CentredMultiTask:
    """scpretrain2's: the encoder starts at the directions that separate the pseudo-clusters, in both phases."""
    means, variances = zip(*map(directions.moments, matrices), strict=True)
    scale = directions.gene_scale(variances, [np.isin(genes, names.genes) for names in named])
    start = directions.directions(matrices, means, labels, scale, hidden)
    arrays = (torch.from_numpy(array) for array in (start, scale, np.stack(means)))
    cells = [matrix.shape[0] for matrix in matrices]
    return CentredMultiTask(*arrays, partitions, cells, dropout=DROPOUT).to(device)


def one_cycle(
    model: CentredMultiTask, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW whose learning rates rise for a fifth of the steps and then fall; the encoder's are those of fine work."""
    groups = [
        {"params": [model.encoder.linear.weight], "lr": ENCODER_LR},
        {"params": model.heads.parameters(), "lr": HEADS_LR},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=DECAY)
    highest = [ENCODER_LR, HEADS_LR]
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, highest, total_steps=steps, pct_start=WARM_UP)


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


def log1p_sample(matrices: Sequence[csr_matrix], seed: int) -> csr_matrix:
    """Cells of all datasets in proportion, at most as many as a PCA is fitted on, log1p of the counts."""
    cells = sum(matrix.shape[0] for matrix in matrices)
    share, rng = min(1.0, pca.SAMPLE / cells), np.random.default_rng(seed)
    parts = [
        matrix[np.sort(rng.choice(matrix.shape[0], max(1, int(share * matrix.shape[0])), replace=False))]
        for matrix in matrices
    ]
    return vstack(parts, format="csr").log1p()


# -- fine-tuning and testing ----------------------------------------------------------------
def finetune_and_test(args: argparse.Namespace, device: torch.device) -> None:
    """Both arms on every labelled dataset, the same split and the same first weights for both; then the table."""
    checkpoint = utils.checkpoint_of(args)
    if checkpoint.recipe not in INPUT:
        raise ValueError(
            f"{args.pretrained_model} is of recipe {checkpoint.recipe!r}; main.py tests {', '.join(INPUT)}"
        )
    if args.pca_ft and checkpoint.recipe != "paper":
        raise ValueError(f"--pca_ft belongs to the paper recipe; {args.pretrained_model} is of {checkpoint.recipe}")
    if checkpoint.encoder.hidden != args.hid:
        raise ValueError(
            f"{args.pretrained_model} has {checkpoint.encoder.hidden} hidden units; use --hid "
            f"{checkpoint.encoder.hidden}"
        )
    entries = datasets(args)
    table = data.orthologs(args.data_dir, offline=args.offline)
    table_hash = fingerprint(table)
    csv_path = args.save_result.with_suffix(".csv")
    seeds = [args.seed + repeat for repeat in range(args.fold1 * args.fold2)]
    wanted = {
        (entry.name, arm, seed): run_identity(entry, arm, checkpoint, table_hash, args)
        for entry in entries
        for arm in utils.ARMS
        for seed in seeds
    }
    todo = utils.unfinished(csv_path, wanted)
    for entry in entries:
        if not any(name == entry.name for name, _, _ in todo):
            continue
        normalise = INPUT[checkpoint.recipe].get("normalise")
        dataset = data.prepare(entry, table, label_key=args.label_key, normalise=normalise, **file_values(args))
        data.report_overlap(dataset.names, checkpoint.genes, "the checkpoint")
        for seed in sorted({seed for name, _, seed in todo if name == entry.name}):
            parts = data.split_of(dataset, seed, args.per_train, args.per_val, args.max_tr_num)
            for arm in utils.ARMS:
                if run := todo.get((entry.name, arm, seed)):
                    row = test_arm(dataset, arm, checkpoint, parts, seed, args, device) | {"run": run}
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
    entry: data.Entry, arm: str, checkpoint: utils.Checkpoint, table_hash: str, args: argparse.Namespace
) -> str:
    """A hash of all that a result depends on, but for its seed: a result made otherwise is made again."""
    weights = checkpoint.identity() if arm == utils.ARMS[0] else None
    if checkpoint.recipe == "paper":
        settings = utils.flags(args, (*NETWORK_FLAGS, *TEST_FLAGS))
    else:
        settings = utils.flags(args, TEST_FLAGS) | {"recipe": checkpoint.recipe}
    names = None if entry.species == "mouse" else table_hash  # mouse genes need no ortholog table
    return fingerprint("finetune", settings, weights, entry.species, names, data.stamp_of(entry.path))


def test_arm(
    dataset: data.Prepared,
    arm: str,
    checkpoint: utils.Checkpoint,
    parts: data.Split,
    seed: int,
    args: argparse.Namespace,
    device: torch.device,
) -> dict[str, object]:
    """Fine-tune one arm on the training cells of a split; its row of the result table, scored on the test cells."""
    begin = time.perf_counter()
    if checkpoint.recipe == "paper":
        outputs = network_outputs(dataset, arm, checkpoint, parts, seed, args, device)
    else:
        outputs = few_label_outputs(dataset, arm, checkpoint, parts, seed)
    row = {
        "dataset": dataset.names.entry.name,
        "arm": arm,
        "seed": seed,
        "n_train": len(parts.train),
        "n_test": len(parts.test),
    }
    row |= score.scores(dataset.types.labels[parts.test], outputs)
    return row | {"seconds": time.perf_counter() - begin}


def few_label_outputs(
    dataset: data.Prepared, arm: str, checkpoint: utils.Checkpoint, parts: data.Split, seed: int
) -> np.ndarray:
    """Probabilities (n_test, L) by the few-label classifier on log-normalised genes, with the encoder or without it.

    It sees all cells and the labels of the training cells; those of the validation cells it leaves alone.
    """
    labels = np.full(len(dataset.types.labels), -1)
    labels[parts.train] = dataset.types.labels[parts.train]
    types = len(dataset.types.classes)
    known = np.unique(labels[parts.train])
    if len(known) == 1:  # nothing to tell apart
        return np.tile(np.arange(types) == known[0], (len(parts.test), 1)).astype(float)
    embedding = None
    if arm == utils.ARMS[0]:
        columns = align.align(dataset.counts, dataset.genes, checkpoint.genes)
        embedding = embed_counts(checkpoint.encoder, columns, log1p=False)  # (M, H)
    return classify.classify(dataset.counts, embedding, labels, types, seed)[parts.test]


def network_outputs(
    dataset: data.Prepared,
    arm: str,
    checkpoint: utils.Checkpoint,
    parts: data.Split,
    seed: int,
    args: argparse.Namespace,
    device: torch.device,
) -> np.ndarray:
    """Probabilities (n_test, L) by the published network, fine-tuned on the training cells."""
    torch.manual_seed(seed)  # both arms begin with the same classifier
    encoder: Encoder | ProjectedEncoder = Encoder(len(dataset.genes), args.hid)
    model = Classifier(encoder, len(dataset.types.classes))
    if arm == utils.ARMS[0]:
        transfer(encoder, dataset.genes, checkpoint.encoder, checkpoint.genes)
    if args.pca_ft:
        fitted = pca.components(dataset.counts[parts.train].log1p(), args.pca_dim, seed=seed)
        model.encoder = ProjectedEncoder(*map(torch.from_numpy, fitted), args.hid).start_from(encoder)
    model.to(device)
    labels = torch.from_numpy(dataset.types.labels).to(device)
    train_cells, validation_cells = (
        train.Labelled(SparseRows(dataset.counts[rows], device, log1p=True), labels[torch.from_numpy(rows)])
        for rows in (parts.train, parts.validation)
    )
    train.finetune(
        model,
        train_cells,
        validation_cells,
        epochs=args.ft_epoch,
        lr=args.ft_lr,
        batch=args.ft_batch_size,
        patience=args.patience,
        seed=seed,
    )
    return train.predict(model, SparseRows(dataset.counts[parts.test], device, log1p=True))  # (n_test, L)


if __name__ == "__main__":
    raise SystemExit(main())
