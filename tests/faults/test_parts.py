"""What a killed run leaves is removed by a later one.  python -m pytest tests/faults/test_parts.py"""

import os
import subprocess
import sys
import time

import pytest

import files
from files import Cache, whole


def test_parts_of_killed_runs_go_after_a_day_and_nothing_else_does(tmp_path):
    old = [
        tmp_path / "a.h5ad.77.part",
        tmp_path / "a.h5ad.1-0123abcd.part",
        tmp_path / "a.h5ad.1-0123abcd-0123abcd.part",
        tmp_path / "a.h5ad.1-0123abcd-0123abcd.part.1-0123abcd-89abcdef.part",  # what was written into a part
    ]
    kept = [tmp_path / "b.h5ad.77.part", tmp_path / "a.h5ad.mine.part", tmp_path / "a.h5ad.csv"]
    fresh = tmp_path / "a.h5ad.78.part"
    for path in (*old, *kept, fresh):
        path.write_text("x")
    for path in (*old, *kept):
        os.utime(path, (time.time() - 2 * 86_400,) * 2)
    with whole(tmp_path / "a.h5ad") as part:
        part.write_text("new")
    assert sorted(tmp_path.iterdir()) == sorted([*kept, fresh, tmp_path / "a.h5ad"])


@pytest.mark.skipif(os.name != "posix", reason="processes are asked for there")
def test_a_part_whose_process_is_gone_goes_at_once_and_that_of_another_machine_stays(tmp_path, monkeypatch):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: int(ended.stdout))
        gone = files._part_of(tmp_path / "a")
        entry = files._part_of(tmp_path / "kind-name-0")
    running = files._part_of(tmp_path / "a")
    elsewhere = tmp_path / f"a.{ended.stdout.strip()}-00000000-00000000.part"
    for path in (gone, running, elsewhere):
        path.write_text("x")
    entry.mkdir()
    (entry / "half.npy").write_text("x")
    with whole(tmp_path / "a") as part:
        part.write_text("new")
    files.clear_parts(tmp_path / "kind-name-0")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a", running, elsewhere])


def test_an_entry_of_the_cache_that_was_half_written_goes_with_the_next_one(tmp_path, monkeypatch):
    made = Cache(tmp_path).arrays("kind", "name", (1,), lambda: {"a": files.np.arange(3)})
    (entry,) = (path for path in tmp_path.iterdir() if path.is_dir())
    half = files._part_of(entry)
    entry.rename(half)
    monkeypatch.setattr(files, "_gone", lambda process: True)
    again = Cache(tmp_path).arrays("kind", "name", (1,), lambda: {"a": files.np.arange(3)})
    assert (made["a"] == again["a"]).all() and not half.exists() and entry.is_dir()


def test_two_runs_with_one_process_id_do_not_share_a_part(tmp_path):
    with whole(tmp_path / "a") as one, whole(tmp_path / "a") as other:
        assert one != other
        one.write_text("1")
        other.write_text("2")
