"""What a killed run leaves is removed by a later one.  python -m pytest tests/faults/test_parts.py"""

import os
import time

from files import whole


def test_parts_of_killed_runs_go_after_a_day_and_nothing_else_does(tmp_path):
    old = [tmp_path / "a.h5ad.77.part", tmp_path / "a.h5ad.1-0123abcd.part"]
    kept = [tmp_path / "b.h5ad.77.part", tmp_path / "a.h5ad.mine.part", tmp_path / "a.h5ad.csv"]
    fresh = tmp_path / "a.h5ad.78.part"
    for path in (*old, *kept, fresh):
        path.write_text("x")
    for path in (*old, *kept):
        os.utime(path, (time.time() - 2 * 86_400,) * 2)
    with whole(tmp_path / "a.h5ad") as part:
        part.write_text("new")
    assert sorted(tmp_path.iterdir()) == sorted([*kept, fresh, tmp_path / "a.h5ad"])


def test_two_runs_with_one_process_id_do_not_share_a_part(tmp_path):
    with whole(tmp_path / "a") as one, whole(tmp_path / "a") as other:
        assert one != other
        one.write_text("1")
        other.write_text("2")
