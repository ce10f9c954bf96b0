"""What a recipe is: what its encoder sees, what is clustered, the network that learns it, how a checkpoint is tested.

paper        raw counts clustered, log1p of them encoded; a published network is fine-tuned on the labels
scpretrain2  log-normalised genes throughout; the few-label classifier, with the encoder frozen
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from torch import Tensor

import data_loader as data
import flags
import utils
from model import CentredMultiTask, Classifier, Encoder, MultiTask, ProjectedEncoder, embed, embed_counts, transfer
from reading import align
from stages import classify, cluster, directions, embedding, on_device, reduce, train
from stages.batch import SparseRows
from voice import log


@dataclass
class Corpus:
    """The datasets of a pre-training run on its shared genes."""

    genes: list[str]
    measured: list[np.ndarray]  # (G,) bool each: the genes it has
    matrices: list[csr_matrix]  # (N, G) each
    labels: list[np.ndarray]  # pseudo-labels (N, P) each

    @property
    def partitions(self) -> list[list[int]]:
        """The number of clusters of every partition of every dataset."""
        return [[int(column.max()) + 1 for column in targets.T] for targets in self.labels]


@dataclass
class Training:
    """A network that is about to be pre-trained, and how `train.pretrain` goes about it."""

    model: MultiTask | CentredMultiTask
    optimizer: torch.optim.Optimizer
    epochs: int
    patience: int
    sizes: list[int] | None = None


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


@dataclass(frozen=True)
class Network:
    """How the published network is fine-tuned; a field is the flag of its name."""

    ft_epoch: int = 500
    ft_lr: float = 0.002
    ft_batch_size: int = 5000
    patience: int = 30
    pca_ft: bool = False
    pca_dim: int = 500


@dataclass(frozen=True)
class Paper:
    """The published recipe with its settings; a field is the flag of its name."""

    kmeans: bool = False
    batch_num: int = 30
    hid: int = 200
    seed: int = 0
    pt_epoch: int = 50
    avg_cluster_num: int = 100
    pt_lr: float = 1e-4
    pt_patience: int = 5
    pca_pt: bool = False
    network_settings: Network = field(default_factory=Network)

    name: ClassVar[str] = "paper"
    scale: ClassVar[str] = "counts"  # what `data_loader` hands out
    normalise: ClassVar[None] = None
    log1p: ClassVar[bool] = True  # of these, batch by batch
    why_labelled: ClassVar[str] = "the paper recipe pre-trains on labelled datasets only"
    keeps_shares: ClassVar[bool] = False

    def sizes(self, cells: int) -> Sequence[int]:
        """Numbers of clusters of a dataset's three partitions."""
        return cluster.partition_sizes(cells, self.avg_cluster_num)

    def pseudo_labels(self, matrix: csr_matrix, encoder: Encoder | None, device: torch.device) -> np.ndarray:
        """Clusters (N, 3) of raw counts in phase 1, as published, of the encoder's outputs (N, H) in phase 2."""
        points: Any = matrix
        if device.type != "cpu" and self.kmeans:
            points = self.points_on(device, matrix, encoder)
        elif encoder is not None:
            points = embed_counts(encoder, matrix)
        return cluster.pseudo_labels(
            points, self.sizes(matrix.shape[0]), method=method_of(self), seed=self.seed, spread=False
        )

    def points_on(self, device: torch.device, matrix: csr_matrix, encoder: Encoder | None) -> Tensor:
        """What k-means sees of the cells (N, G), on a device: (N, D)."""
        rows = SparseRows(matrix, device, log1p=encoder is not None)
        if encoder is not None:
            return embed(encoder, rows)
        if len(rows) < cluster.ROTATE_UP_TO:
            return rows[:]
        return on_device.project(rows, *on_device.components(rows, cluster.LEADING, seed=self.seed))

    def network(self, corpus: Corpus, start: Encoder | None, device: torch.device) -> Training:
        """The network with a head for every partition and its optimizer."""
        encoder: Encoder | ProjectedEncoder = start or Encoder(len(corpus.genes), self.hid)
        if self.pca_pt:
            sample = log1p_sample(corpus.matrices, self.seed)
            components, centre = reduce.components(sample, self.network_settings.pca_dim, seed=self.seed)
            projected = ProjectedEncoder(torch.from_numpy(components), torch.from_numpy(centre), self.hid).to(device)
            encoder = projected.start_from(encoder.to(device)) if start else projected
        model = MultiTask(encoder, corpus.partitions).to(device)
        optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=self.pt_lr, fused=True)
        return Training(model, optimizer, self.pt_epoch, self.pt_patience)

    def encoder(self, model: MultiTask) -> Encoder:
        """What is kept of the trained network: one linear layer on genes."""
        return model.encoder.folded() if isinstance(model.encoder, ProjectedEncoder) else model.encoder

    def settings(self) -> dict[str, Any]:
        """What a checkpoint of this recipe depends on, beside its data and the number of epochs."""
        own = asdict(self)
        return own | {"pca_dim": own.pop("network_settings")["pca_dim"]}

    def tested_with(self) -> dict[str, Any]:
        """The settings a test result depends on, beside those of the split."""
        return asdict(self.network_settings) | {"hid": self.hid}

    def outputs(self, test: Test, device: torch.device) -> np.ndarray:
        """Probabilities (n_test, L) by the published network, fine-tuned on the training cells."""
        dataset, checkpoint, parts, how = test.dataset, test.checkpoint, test.parts, self.network_settings
        torch.manual_seed(test.seed)  # both arms begin with the same classifier
        encoder: Encoder | ProjectedEncoder = Encoder(len(dataset.genes), self.hid)
        model = Classifier(encoder, len(dataset.types.classes))
        if test.pretrained:
            transfer(encoder, dataset.genes, checkpoint.encoder, checkpoint.genes)
        if how.pca_ft:
            fitted = reduce.components(dataset.counts[parts.train].log1p(), how.pca_dim, seed=test.seed)
            model.encoder = ProjectedEncoder(*map(torch.from_numpy, fitted), self.hid).start_from(encoder)
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
            epochs=how.ft_epoch,
            lr=how.ft_lr,
            batch=how.ft_batch_size,
            patience=how.patience,
            seed=test.seed,
        )
        return train.predict(model, SparseRows(dataset.counts[parts.test], device, log1p=True))


