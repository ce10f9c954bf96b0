"""Two runs on one folder: no row is lost, nothing is mixed.  python -m pytest tests/faults/test_races.py"""

import subprocess
import sys
from pathlib import Path

import utils
from files import locked

ROOT = Path(__file__).resolve().parents[2]
ROWS = 30
WRITER = """
import sys
sys.path.insert(0, {root!r})
import utils
from pathlib import Path
sys.stdin.readline()
for seed in range({rows}):
    utils.write_result(Path({path!r}), {{"dataset": "a", "arm": {arm!r}, "seed": seed, "accuracy": 0.5, "run": "x"}})
"""


SAME_CACHE = """
import sys
sys.path.insert(0, {root!r})
import numpy as np
from files import Cache
from pathlib import Path
cache = Cache(Path({path!r}))
sys.stdin.readline()
for number in range({rows}):
    found = cache.arrays("kind", "name", (number,), lambda: {{"a": np.full(5000, number)}})
    assert (found["a"] == number).all()
"""
SAME_CHECKPOINT = """
import sys
sys.path.insert(0, {root!r})
import torch, utils
from model import Encoder
from pathlib import Path
encoder = Encoder(30, 4)
torch.nn.init.constant_(encoder.linear.weight, len({arm!r}))
made = utils.Checkpoint(encoder, [f"G{{i}}" for i in range(30)], recipe={arm!r})
sys.stdin.readline()
for number in range({rows}):
    utils.save_checkpoint(Path({path!r}), made)
    found = utils.load_checkpoint(Path({path!r}))
    assert (found.encoder.linear.weight == len(found.recipe)).all()
"""


def together(code: str, path: Path) -> list[int]:
    """The exit codes of two processes that are let go once both are there."""
    codes = [code.format(root=str(ROOT), rows=ROWS, path=str(path), arm=arm) for arm in utils.ARMS]
    runs = [subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) for code in codes]
    for run in runs:
        run.stdin.write(b"\n")
        run.stdin.flush()
    return [run.wait(timeout=300) for run in runs]


def test_two_processes_that_write_one_table_keep_every_row(tmp_path):
    path = tmp_path / "result.csv"
    assert together(WRITER, path) == [0, 0]
    table = utils.read_results(path)
    assert len(table) == 2 * ROWS and not table.duplicated(["dataset", "arm", "seed"]).any()


def test_two_processes_with_one_cache_both_have_what_they_asked_for(tmp_path):
    assert together(SAME_CACHE, tmp_path / "cache") == [0, 0]
    entries = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert len(entries) == ROWS and not any(path.name.endswith(".part") for path in entries)


def test_two_processes_that_write_one_checkpoint_never_leave_a_mixture_of_both(tmp_path):
    assert together(SAME_CHECKPOINT, tmp_path / "model.out") == [0, 0]
    assert utils.load_checkpoint(tmp_path / "model.out").recipe in utils.ARMS
    assert not list(tmp_path.glob("*.part"))


def test_two_pre_trainings_into_one_checkpoint_are_not_both_begun(run, tmp_path, capsys):
    with locked(tmp_path / "model.out"):  # as another run holds it
        assert run("--is_pretrain", "--kmeans") == 2
    assert "model.out is held by another run" in capsys.readouterr().err
