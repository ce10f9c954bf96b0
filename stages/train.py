"""The two training loops: many datasets at once, one dataset; they know nothing of the model or the files."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

import ranks
from stages.batch import Share, SparseRows
from voice import bar


@dataclass
class Task:
    """One dataset of pre-training: its cells on the device and their pseudo-labels (N, P), P partitions.

    With many processes these are the cells from `first` on that this one holds, of `cells` in all.
    """

    name: str
    rows: SparseRows
    targets: Tensor
    first: int = 0
    cells: int | None = None

    def __len__(self) -> int:
        return len(self.rows) if self.cells is None else self.cells

    def batch_size(self, steps: int) -> int:
        return max(1, len(self) // steps)


@dataclass
class Progress:
    """Where pre-training stands after an epoch; all of it goes into the training state."""

    epoch: int = 0
    history: list[float] = field(default_factory=list)
    best_loss: float = float("inf")
    best_model: dict[str, Tensor] | None = None
    waited: int = 0


def pretrain(
    model: nn.Module,
    tasks: Sequence[Task],
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    steps: int,
    patience: int,
    seed: int,
    sizes: Sequence[int] | None = None,
    bf16: bool = False,
    progress: Progress | None = None,
    after_epoch: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Train `model` on all tasks at once; it ends with the weights of the epoch with the lowest training loss.

    A step draws n_i // `steps` cells of every task (at least one), or as many as `sizes` says, and makes one dense
    batch of them; the model is called as model(x, sizes, targets, share) with x (B, G), the batch's cells per task and
    their targets (n_i, P), and gives the loss. With many processes each holds a part of the batch and gives that part
    of the loss; `share` tells it which, else it is None. An epoch is `steps` steps over freshly shuffled cells; the
    shuffling depends on `seed` and the epoch alone, so a run resumed from `progress` goes the way of an unbroken one.
    With `bf16` products are made in bfloat16, of weights that stay float32. The host waits for the device once an
    epoch, for the loss. Training stops after `patience` epochs without a lower loss. Raises ValueError when the loss is
    no longer finite.
    """
    progress = progress or Progress()
    sizes = list(sizes or (task.batch_size(steps) for task in tasks))
    device = tasks[0].rows.device
    network = ranks.averaged(model, device)
    x = torch.empty(sum(sizes), tasks[0].rows.shape[1], device=device)  # (B, G), filled anew every step
    cells = steps * len(x)
    with bar(epochs * cells, "pre-training", initial=progress.epoch * cells) as shown:  # closed whatever happens
        network.train()
        while progress.epoch < epochs and progress.waited < patience:
            generator = torch.Generator().manual_seed(seed * 100_003 + progress.epoch)
            total = torch.zeros((), dtype=torch.float64, device=device)
            for own, targets, share in _batches(tasks, sizes, steps, x, generator):
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    loss = network(x[: sum(own)], own, targets, share)
                optimizer.zero_grad(set_to_none=True)
                (loss * ranks.size()).backward()  # gradients of the ranks' parts of the loss become their mean
                optimizer.step()
                total += loss.detach()
                shown.update(len(x))
            progress.epoch += 1
            progress.history.append(ranks.total(total, network) / steps)
            shown.set_postfix(loss=f"{progress.history[-1]:.4f}", epoch=progress.epoch)
            if not np.isfinite(progress.history[-1]):
                raise ValueError(f"the pre-training loss is not finite in epoch {progress.epoch}; lower --pt_lr")
            if progress.history[-1] < progress.best_loss:
                progress.best_loss, progress.waited = progress.history[-1], 0
                progress.best_model = copy.deepcopy(model.state_dict())
            else:
                progress.waited += 1
            after_epoch(progress)
    model.load_state_dict(progress.best_model)
    return progress


