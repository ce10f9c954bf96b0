"""HDF5 files over which the library hangs or crashes end in our error, because a scout goes first.

Run: python -m pytest tests/faults/test_scout.py
"""

import formats
import h5py
import numpy as np
import pytest

from reading import guard
from reading.cells import Unreadable, read

SCOUT = """
import json, os, sys
os.write(1, b"ready\\n")
for line in sys.stdin:
    path = json.loads(line)
    with open({notes!r}, "a") as file:
        file.write(path + "\\n")
    if "bad" in path or ("once" in path and open({notes!r}).read().count("once") == 1):
        os.abort()
    os.write(1, b"..fine\\n")
"""


@pytest.fixture
def scouts(tmp_path, monkeypatch):
    """A scout that dies over files called bad, and once over one called once; and the paths that it was asked for."""
    script, notes = tmp_path / "scout.py", tmp_path / "notes"
    script.write_text(SCOUT.format(notes=str(notes)))
    scouts = guard._Scouts(script)
    monkeypatch.setattr(guard, "_scouts", scouts)
    yield lambda: notes.read_text().split()
    scouts.end()


def hdf5(path):
    with h5py.File(path, "w") as file:
        file["a"] = np.arange(3)
    return path


def test_a_crash_is_told_as_the_files_fault_and_the_next_file_is_read(tmp_path, scouts):
    bad, good = hdf5(tmp_path / "bad.h5"), hdf5(tmp_path / "good.h5")
    with pytest.raises(Unreadable, match="bad.*crashes over it"):
        guard.looked_through(bad, f"bad ({bad})")
    guard.looked_through(good, "good")
    assert scouts() == [str(bad)] * 2 + [str(good)]


def test_a_scout_that_died_of_an_earlier_file_does_not_blame_the_next_one(tmp_path, scouts):
    guard.looked_through(hdf5(tmp_path / "once.h5"), "once")
    assert len(scouts()) == 2


def test_a_version_of_a_file_is_looked_through_once_and_a_new_one_anew(tmp_path, scouts):
    path = hdf5(tmp_path / "good.h5")
    guard.looked_through(path, "good")
    guard.looked_through(path, "good")
    assert len(scouts()) == 1
    path.write_bytes(path.read_bytes() + b"0")
    guard.looked_through(path, "good")
    assert len(scouts()) == 2


def test_where_no_scout_can_be_started_the_file_is_read_all_the_same(tmp_path, monkeypatch):
    path, _ = formats.h5ad(tmp_path)
    monkeypatch.setattr(guard, "_scouts", guard._Scouts(tmp_path / "not_there.py"))
    assert len(read(path).cells) == len(formats.CELLS)


def test_an_attribute_that_is_never_read_to_its_end_is_refused(tmp_path, monkeypatch):
    path, _ = formats.h5ad(tmp_path)
    data = bytearray(path.read_bytes())
    at = data.find(guard.HEAP)
    end, place = at + int.from_bytes(data[at + 8 : at + 16], "little"), at + 16
    while place + 16 <= end and int.from_bytes(data[place : place + 2], "little"):
        place += 16 + (int.from_bytes(data[place + 8 : place + 16], "little") + 7) // 8 * 8
    data[place + 8 : place + 16] = bytes(8)  # free room of no size: the library walks on the spot
    path.write_bytes(data)
    with pytest.raises(Unreadable, match="small.*heap of texts.*is damaged"):
        read(path)
    monkeypatch.setattr(guard, "heaps_end", lambda path, where: None)  # as where it lies far inside a large file
    with pytest.raises(Unreadable, match="small.*never ends reading it"):
        read(path)
    read(formats.table(tmp_path)[0])  # and the next is read


def test_the_scout_passes_over_what_is_only_damaged(tmp_path):
    path, _ = formats.h5ad(tmp_path)
    assert guard._scouts.ask(str(path)) == "fine"
    assert guard._scouts.ask(str(tmp_path / "not_there.h5")) == "fine"  # said by the reader
    path.write_bytes(path.read_bytes()[:3000])
    assert guard._scouts.ask(str(path)) == "fine"
