"""What a recipe is: what its encoder sees, what is clustered, the network that learns it, how a checkpoint is tested.

paper        raw counts clustered, log1p of them encoded; a published network is fine-tuned on the labels
scpretrain2  log-normalised genes throughout; the few-label classifier, with the encoder frozen
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack

import data_loader as data
import utils
from model import CentredMultiTask, Classifier, Encoder, MultiTask, ProjectedEncoder, embed, embed_counts, transfer
from reading import align
from stages import classify, cluster, directions, reduce, train
from stages.batch import SparseRows


@dataclass
class Corpus:
    """The datasets of a pre-training run on its shared genes."""

    named: list[data.Names]
    genes: list[str]
    matrices: list[csr_matrix]  # (N, G) each
    labels: list[np.ndarray]  # pseudo-labels (N, P) each

    @property
    def partitions(self) -> list[list[int]]:
        """The number of clusters of every partition of every dataset."""
        return [[int(column.max()) + 1 for column in targets.T] for targets in self.labels]


@dataclass
class Test:
    """One arm on one split of a labelled dataset."""

    dataset: data.Prepared
    arm: str
    checkpoint: utils.Checkpoint
    parts: data.Split
    seed: int

    @property
    def pretrained(self) -> bool:
        return self.arm == utils.ARMS[0]


class Paper:
    """The published recipe, with the published defaults."""

    name = "paper"
    flags = ("avg_cluster_num", "pt_lr", "pt_patience", "pca_pt")  # of pre-training, that no other recipe has
    network_flags = ("ft_epoch", "ft_lr", "ft_batch_size", "patience", "pca_ft")  # of testing, likewise
    reading: dict[str, Any] = {}  # how `data_loader` hands out cells: as counts
    log1p = True  # of these, batch by batch
    why_labelled = "the paper recipe pre-trains on labelled datasets only"
    spread = False  # k-means from a random start, one run

    def sizes(self, cells: int, args: argparse.Namespace) -> list[int]:
        """Numbers of clusters of a dataset's three partitions."""
        return cluster.partition_sizes(cells, args.avg_cluster_num)

    def points(self, matrix: csr_matrix, encoder: Encoder | None, args: argparse.Namespace, device: torch.device):
        """What is clustered: raw counts in phase 1, as published, the encoder's outputs (N, H) in phase 2."""
        if encoder is None:
            return matrix if device.type == "cpu" else SparseRows(matrix, device)
        found = embed(encoder, SparseRows(matrix, device, log1p=True))
        return found.numpy() if device.type == "cpu" else found

    def training(
        self, corpus: Corpus, start: Encoder | None, args: argparse.Namespace, device: torch.device
    ) -> tuple[MultiTask, torch.optim.Optimizer, dict[str, Any]]:
        """The network with a head for every partition, its optimizer, and how `train.pretrain` goes about it."""
        encoder = start or Encoder(len(corpus.genes), args.hid)
        if args.pca_pt:
            sample = log1p_sample(corpus.matrices, args.seed)
            components, centre = reduce.components(sample, args.pca_dim, seed=args.seed)
            projected = ProjectedEncoder(torch.from_numpy(components), torch.from_numpy(centre), args.hid).to(device)
            encoder = projected.start_from(encoder.to(device)) if start else projected
        model = MultiTask(encoder, corpus.partitions).to(device)
        optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=args.pt_lr, fused=True)
        return model, optimizer, {"epochs": args.pt_epoch, "patience": args.pt_patience}

    def encoder(self, model: MultiTask) -> Encoder:
        """What is kept of the trained network: one linear layer on genes."""
        return model.encoder.folded() if isinstance(model.encoder, ProjectedEncoder) else model.encoder

    def tested_with(self, args: argparse.Namespace) -> dict[str, Any]:
        """The settings a test result depends on, beside those of the split."""
        return utils.flags(args, (*self.network_flags, "pca_dim", "hid"))

    def outputs(self, test: Test, args: argparse.Namespace, device: torch.device) -> np.ndarray:
        """Probabilities (n_test, L) by the published network, fine-tuned on the training cells."""
        dataset, checkpoint, parts = test.dataset, test.checkpoint, test.parts
        torch.manual_seed(test.seed)  # both arms begin with the same classifier
        encoder: Encoder | ProjectedEncoder = Encoder(len(dataset.genes), args.hid)
        model = Classifier(encoder, len(dataset.types.classes))
        if test.pretrained:
            transfer(encoder, dataset.genes, checkpoint.encoder, checkpoint.genes)
        if args.pca_ft:
            fitted = reduce.components(dataset.counts[parts.train].log1p(), args.pca_dim, seed=test.seed)
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
            seed=test.seed,
        )
        return train.predict(model, SparseRows(dataset.counts[parts.test], device, log1p=True))