@dataclass(frozen=True)
class ScPretrain2:
    """Log-normalised genes, every dataset, few steps from a closed-form start; a field is the flag of its name."""

    kmeans: bool = True
    batch_num: int = 30
    hid: int = 200
    seed: int = 0
    pt_epoch: int | None = field(default=None, metadata={"if_given": True})  # None: EPOCHS

    name: ClassVar[str] = "scpretrain2"
    scale: ClassVar[str] = "log1p_cp10k"
    normalise: ClassVar[Callable[[csr_matrix], csr_matrix]] = staticmethod(data.log_normalised)
    log1p: ClassVar[bool] = False
    why_labelled: ClassVar[str] = ""
    keeps_shares: ClassVar[bool] = True  # of signal of the genes, which teach the map of another dataset
    # steps are few, as the encoder starts in closed form
    POINTS: ClassVar[int] = 50  # principal components that are clustered in phase 1
    EPOCHS: ClassVar[dict[int, int]] = {1: 4, 2: 2}  # of --batch_num steps; phase 1, phase 2
    STEP_CELLS: ClassVar[int] = 512  # of all datasets together, each in proportion to the root of its size
    LEAST_STEP_CELLS: ClassVar[int] = 4  # of any dataset
    DROPOUT: ClassVar[float] = 0.3  # share of genes hidden
    ENCODER_LR: ClassVar[float] = 8e-6  # the closed form is little changed: larger steps were not measured
    HEADS_LR: ClassVar[float] = 4e-4
    BETAS: ClassVar[tuple[float, float]] = 0.95, 0.999
    DECAY: ClassVar[float] = 0.01

    def sizes(self, cells: int) -> Sequence[int]:
        """Numbers of clusters of a dataset's partitions: 6, 12 and 25 where there are cells enough."""
        return cluster.few_sizes(cells)

    def pseudo_labels(self, matrix: csr_matrix, encoder: Encoder | None, device: torch.device) -> np.ndarray:
        """Clusters (N, 3) of 50 principal components in phase 1, of the encoder's outputs (N, H) in phase 2."""
        points: Any
        if device.type != "cpu" and self.kmeans:
            points = self.points_on(device, matrix, encoder)
        elif encoder is None:
            points = reduce.project(matrix, *reduce.components(matrix, self.POINTS, seed=self.seed))
        else:
            points = embed_counts(encoder, matrix, log1p=False)
        return cluster.pseudo_labels(
            points, self.sizes(matrix.shape[0]), method=method_of(self), seed=self.seed, spread=True
        )

    def points_on(self, device: torch.device, matrix: csr_matrix, encoder: Encoder | None) -> Tensor:
        """What k-means sees of the cells (N, G), on a device: (N, D)."""
        rows = SparseRows(matrix, device)
        if encoder is not None:
            return embed(encoder, rows)
        return on_device.project(rows, *on_device.components(rows, self.POINTS, seed=self.seed))

    def closed_form(self, corpus: Corpus, device: torch.device) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The directions (H, G) that separate the pseudo-clusters, the scale (G,) of genes and their means (D, G)."""
        where = None if device.type == "cpu" else device
        return directions.start(corpus.matrices, corpus.measured, corpus.labels, self.hid, where)

    def network(self, corpus: Corpus, start: Encoder | None, device: torch.device) -> Training:
        """The network, starting in both phases at its closed form, and its optimizer."""
        cells = [matrix.shape[0] for matrix in corpus.matrices]
        arrays = map(torch.from_numpy, self.closed_form(corpus, device))
        model = CentredMultiTask(*arrays, corpus.partitions, cells, dropout=self.DROPOUT).to(device)
        epochs = self.pt_epoch or self.EPOCHS[2 if start else 1]
        sizes = [max(self.LEAST_STEP_CELLS, round(self.STEP_CELLS * share)) for share in model.shares]
        return Training(model, self.optimizer(model), epochs, epochs, sizes)

    def optimizer(self, model: CentredMultiTask) -> torch.optim.Optimizer:
        """AdamW with a learning rate for the encoder, which is at its closed form, and one for the heads."""
        groups = [
            {"params": [model.encoder.linear.weight], "lr": self.ENCODER_LR},
            {"params": model.heads.parameters(), "lr": self.HEADS_LR},
        ]
        fused = model.scale.is_cuda or None  # None: as torch would
        return torch.optim.AdamW(groups, betas=self.BETAS, weight_decay=self.DECAY, fused=fused)

    def encoder(self, model: CentredMultiTask) -> Encoder:
        """What is kept of the trained network: one linear layer on genes."""
        return model.folded()

    def shares(self, matrix: csr_matrix) -> np.ndarray:
        """The genes' signal shares (G,) in one dataset (N, G); by one split, as the mean over datasets is steady."""
        return embedding.shares_of_split(embedding.some(matrix, self.seed), self.seed)

    def settings(self) -> dict[str, Any]:
        """What a checkpoint of this recipe depends on, beside its data and the number of epochs."""
        return asdict(self)

    def tested_with(self) -> dict[str, Any]:
        """The settings a test result depends on, beside those of the split."""
        return {"recipe": self.name, "classifier": classify.settings()}

    def outputs(self, test: Test, device: torch.device) -> np.ndarray:
        """Probabilities (n_test, L) by the few-label classifier, with the corpus as the prior of the cells' map or not.

        It sees all cells and the labels of the training cells; those of the validation cells it leaves alone. A
        checkpoint of before there were signal shares has its frozen encoder tested.
        """
        dataset, parts = test.dataset, test.parts
        labels = np.full(len(dataset.types.labels), -1)
        labels[parts.train] = dataset.types.labels[parts.train]
        types = len(dataset.types.classes)
        known = np.unique(labels[parts.train])
        if len(known) == 1:  # nothing to tell apart
            return np.tile(np.arange(types) == known[0], (len(parts.test), 1)).astype(float)
        own = not test.pretrained or test.checkpoint.shares is not None
        if own:
            points = own_points(dataset, test.checkpoint if test.pretrained else None, test.seed)  # (M, H)
        else:
            points = frozen_points(dataset, test.checkpoint)
        return classify.classify(dataset.counts, points, labels, types, test.seed, own=own)[parts.test]


