"""Three kills a command: what was saved is there, and the run repeated ends as if nothing had been.

Run: python -m pytest tests/faults/test_kills.py (thirty a command: python tests/faults/kills.py)
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 3
NAMES = (
    *("phase 1, paper", "phase 2, paper", "phase 1", "test"),  # the others: in the campaign
    *("rf_svm_lr", "clus", "fig", "annotate"),
)
SCRIPT = Path(__file__).with_name("kills.py")


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="runs are forks of one process")
def test_a_killed_command_loses_nothing_and_run_again_ends_as_an_unbroken_one():
    words = [sys.executable, "-W", "ignore", str(SCRIPT), "--kills", str(KILLS), "--commands", *NAMES]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"\| ([^|]+) \| (\d+) \| (\d+) \| 0 \|", done.stdout)
    assert [(name, int(kills)) for name, kills, _ in rows] == [(name, KILLS) for name in NAMES]
    assert all(int(before_a_rename) for _, _, before_a_rename in rows)


def test_the_harness_notices_what_is_lost_and_what_is_half_there(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
import kills
from pathlib import Path
folder = Path({str(tmp_path)!r})
lost = kills.half_done({{"a": b"1"}}, {{}}, {{"a": b"2"}}, folder)
half = kills.half_done({{"a": b"1"}}, {{"a": b"3"}}, {{"a": b"2"}}, folder)
rows = kills.half_done({{"t": {{"1", "2"}}}}, {{"t": {{"1"}}}}, {{"t": {{"1", "2", "3"}}}}, folder)
new = {{"a": b"2", "t": {{"1", "2"}}}}
fine = kills.half_done({{"a": b"1", "t": {{"1"}}}}, {{"a": b"1", "t": {{"1", "2"}}}}, new, folder)
print(lost, half, len(rows), fine)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "['a is lost'] ['a is neither what it was nor what it becomes'] 1 []", done.stderr
