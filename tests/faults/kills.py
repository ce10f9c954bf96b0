"""Kill every command at many points with SIGKILL, run it again, and compare with a run that nothing befell.

A run is a fork of this process, which has the imports behind it; where it dies is said by an audit hook (just before a
rename, or at any other change of a file) or by a timer of processor time. The commands know nothing of it.

Run: python tests/faults/kills.py --kills 30   (prints a table by command; exit 1 where a case was unclean)
"""

from __future__ import annotations

# ruff: noqa: E402
import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"  # a process that has had threads cannot be forked
os.environ["NUMBA_THREADING_LAYER"] = "workqueue"

import argparse
import resource
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT, ROOT / "tests"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import conftest
import h5py
import numpy as np
import pandas as pd
import torch
from test_annotate import few, world
from tqdm import tqdm

import utils
from stages import reduce

DATA = ["--data_dir", "data", "--offline", "--hid", "8"]
MODEL, RESULT = ["--save_model", "model.out"], ["--pretrained_model", "model.out", "--save_result", "result.out"]
PICTURES = ["--figs", "figs", "--format", "png", "--dpi", "40"]
PAPER, OURS = conftest.QUICK, ["--recipe", "scpretrain2", "--batch_num", "2"]
PHASE_1, PHASE_2 = (
    [*DATA, *MODEL, "--is_pretrain", "--kmeans"],
    ["--pretrain_output", "--pretrained_model", "model.out"],
)
LABELS = ["--label_key", "cell_type", "--unlabeled", "Unknown"]
OUTPUTS = ["--out", "out.h5ad", "--probabilities", "--suggest", "3", "--data_dir", ".", "--offline"]


@dataclass(frozen=True)
class Command:
    """A script with its flags, those it is repeated with after a kill, and the command whose folder it begins in."""

    script: str
    flags: list[str]
    after: str = ""
    again: tuple[str, ...] = ()


GOES_ON = ("--resume",)
COMMANDS = {
    "phase 1, paper": Command("main", [*PAPER, *PHASE_1], again=GOES_ON),
    "phase 2, paper": Command("main", [*PAPER, *PHASE_1, *PHASE_2], "phase 1, paper", GOES_ON),
    "phase 1": Command("main", [*OURS, *PHASE_1], again=GOES_ON),
    "phase 2": Command("main", [*OURS, *PHASE_1, *PHASE_2], "phase 1", GOES_ON),
    "test, paper": Command("main", [*PAPER, *DATA, *RESULT], "phase 2, paper"),
    "test": Command("main", [*DATA, *RESULT], "phase 2"),
    "rf_svm_lr": Command("rf_svm_lr", [*DATA, *RESULT], "test"),
    "clus": Command("clus", [*DATA, *RESULT, *PICTURES], "test"),
    "fig": Command("fig", ["--save_result", "result.out", *PICTURES], "test"),
    "annotate": Command("annotate", ["--query", "few.h5ad", *LABELS, *OUTPUTS]),
    "annotate by a reference": Command("annotate", ["--query", "few.h5ad", "--reference", "atlas.h5ad", *OUTPUTS]),
}
OLDER = b"an older result"
HANGS = 240  # seconds, of a machine that others use too
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}