def _batches(
    tasks: Sequence[Task], sizes: Sequence[int], steps: int, x: Tensor, generator: torch.Generator
) -> Iterator[tuple[list[int], list[Tensor], Share | None]]:
    """An epoch: fills the first rows of `x` (B, G) and yields rows and targets of each task, at every step.

    With many processes all draw the same batch, and `x` is filled with those of its rows that this one holds.
    """
    orders = [_Order.of(task, size, steps, generator) for task, size in zip(tasks, sizes, strict=True)]
    starts = np.cumsum([0, *sizes])[:-1].tolist()
    for step in range(steps):
        parts = [order.of_step(step) for order in orders]
        own = [len(rows) for rows, _, _ in parts]
        targets = []
        for task, (rows, _, entries), out in zip(tasks, parts, x[: sum(own)].split(own), strict=True):
            task.rows.fill(rows, out, entries)
            targets.append(task.targets[rows])
        share = None
        if ranks.size() > 1:
            places = [start + places for start, (_, places, _) in zip(starts, parts, strict=True)]
            share = Share(sizes, torch.cat(places))
        yield own, targets, share


@dataclass(frozen=True)
class _Order:
    """The rows of a task's steps, one after the other: which, where in their step's batch, where a step begins.

    `begin` is that of rows, `entries` of their stored values; both are known to the host.
    """

    rows: Tensor
    places: Tensor
    begin: list[int]
    entries: list[int]

    @classmethod
    def of(cls, task: Task, size: int, steps: int, generator: torch.Generator) -> "_Order":
        """An epoch's, drawn on the host and sent to the device at once."""
        drawn = _order(len(task), size * steps, generator) - task.first
        held = torch.nonzero((drawn >= 0) & (drawn < len(task.rows))).squeeze(1)
        rows = drawn[held]
        begin = [0, *torch.bincount(held // size, minlength=steps).cumsum(0).tolist()]
        entries = np.concatenate([[0], np.cumsum(task.rows.lengths[rows.numpy()], dtype=np.int64)])[begin]
        device = task.rows.device
        return cls(rows.to(device), (held % size).to(device), begin, entries.tolist())

    def of_step(self, step: int) -> tuple[Tensor, Tensor, int]:
        here = slice(self.begin[step], self.begin[step + 1])
        return self.rows[here], self.places[here], self.entries[step + 1] - self.entries[step]


def _order(cells: int, wanted: int, generator: torch.Generator) -> Tensor:
    """`wanted` rows in random order; a dataset with fewer cells than steps comes round again."""
    order = torch.randperm(cells, generator=generator)
    return order.repeat(-(-wanted // cells))[:wanted]


@dataclass(frozen=True)
class Labelled:
    """Cells of one dataset on the device and their labels (N,)."""

    rows: SparseRows | Tensor
    labels: Tensor

    def batches(self, size: int, order: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(self.rows[part], self.labels[part]) for part in order.split(size)]


def finetune(
    model: nn.Module,
    train: Labelled,
    validation: Labelled,
    *,
    epochs: int,
    lr: float,
    batch: int,
    patience: int,
    seed: int,
) -> list[float]:
    """Train a classifier on few labels; it ends with the weights of the best validation accuracy.

    Adam, at most `epochs` epochs, until `patience` of them brought nothing better (published: 500, 30, lr 2e-3).
    Without validation cells the training cells take their place. Returns the accuracies, one an epoch.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    generator = torch.Generator().manual_seed(seed)
    judge = validation if len(validation.labels) else train
    judge_batches = judge.batches(batch, torch.arange(len(judge.labels)))
    whole = train.batches(batch, torch.arange(len(train.labels))) if len(train.labels) <= batch else None
    best, best_model, waited, history = -1.0, None, 0, []
    for _ in range(epochs):
        model.train()
        for x, labels in whole or train.batches(batch, torch.randperm(len(train.labels), generator=generator)):
            loss = nn.functional.cross_entropy(model(x), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            right = sum((model(x).argmax(dim=1) == labels).sum().item() for x, labels in judge_batches)
        history.append(right / len(judge.labels))
        if history[-1] > best:
            best, best_model, waited = history[-1], copy.deepcopy(model.state_dict()), 0
        else:
            waited += 1
            if waited >= patience:
                break
    model.load_state_dict(best_model)
    return history


@torch.no_grad()
def predict(model: nn.Module, rows: SparseRows, *, batch: int = 4096) -> np.ndarray:
    """Probabilities (N, L) of the cells `rows` (N, G), a batch at a time."""
    model.eval()
    parts = [model(rows[start : start + batch]).softmax(dim=1) for start in range(0, rows.shape[0], batch)]
    return torch.cat(parts).cpu().numpy()
