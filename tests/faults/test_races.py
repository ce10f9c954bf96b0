"""Two runs on one folder: no row is lost.  python -m pytest tests/faults/test_races.py"""

import subprocess
import sys
from pathlib import Path

import utils

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


def test_two_processes_that_write_one_table_keep_every_row(tmp_path):
    path = tmp_path / "result.csv"
    codes = [WRITER.format(root=str(ROOT), rows=ROWS, path=str(path), arm=arm) for arm in utils.ARMS]
    writers = [subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) for code in codes]
    for writer in writers:  # both are let go once both are there
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    table = utils.read_results(path)
    assert len(table) == 2 * ROWS and not table.duplicated(["dataset", "arm", "seed"]).any()