# -- the world, and what is in a folder ----------------------------------------------------------------
def begin(folder: Path) -> None:
    """A corpus, two files of cells, and older outputs in the places of new ones."""
    (folder / "data").mkdir(parents=True)
    for number, (name, genes) in enumerate({"Mouse_A": conftest.MOUSE, "Human_B": conftest.HUMAN}.items(), 1):
        conftest.write_dataset(folder / "data" / f"{name}.h5", number, genes)
    conftest.write_catalogue(folder / "data", [("Mouse_A", "mouse", "yes"), ("Human_B", "human", "yes")])
    conftest.write_orthologs(folder / "data", dict(zip(conftest.HUMAN, conftest.MOUSE, strict=True)))
    few(world()).write_h5ad(folder / "few.h5ad")
    world(1).write_h5ad(folder / "atlas.h5ad")
    row = {"dataset": "Older", "arm": utils.ARMS[0], "seed": 0, "accuracy": 0.5, "run": "x"}
    utils.write_result(folder / "result.csv", row)
    for name in ("model.out", "out.h5ad", "out.csv", "out.html", "figs/summary.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(OLDER)


def content(path: Path) -> Any:
    """What a file says, without how long it took."""
    data = path.read_bytes()
    if path.suffix == ".csv" and data.startswith(b"dataset,"):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        return {"\t".join(row) for row in table.drop(columns="seconds", errors="ignore").to_numpy()}
    if path.suffix == ".h5ad" and data != OLDER:
        found = {}
        with h5py.File(path) as file:
            file.visititems(lambda name, node: found.update({name: (_values(node), repr(dict(node.attrs)))}))
        return found
    return data


def _values(node: h5py.Group | h5py.Dataset) -> Any:
    if isinstance(node, h5py.Group):
        return None
    values = node[()]
    return (
        values.tolist() if isinstance(values, np.ndarray) and values.dtype == object else np.asarray(values).tobytes()
    )


def contents(folder: Path) -> dict[str, Any]:
    """The files of a folder that are not half-written ones or locks."""
    parts = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    names = sorted(str(path) for path in parts if ".part" not in str(path) and not str(path).endswith(".lock"))
    return {name: content(folder / name) for name in names}


def half_done(before: dict[str, Any], found: dict[str, Any], whole: dict[str, Any], folder: Path) -> list[str]:
    """What is wrong in a folder after a kill: something that was there before is lost, something is half there."""
    wrong = [f"{name} is lost" for name in before if name not in found]
    for name, now in found.items():
        old, new = before.get(name), whole.get(name)
        if isinstance(now, set):  # the rows of a table of results
            old = old or set()
            fine = now <= old | new and old & new <= now
        elif name.endswith(".state"):
            fine = utils.load_state(folder / name, utils._run_of(folder / name)) is not None
        else:
            fine = now in (old, new)
        if not fine:
            wrong.append(f"{name} is neither what it was nor what it becomes")
    return wrong


# -- one run ----------------------------------------------------------------
@dataclass(frozen=True)
class Point:
    """Where a run dies: at its n-th change of a file (kind "change" or "rename"), or after so much processor time."""

    kind: str
    at: float


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code or minus its signal, processor time, what it changed, what it said."""

    code: int
    seconds: float
    changes: list[str]
    said: str


def ran(command: Command, folder: Path, more: tuple[str, ...] = (), point: Point | None = None) -> Ended:
    """Run a command in `folder` in a child, which dies at `point`."""
    log, changes = folder.parent / "said", folder.parent / "changes"
    sys.stdout.flush()
    if not (child := os.fork()):
        _child(command, folder, more, point, (log, changes))
    _, status, used = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, used.ru_utime + used.ru_stime, changes.read_text().split(), log.read_text(errors="replace"))


def _child(
    command: Command, folder: Path, more: tuple[str, ...], point: Point | None, notes: tuple[Path, Path]
) -> None:
    code = 70
    try:
        out = os.open(notes[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        changes = os.open(notes[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(HANGS)
        tqdm.set_lock(threading.RLock())  # its own is one for all forks: one killed within it would stop the others
        seen = {"change": 0, "rename": 0}

        def hook(event: str, args: tuple) -> None:
            writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not writes and event not in CHANGES:
                return
            kind = "rename" if event == "os.rename" else "change"
            for one in {kind, "change"}:
                seen[one] += 1
                if point and point.kind == one and point.at == seen[one]:
                    os.kill(os.getpid(), signal.SIGKILL)
            os.write(changes, f"{kind}\n".encode())

        sys.addaudithook(hook)
        if point and point.kind == "time":
            signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process, wherever it is
            signal.setitimer(signal.ITIMER_PROF, point.at)
        code = import_module(command.script).main([*command.flags, *more])
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(code)


def points_of(ended: Ended, kills: int) -> list[Point]:
    """Where to kill: before every rename (a third of the kills, spread), at other changes, and in between by time."""
    found = []
    for kind in ("rename", "change"):
        count = sum(kind in ("change", change) for change in ended.changes)
        some = min(count, -(-kills // 3))
        found += [Point(kind, float(at)) for at in sorted({round(at) for at in np.linspace(1, count, some + 1)[1:]})]
    rest = kills - len(found)
    return found + [Point("time", ended.seconds * (i + 0.5) / rest) for i in range(rest)]


# -- all ----------------------------------------------------------------
def warm() -> None:
    """Load and compile here what every child would load and compile."""
    for name in ("main", "rf_svm_lr", "clus", "fig", "annotate", "anndata.io", "igraph", "scipy.io", "sklearn.svm"):
        import_module(name)
    for cells in (40, 120):
        reduce.umap(np.random.default_rng(0).normal(size=(cells, 8)).astype(np.float32), 0)
    torch.set_num_threads(1)


def cases(kills: int, folder: Path, names: list[str]) -> Iterator[tuple[str, Point, list[str]]]:
    """(command, point, what was wrong) for every kill; raises RuntimeError where an unbroken run fails."""
    work, results = folder / "work", {}
    begin(folder / "begin")
    for name in _with_those_before(names):
        command = COMMANDS[name]
        start = results.get(command.after, folder / "begin")
        _anew(start, work)
        unbroken = ran(command, work)
        if unbroken.code:
            raise RuntimeError(f"{name}: {unbroken.said}")
        before, whole = contents(start), contents(work)
        results[name] = folder / f"after {name}"
        work.rename(results[name])
        for point in points_of(unbroken, kills) if name in names else ():
            _anew(start, work)
            yield name, point, _case(command, work, point, before, whole)


def _case(command: Command, work: Path, point: Point, before: dict, whole: dict) -> list[str]:
    killed = ran(command, work, point=point)
    if killed.code == 0 and point.kind == "time":
        return []  # it was done sooner this time
    if killed.code not in (-signal.SIGKILL, -signal.SIGPROF):
        return [f"it was not killed but ended with {killed.code}: {killed.said[-300:]}"]
    wrong = half_done(before, contents(work), whole, work)
    again = ran(command, work, command.again)
    if again.code:
        return [*wrong, f"run again, it ended with {again.code}: {again.said[-300:]}"]
    found = contents(work)
    for name in sorted({*found, *whole}):
        more = name not in whole and name.startswith("data/cache/")  # a finished run, repeated, reads what it made
        if found.get(name) != whole.get(name) and not more:
            wrong.append(f"{name} is not as without the kill")
    return wrong + [f"{path.name} stays" for path in work.rglob("*.part")]


def _anew(start: Path, work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(start, work)


def _with_those_before(names: list[str]) -> list[str]:
    needed = set(names)
    for name in reversed(COMMANDS):
        if name in needed:
            needed.add(COMMANDS[name].after)
    return [name for name in COMMANDS if name in needed]


def table(kills: int, names: list[str], say: Callable[[str], None] = print) -> int:
    """Print the table of a campaign; returns how many cases were unclean."""
    warm()
    say("| command | kills | before a rename | unclean |\n|---|---:|---:|---:|")
    unclean: list[tuple[str, Point, list[str]]] = []
    with tempfile.TemporaryDirectory() as folder:
        found = list(cases(kills, Path(folder), names))
    for name in names:
        mine = [case for case in found if case[0] == name]
        bad = [case for case in mine if case[2]]
        say(f"| {name} | {len(mine)} | {sum(point.kind == 'rename' for _, point, _ in mine)} | {len(bad)} |")
        unclean += bad
    for name, point, wrong in unclean:
        print(f"{name}, {point}: {'; '.join(wrong)}", file=sys.stderr)
    return len(unclean)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="a command")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    words = parser.parse_args()
    return 1 if table(words.kills, words.commands) else 0


if __name__ == "__main__":
    sys.exit(main())
