"""The two loops: run with `python -m pytest tests/stages/test_train.py`."""

import copy
from contextlib import suppress

import numpy as np
import pytest
import torch
from conftest import draw
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from model import Classifier, Encoder, MultiTask
from stages import train
from stages.batch import SparseRows


class Interrupted(Exception):
    pass


def world(cells=(40, 30)):
    """Two datasets with their pseudo-labels, and a model for them."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    partitions = [[3, 5, 2], [2, 4, 2]][: len(cells)]
    tasks = [
        train.Task(
            f"d{n}",
            SparseRows(draw(seed, n)[0], log1p=True),
            torch.from_numpy(np.stack([rng.integers(k, size=n) for k in ks], axis=1)),
        )
        for seed, (n, ks) in enumerate(zip(cells, partitions, strict=True))
    ]
    model = MultiTask(Encoder(12, 8), partitions)
    return model, tasks, torch.optim.Adam(model.parameters(), lr=0.05, fused=True)


class Scripted(nn.Module):
    """Its losses are a script, one value an epoch of `steps` steps; its weight counts the steps."""

    def __init__(self, losses, steps):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.losses, self.steps, self.step = losses, steps, 0

    def forward(self, x, sizes, targets, share=None):
        value = self.losses[self.step // self.steps]
        self.step += 1
        return self.weight * 0 - self.weight + self.weight.detach() + value  # gradient -1, loss as scripted


def scripted(losses, patience, epochs=50, steps=2):
    _, tasks, _ = world()
    model = Scripted(losses, steps)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    progress = train.pretrain(model, tasks, optimizer, epochs=epochs, steps=steps, patience=patience, seed=0)
    return model, progress


def test_early_stopping_waits_as_published_and_keeps_the_best_weights():
    model, progress = scripted([3.0, 2.0, 1.0, 1.5, 1.0, 1.2, 0.1], patience=3)
    assert progress.history == pytest.approx([3, 2, 1, 1.5, 1, 1.2])  # three epochs without a lower loss, then the end
    assert progress.best_loss == pytest.approx(1)
    assert model.weight.item() == 6  # as it was after the third epoch of two steps, not after the sixth


def test_a_lower_loss_starts_the_waiting_anew_and_epochs_are_the_limit():
    assert scripted([3, 4, 2, 4, 1, 4, 4], patience=2)[1].epoch == 7
    assert scripted([3, 4, 2, 4, 1, 4, 4], patience=2, epochs=4)[1].epoch == 4


def test_a_loss_that_is_not_finite_ends_the_run_with_a_remedy():
    with pytest.raises(ValueError, match="not finite in epoch 2; lower --pt_lr"):
        scripted([1.0, float("nan")], patience=3)


def test_a_step_takes_its_share_of_every_dataset_and_at_least_a_cell():
    _, tasks, _ = world((40, 3))
    seen = []

    class Watch(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, x, sizes, targets, share=None):
            seen.append((list(sizes), x.clone(), [target.clone() for target in targets]))
            return self.weight.square()

    model = Watch()
    train.pretrain(model, tasks, torch.optim.SGD(model.parameters(), 0.1), epochs=1, steps=8, patience=5, seed=0)
    assert [sizes for sizes, _, _ in seen] == [[5, 1]] * 8
    dense = [task.rows[:] for task in tasks]
    rows = torch.cat([x[:5] for _, x, _ in seen])
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, dense[0].tolist()))  # every cell once
    for _, x, targets in seen:  # rows and targets belong together
        for row, target in zip(x[:5], targets[0], strict=True):
            places = (dense[0] == row).all(dim=1).nonzero().ravel()
            assert any(torch.equal(tasks[0].targets[place], target) for place in places)
    small = torch.cat([x[5:] for _, x, _ in seen])
    assert {tuple(row) for row in small.tolist()} == {tuple(row) for row in dense[1].tolist()}  # it comes round again


def test_an_epoch_is_the_slow_loop():
    model, tasks, optimizer = world()
    slow, dense = copy.deepcopy(model), [task.rows[:] for task in tasks]
    plain = torch.optim.Adam(slow.parameters(), lr=0.05)
    losses = []
    for epoch in range(2):
        generator = torch.Generator().manual_seed(3 * 100_003 + epoch)
        orders = [torch.randperm(n, generator=generator) for n in (40, 30)]
        for step in range(4):
            parts = [order[step * n : (step + 1) * n] for order, n in zip(orders, (10, 7), strict=True)]
            x = torch.cat([cells[rows] for cells, rows in zip(dense, parts, strict=True)])
            targets = [task.targets[rows] for task, rows in zip(tasks, parts, strict=True)]
            loss = slow(x, [10, 7], targets)
            plain.zero_grad()
            loss.backward()
            plain.step()
            losses.append(loss.item())
    progress = train.pretrain(model, tasks, optimizer, epochs=2, steps=4, patience=5, seed=3)
    assert progress.history == pytest.approx([np.mean(losses[:4]), np.mean(losses[4:])], rel=1e-4)


def run(epochs=5, stop_after=None, saved=None):
    model, tasks, optimizer = world()
    kept = {}

    def after_epoch(progress):
        if progress.epoch == stop_after:
            parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": vars(progress)}
            kept.update(copy.deepcopy(parts))
            raise Interrupted

    progress = train.Progress()
    if saved:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        progress = train.Progress(**saved["progress"])
    with suppress(Interrupted):
        progress = train.pretrain(
            model, tasks, optimizer, epochs=epochs, steps=4, patience=2, seed=7, progress=progress,
            after_epoch=after_epoch,
        )  # fmt: skip
    return model, progress, kept


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_a_resumed_run_ends_as_an_unbroken_one_bit_for_bit(stop_after):
    unbroken, whole, _ = run()
    _, _, saved = run(stop_after=stop_after)
    resumed, progress, _ = run(saved=saved)
    assert progress.history == whole.history and progress.waited == whole.waited
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_same_seed_trains_the_same_weights():
    first, second = run()[0].state_dict(), run()[0].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


# -- fine-tuning


def labelled(seed=0):
    counts, types = draw(seed)
    labels = torch.from_numpy(np.unique(types, return_inverse=True)[1])
    rows = SparseRows(counts, log1p=True)
    return [train.Labelled(rows[part], labels[part]) for part in (slice(0, 24), slice(24, 30), slice(30, 40))]


def classifier():
    torch.manual_seed(0)
    return Classifier(Encoder(12, 8), 3)


SETTINGS = {"lr": 0.02, "batch": 5000, "seed": 0}


def test_fine_tuning_learns_and_predicts_probabilities():
    first, second, third = labelled()
    model = classifier()
    train.finetune(model, first, second, epochs=80, patience=80, **SETTINGS)
    counts, _ = draw(0)
    outputs = train.predict(model, SparseRows(counts[30:], log1p=True), batch=3)
    assert outputs.shape == (10, 3)
    np.testing.assert_allclose(outputs.sum(axis=1), 1, rtol=1e-5)
    assert (outputs.argmax(axis=1) == third.labels.numpy()).all()


def accuracy(model, cells):
    with torch.no_grad():
        return (model(cells.rows).argmax(dim=1) == cells.labels).float().mean().item()


@pytest.mark.parametrize("batch", [5000, 7])
def test_the_weights_of_the_best_validation_accuracy_are_kept(batch):
    first, second, _ = labelled()
    model = classifier()
    history = train.finetune(model, first, second, epochs=40, patience=3, lr=0.02, batch=batch, seed=0)
    assert accuracy(model, second) == pytest.approx(max(history))
    best = history.index(max(history))
    assert len(history) == min(40, best + 1 + 3) or max(history[-3:]) <= max(history[:-3])


def test_without_validation_cells_the_training_cells_judge():
    first, second, _ = labelled()
    model = classifier()
    none = train.Labelled(second.rows[:0], second.labels[:0])
    history = train.finetune(model, first, none, epochs=30, patience=30, **SETTINGS)
    assert accuracy(model, first) == pytest.approx(max(history))


def test_batches_of_everything_are_one_batch():
    first, second, _ = labelled()
    models = [classifier(), classifier()]
    for model, batch in zip(models, (24, 5000), strict=True):
        train.finetune(model, first, second, epochs=5, patience=9, lr=0.02, batch=batch, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))


def test_in_bfloat16_the_losses_are_the_same_to_a_thousandth():
    histories = []
    for bf16 in (False, True):
        model, tasks, optimizer = world((400, 300))
        histories.append(
            train.pretrain(model, tasks, optimizer, epochs=4, steps=5, patience=5, seed=0, bf16=bf16).history
        )
        assert all(value.dtype == torch.float32 for value in model.state_dict().values())
    plain, short = histories
    assert short == pytest.approx(plain, rel=1e-3) and short != plain


def test_the_host_waits_for_the_device_no_more_often_in_an_epoch_of_more_steps():
    """Every wait of a GPU is a number read from it, or a size that only it knows."""
    counts = []
    for steps in (2, 8):
        model, tasks, optimizer = world((400, 300))
        with Waits() as waits:
            train.pretrain(model, tasks, optimizer, epochs=1, steps=steps, patience=5, seed=0)
        counts.append(waits.count)
    assert counts[0] == counts[1] > 0


class Waits(TorchDispatchMode):
    """Counts the operations that a GPU would have to have finished before the host goes on."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = str(function), kwargs or {}
        repeats = name.startswith("aten.repeat_interleave") and kwargs.get("output_size") is None
        if repeats or name.startswith(("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal")):
            self.count += 1
        return function(*args, **kwargs)