class ScPretrain2:
    """Log-normalised genes, every dataset, few steps from a closed-form start."""

    name = "scpretrain2"
    flags = ()
    network_flags = ()
    reading = {"normalise": data.log_normalised, "recipe": "log1p_cp10k"}
    log1p = False
    why_labelled = ""
    spread = True  # k-means++, two runs
    # steps are few, as the encoder starts in closed form
    POINTS = 50  # principal components that are clustered in phase 1
    EPOCHS = {1: 4, 2: 2}  # of --batch_num steps; phase 1, phase 2
    STEP_CELLS = 512  # of all datasets together, each in proportion to the root of its size
    LEAST_STEP_CELLS = 4  # of any dataset
    DROPOUT = 0.3  # share of genes hidden
    ENCODER_LR, HEADS_LR, DECAY, WARM_UP = 2e-4, 1e-2, 0.01, 0.2

    def sizes(self, cells: int, args: argparse.Namespace) -> list[int]:
        """Numbers of clusters of a dataset's partitions: 6, 12 and 25 where there are cells enough."""
        return cluster.few_sizes(cells)

    def points(self, matrix: csr_matrix, encoder: Encoder | None, args: argparse.Namespace, device: torch.device):
        """What is clustered: principal components (N, 50) in phase 1, the encoder's outputs (N, H) in phase 2."""
        if encoder is None:
            return reduce.project(matrix, *reduce.components(matrix, self.POINTS, seed=args.seed))
        return embed_counts(encoder, matrix, log1p=False)

    def training(
        self, corpus: Corpus, start: Encoder | None, args: argparse.Namespace, device: torch.device
    ) -> tuple[CentredMultiTask, torch.optim.Optimizer, dict[str, Any]]:
        """The network, starting in both phases at the directions that separate the pseudo-clusters; its optimizer."""
        measured = [np.isin(corpus.genes, names.genes) for names in corpus.named]
        arrays = map(torch.from_numpy, directions.start(corpus.matrices, measured, corpus.labels, args.hid))
        cells = [matrix.shape[0] for matrix in corpus.matrices]
        model = CentredMultiTask(*arrays, corpus.partitions, cells, dropout=self.DROPOUT).to(device)
        epochs = args.pt_epoch if "pt_epoch" in args.given else self.EPOCHS[2 if start else 1]
        optimizer, schedule = self.one_cycle(model, epochs * args.batch_num)
        sizes = [max(self.LEAST_STEP_CELLS, round(self.STEP_CELLS * share)) for share in model.shares]
        return model, optimizer, {"epochs": epochs, "patience": epochs, "sizes": sizes, "schedule": schedule}

    def one_cycle(
        self, model: CentredMultiTask, steps: int
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """AdamW whose learning rates rise for a fifth of the steps and then fall; the encoder's are of fine work."""
        groups = [
            {"params": [model.encoder.linear.weight], "lr": self.ENCODER_LR},
            {"params": model.heads.parameters(), "lr": self.HEADS_LR},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=self.DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, [self.ENCODER_LR, self.HEADS_LR], total_steps=steps, pct_start=self.WARM_UP
        )
        return optimizer, schedule

    def encoder(self, model: CentredMultiTask) -> Encoder:
        """What is kept of the trained network: one linear layer on genes."""
        return model.folded()

    def tested_with(self, args: argparse.Namespace) -> dict[str, Any]:
        """The settings a test result depends on, beside those of the split."""
        return {"recipe": self.name, "classifier": classify.settings()}

    def outputs(self, test: Test, args: argparse.Namespace, device: torch.device) -> np.ndarray:
        """Probabilities (n_test, L) by the few-label classifier, with the encoder or without it.

        It sees all cells and the labels of the training cells; those of the validation cells it leaves alone.
        """
        dataset, checkpoint, parts = test.dataset, test.checkpoint, test.parts
        labels = np.full(len(dataset.types.labels), -1)
        labels[parts.train] = dataset.types.labels[parts.train]
        types = len(dataset.types.classes)
        known = np.unique(labels[parts.train])
        if len(known) == 1:  # nothing to tell apart
            return np.tile(np.arange(types) == known[0], (len(parts.test), 1)).astype(float)
        embedding = None
        if test.pretrained:
            columns = align.align(dataset.counts, dataset.genes, checkpoint.genes)
            embedding = embed_counts(checkpoint.encoder, columns, log1p=False)  # (M, H)
        return classify.classify(dataset.counts, embedding, labels, types, test.seed)[parts.test]


RECIPES = {recipe.name: recipe for recipe in (Paper(), ScPretrain2())}
Recipe = Paper | ScPretrain2


def log1p_sample(matrices: Sequence[csr_matrix], seed: int) -> csr_matrix:
    """Cells of all datasets in proportion, at most as many as a PCA is fitted on, log1p of the counts."""
    cells = sum(matrix.shape[0] for matrix in matrices)
    share, rng = min(1.0, reduce.SAMPLE / cells), np.random.default_rng(seed)
    parts = [
        matrix[np.sort(rng.choice(matrix.shape[0], max(1, int(share * matrix.shape[0])), replace=False))]
        for matrix in matrices
    ]
    return vstack(parts, format="csr").log1p()


def chosen(args: argparse.Namespace, start: utils.Checkpoint | None = None) -> Recipe:
    """The recipe of a pre-training run: --recipe, else that of the checkpoint it goes on from, else by its flags.

    A flag that only the published recipe has asks for it, so that a published command line does what it did. Raises
    ValueError where the flags, or the checkpoint, belong to another recipe.
    """
    theirs = sorted(args.given.intersection(Paper.flags))
    name = args.recipe or (start.recipe if start else "paper" if theirs else utils.RECIPES[0])
    if start and start.recipe != name:
        raise ValueError(
            f"{args.pretrained_model} was made by --recipe {start.recipe}; phase 2 needs the same: "
            f"add --recipe {start.recipe}"
        )
    if name not in RECIPES:
        raise ValueError(f"{args.pretrained_model} is of recipe {name!r}; main.py knows {', '.join(RECIPES)}")
    without_effect([flag for flag in theirs if flag not in RECIPES[name].flags], f"--recipe {name}")
    if theirs and not args.recipe and not start:
        print(f"--recipe paper, because of --{theirs[0]}")
    return RECIPES[name]


def of_checkpoint(checkpoint: utils.Checkpoint, args: argparse.Namespace) -> Recipe:
    """The recipe a checkpoint is tested by. Raises ValueError for an unknown one, or a flag it cannot honour."""
    if checkpoint.recipe not in RECIPES:
        raise ValueError(
            f"{args.pretrained_model} is of recipe {checkpoint.recipe!r}; main.py tests {', '.join(RECIPES)}"
        )
    recipe = RECIPES[checkpoint.recipe]
    lost = sorted(args.given.intersection(Paper.network_flags) - set(recipe.network_flags))
    without_effect(lost, f"{args.pretrained_model}, which is of {recipe.name}")
    return recipe


def without_effect(flags: Sequence[str], where: str) -> None:
    """Say which flags of the paper recipe do nothing here. Raises ValueError for --pca_pt and --pca_ft."""
    for flag in flags:
        if flag in ("pca_pt", "pca_ft"):
            raise ValueError(f"--{flag} belongs to the paper recipe; leave it out with {where}")
    if flags:
        print(f"no effect with {where}: --{', --'.join(flags)}")