def frozen_points(dataset: data.Prepared, checkpoint: utils.Checkpoint) -> np.ndarray:
    """Every cell (M, H) by the encoder of a checkpoint as it is; values are log1p."""
    columns = align.align(dataset.counts, dataset.genes, checkpoint.genes)
    return embed_counts(checkpoint.encoder, columns, log1p=False)


def own_points(
    dataset: data.Prepared, corpus: utils.Checkpoint | None, seed: int, rows: np.ndarray | None = None
) -> np.ndarray:
    """Every cell (M, H) by the map that is made of the dataset's own cells, or of these `rows`; values are log1p.

    `corpus` is a checkpoint whose signal shares are a prior for the map; None, or one without any: no prior.
    """
    prior = corpus.prior(dataset.genes) if corpus else None
    x = dataset.counts if rows is None else dataset.counts[rows]
    weight, bias = embedding.own(x, prior=prior, seed=seed)  # (H, G), (H,)
    return np.asarray(dataset.counts @ weight.T + bias)


RECIPES: dict[str, type[Paper] | type[ScPretrain2]] = {kind.name: kind for kind in (ScPretrain2, Paper)}
Recipe = Paper | ScPretrain2
NETWORK_ONLY = {one.name for one in fields(Network)}  # flags of testing the published network
PAPER_ONLY = {one.name for one in fields(Paper)} - {one.name for one in fields(ScPretrain2)} - {"network_settings"}
OF_PRETRAINING = PAPER_ONLY - {"pca_pt"} | {"batch_num", "pt_epoch", "recipe", "resume"}


