"""Many processes of one run, started by torchrun: who does what, and what one of them knows told to all.

Without torchrun, or with one process, every function here is the plain thing: no group is made, nothing is sent.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from voice import heard

if TYPE_CHECKING:  # torch takes seconds to load, and `flags` asks for the rank before that
    import torch

STEP = timedelta(seconds=45)  # that gradients wait for the slowest rank before the run is given up
STAGE = timedelta(hours=24)  # that a rank waits for others' datasets; a dead one closes its connections: known at once
ENDED = (
    "another process of this run has ended or no longer answers (its own message, or torchrun's report, says why); "
    "what was finished is saved, and the same command (with --resume when pre-training) goes on, with any number of "
    "processes"
)

Item = TypeVar("Item")
Made = TypeVar("Made")


def rank() -> int:
    """The number of this process among all of the run, from 0."""
    return _number("RANK", 0)


def size() -> int:
    """How many processes the run has."""
    return _number("WORLD_SIZE", 1)


def local() -> int:
    """The number of this process among those of its machine: the number of its GPU."""
    return _number("LOCAL_RANK", 0)


def _number(name: str, alone: int) -> int:
    """What torchrun says; other launchers leave the same names about, with no group to join."""
    return int(os.environ[name]) if "TORCHELASTIC_RUN_ID" in os.environ else alone


def first() -> bool:
    """Whether this is the process that speaks and writes."""
    return rank() == 0


@contextmanager
def joined() -> Iterator[None]:
    """All processes of the run in one group while the block runs (or the function it decorates); the first is heard.

    Where another process is gone this one ends, with exit code 2; the first says why.
    """
    if size() == 1:
        yield
        return
    import torch.distributed as dist

    before = signal.signal(signal.SIGTERM, _stopped)  # torchrun's way to stop those that are left
    with nullcontext() if first() else heard(None):
        try:
            dist.init_process_group("gloo", timeout=STAGE)
            yield
        except RuntimeError as error:
            if not _of_the_group(error):
                raise
            _leave()
        finally:
            signal.signal(signal.SIGTERM, before)
            if dist.is_initialized():
                dist.destroy_process_group()


def _of_the_group(error: RuntimeError) -> bool:
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in ("gloo", "nccl", "c10d"))


def _stopped(number: int, frame: object) -> None:
    _leave()


def _leave() -> NoReturn:
    """End at once: a group that has lost a member may wait for it once more when it is taken down, for ever."""
    if first():
        print(f"error: {ENDED}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


# -- who does what ----------------------------------------------------------------
def share(count: int) -> slice:
    """This rank's part of `count` rows: a run of them, possibly none."""
    return slice(count * rank() // size(), count * (rank() + 1) // size())


def owners(sizes: Sequence[float], among: int) -> list[int]:
    """Which of `among` ranks takes each item: the largest first, each to the rank with least to do so far."""
    load, found = [0.0] * among, [0] * len(sizes)
    for item in sorted(range(len(sizes)), key=lambda item: (-sizes[item], item)):
        found[item] = min(range(among), key=lambda one: (load[one], one))
        load[found[item]] += sizes[item]
    return found


def mine(items: Sequence[Item], sizes: Sequence[float]) -> list[Item]:
    """The items that this rank takes, in order; `sizes` tells what each of them costs."""
    return [item for item, owner in zip(items, owners(sizes, size()), strict=True) if owner == rank()]


def spread(make: Callable[[Item], Made], items: Sequence[Item], sizes: Sequence[float]) -> list[Made]:
    """make(item) of every item, each made by one rank and then known to all, in order."""
    if size() == 1:
        return [make(item) for item in items]
    made = [(place, make(items[place])) for place in mine(range(len(items)), sizes)]
    return [one for _, one in sorted((pair for part in gathered(made) for pair in part), key=lambda pair: pair[0])]


# -- what all know ----------------------------------------------------------------
def gathered(mine: Made) -> list[Made]:
    """What every rank has brought, in their order; nobody goes on before all have come."""
    if size() == 1:
        return [mine]
    import torch.distributed as dist

    found: list[Any] = [None] * size()
    dist.all_gather_object(found, mine)
    return found


def from_first(make: Callable[[], Made]) -> Made:
    """What the first rank makes, on every rank."""
    if size() == 1:
        return make()
    import torch.distributed as dist

    box = [make() if first() else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]  # type: ignore[return-value]


@contextmanager
def one_first() -> Iterator[None]:
    """The block on one process of every machine, then on the others: what is fetched once is there for them."""
    if local():
        gathered(None)
    yield
    if not local():
        gathered(None)


def averaged(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """The model as it is called in training: every rank begins with the first one's weights, gradients are means."""
    if size() == 1:
        return model
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    group = dist.new_group(backend="nccl" if device.type == "cuda" else "gloo", timeout=STEP)
    cards = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, cards, process_group=group, forward_sync_buffers=False)


def total(value: torch.Tensor, network: torch.nn.Module) -> float:
    """The sum over all ranks of a number that each has a part of, between two steps of an `averaged` network."""
    if size() > 1:
        import torch.distributed as dist

        dist.all_reduce(value, group=network.process_group)  # type: ignore[arg-type]  # waits as long as gradients do
    return value.item()
