"""The two training loops: many datasets at once, one dataset; they know nothing of the model or the files."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from stages.batch import SparseRows
from voice import bar


@dataclass
class Task:
    """One dataset of pre-training: its cells on the device and their pseudo-labels (N, P), P partitions."""

    name: str
    rows: SparseRows
    targets: Tensor

    def batch_size(self, steps: int) -> int:
        return max(1, len(self.rows) // steps)


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
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    progress: Progress | None = None,
    after_epoch: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Train `model` on all tasks at once; it ends with the weights of the epoch with the lowest training loss.

    A step draws n_i // `steps` cells of every task (at least one), or as many as `sizes` says, and makes one dense
    batch of them; the model is called as model(x, sizes, targets) with x (B, G), the batch's cells per task and their
    targets (n_i, P), and gives the loss. An epoch is `steps` steps over freshly shuffled cells; the shuffling depends
    on `seed` and the epoch alone, so a run resumed from `progress` goes the way of an unbroken one. `schedule` moves on
    with every step. Training stops after `patience` epochs without a lower loss. Raises ValueError when the loss is
    no longer finite.
    """
    progress = progress or Progress()
    sizes = list(sizes or (task.batch_size(steps) for task in tasks))
    device = tasks[0].rows.device
    x = torch.empty(sum(sizes), tasks[0].rows.shape[1], device=device)  # (B, G), filled anew every step
    cells = steps * len(x)
    with bar(epochs * cells, "pre-training", initial=progress.epoch * cells) as shown:  # closed whatever happens
        model.train()
        while progress.epoch < epochs and progress.waited < patience:
            generator = torch.Generator().manual_seed(seed * 100_003 + progress.epoch)
            orders = [_order(len(task.rows), size * steps, generator) for task, size in zip(tasks, sizes, strict=True)]
            total = 0.0
            for step in range(steps):
                targets = []
                for task, size, order, out in zip(tasks, sizes, orders, x.split(sizes), strict=True):
                    rows = order[step * size : (step + 1) * size].to(device)
                    task.rows.fill(rows, out)
                    targets.append(task.targets[rows])
                loss = model(x, sizes, targets)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                total += loss.item()
                shown.update(len(x))
            progress.epoch += 1
            progress.history.append(total / steps)
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