def method_of(recipe: Recipe) -> str:
    """How a recipe makes its pseudo-labels, as `cluster.pseudo_labels` calls it."""
    return "kmeans" if recipe.kmeans else "agglomerative"


def sees_raw_counts(name: str) -> bool:
    """Whether an encoder of this recipe is handed log1p of counts as they are, not of 10,000 a cell."""
    return name == Paper.name


def closed_form(matrices: Sequence[csr_matrix], genes: list[str], seed: int, hidden: int = 200) -> Encoder:
    """The encoder that scpretrain2 starts from, without a step of training: at most `hidden` units.

    `matrices` (N, G) are log1p of 10,000 counts on `genes`, one a dataset.
    """
    recipe, cpu = ScPretrain2(seed=seed, hid=hidden), torch.device("cpu")
    labels = [recipe.pseudo_labels(matrix, None, cpu) for matrix in matrices]
    measured = [np.ones(len(genes), bool)] * len(matrices)
    found, scale, _ = recipe.closed_form(Corpus(genes, measured, list(matrices), labels), cpu)
    encoder = Encoder(len(genes), int(np.flatnonzero(np.abs(found).sum(axis=1)).max(initial=0)) + 1)
    with torch.no_grad():
        encoder.linear.weight.copy_(torch.from_numpy(found[: encoder.hidden] / scale))
        encoder.linear.bias.zero_()
    return encoder


def log1p_sample(matrices: Sequence[csr_matrix], seed: int) -> csr_matrix:
    """Cells of all datasets in proportion, at most as many as a PCA is fitted on, log1p of the counts."""
    cells = sum(matrix.shape[0] for matrix in matrices)
    share, rng = min(1.0, reduce.SAMPLE / cells), np.random.default_rng(seed)
    parts = [
        matrix[np.sort(rng.choice(matrix.shape[0], max(1, int(share * matrix.shape[0])), replace=False))]
        for matrix in matrices
    ]
    return vstack(parts, format="csr").log1p()


@dataclass(frozen=True)
class Wanted:
    """What the flags ask of a recipe: `made` makes one of a kind, `given` are the flags of the command line."""

    recipe: str | None
    checkpoint: str  # its file
    given: Collection[str]
    made: Callable[[type], Recipe]


def chosen(wanted: Wanted, start: utils.Checkpoint | None = None) -> Recipe:
    """The recipe of a pre-training run: --recipe, else that of the checkpoint it goes on from, else by its flags.

    A flag that only the published recipe has asks for it, so that a published command line does what it did. Raises
    ValueError where the flags, or the checkpoint, belong to another recipe.
    """
    theirs = sorted(PAPER_ONLY.intersection(wanted.given))
    name = wanted.recipe or (start.recipe if start else Paper.name if theirs else flags.RECIPES[0])
    if start and start.recipe != name:
        raise ValueError(
            f"{wanted.checkpoint} was made by --recipe {start.recipe}; phase 2 needs the same: "
            f"add --recipe {start.recipe}"
        )
    if name not in RECIPES:
        raise ValueError(f"{wanted.checkpoint} is of recipe {name!r}; main.py knows {', '.join(RECIPES)}")
    if name != Paper.name:
        without_effect(theirs, f"--recipe {name}")
    elif theirs and not wanted.recipe and not start:
        log.info(f"--recipe paper, because of --{theirs[0]}")
    return wanted.made(RECIPES[name])


def of_checkpoint(checkpoint: utils.Checkpoint, wanted: Wanted) -> Recipe:
    """The recipe a checkpoint is tested by. Raises ValueError for an unknown one, or a flag it cannot honour."""
    if checkpoint.recipe not in RECIPES:
        raise ValueError(f"{wanted.checkpoint} is of recipe {checkpoint.recipe!r}; main.py tests {', '.join(RECIPES)}")
    if checkpoint.recipe != Paper.name:
        lost = sorted(NETWORK_ONLY.intersection(wanted.given))
        without_effect(lost, f"{wanted.checkpoint}, which is of {checkpoint.recipe}")
    without_effect(sorted(OF_PRETRAINING.intersection(wanted.given)), "testing (without --is_pretrain)")
    return wanted.made(RECIPES[checkpoint.recipe])


def without_effect(flags: Sequence[str], where: str) -> None:
    """Say which flags of the paper recipe do nothing here. Raises ValueError for --pca_pt and --pca_ft."""
    for flag in flags:
        if flag in ("pca_pt", "pca_ft"):
            raise ValueError(f"--{flag} belongs to the paper recipe; leave it out with {where}")
    if flags:
        log.info(f"no effect with {where}: --{', --'.join(flags)}")
