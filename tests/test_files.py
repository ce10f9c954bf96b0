"""Whole files and the cache: run with `python -m pytest tests/test_files.py`."""

import errno
import os
import shutil

import numpy as np
import pytest
from conftest import draw
from scipy.sparse import csr_matrix

import files
from files import Cache, fingerprint, stamp, whole, writable


@pytest.fixture
def make():
    """Counts its calls."""

    def make():
        make.calls += 1
        return {"a": np.arange(5) + make.calls, "b": np.zeros((2, 3))}

    make.calls = 0
    return make


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with whole(path) as part:
        part.write_text("one")
        assert not path.exists() and part.parent == path.parent
    assert path.read_text() == "one"
    with pytest.raises(KeyError), whole(path) as part:
        part.write_text("two, but broken off")
        raise KeyError
    assert path.read_text() == "one" and [file.name for file in path.parent.iterdir()] == ["a.txt"]


def test_a_full_disk_leaves_what_was_there_and_names_the_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("one")
    for broken in (lambda part: full(), lambda part: monkeypatch.setattr(files.os, "replace", full)):
        with pytest.raises(OSError, match="a.txt could not be written .No space left.*intact"), whole(path) as part:
            part.write_text("two")
            broken(part)
        assert path.read_text() == "one" and [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_of_two_files_written_at_once_the_one_that_failed_is_named_once(tmp_path):
    with pytest.raises(OSError) as told, whole(tmp_path / "outer") as outer, whole(tmp_path / "inner"):
        outer.write_text("x")
        raise OSError(28, "No space left on device")
    inner = tmp_path / "inner"
    assert str(told.value) == f"{inner} could not be written (No space left on device); what was there is intact"
    assert list(tmp_path.iterdir()) == []


def test_fingerprints_tell_contents_apart_and_stay_the_same():
    assert fingerprint(["A", "B"]) == fingerprint(("A", "B")) != fingerprint(["B", "A"])
    assert fingerprint({"a": 1, "b": None}) == fingerprint({"b": None, "a": 1}) != fingerprint({"a": 1, "b": 0})
    assert fingerprint(["A", "B"]) == "7fdd3d73d6acb4ab"  # written into checkpoints: it may never change


def test_an_entry_is_made_once_and_read_from_disk_afterwards(tmp_path, make):
    cache = Cache(tmp_path / "cache")
    first, again = (cache.arrays("kind", "name", (1, "x"), make) for _ in range(2))
    assert make.calls == 1 and sorted(again) == ["a", "b"] and isinstance(again["a"], np.memmap)
    np.testing.assert_array_equal(first["a"], again["a"])
    np.testing.assert_array_equal(Cache(tmp_path / "cache").arrays("kind", "name", (1, "x"), make)["b"], 0)
    assert make.calls == 1


def test_another_key_name_kind_or_version_is_another_entry(tmp_path, make, monkeypatch):
    cache = Cache(tmp_path)
    for kind, name, key in (("k", "n", (1,)), ("k", "n", (2,)), ("k", "m", (1,)), ("l", "n", (1,))):
        cache.arrays(kind, name, key, make)
    assert make.calls == 4
    monkeypatch.setattr(files, "CACHE_VERSION", files.CACHE_VERSION + 1)
    cache.arrays("k", "n", (1,), make)
    assert make.calls == 5


def test_a_changed_file_has_another_stamp(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"1234")
    first = stamp(path)
    os.utime(path, ns=(1, 1))
    assert stamp(path) != first
    path.write_bytes(b"12345")
    assert stamp(path)[:2] == ("a.h5", 5)


def test_what_a_kill_leaves_behind_is_never_seen(tmp_path, make, monkeypatch):
    cache = Cache(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(files.shutil, "rmtree", lambda *_, **__: None)  # a kill clears nothing away
        with pytest.raises(KeyboardInterrupt):
            cache.arrays("k", "n", (1,), make)
    assert [folder.suffix for folder in tmp_path.glob("k-*")] == [".part"]
    assert cache.arrays("k", "n", (1,), make)["a"][0] == 2 and make.calls == 2


@pytest.mark.parametrize(
    "damage", ["cut", "emptied", "one array gone", "all gone", "other bytes", "a bit", "null", "{}", "a list"]
)
def test_a_damaged_entry_is_made_again(tmp_path, make, damage):
    cache = Cache(tmp_path)
    cache.arrays("k", "n", (1,), make)
    [entry] = tmp_path.glob("k-*")
    if damage == "cut":
        (entry / "a.npy").write_bytes((entry / "a.npy").read_bytes()[:-8])
    elif damage == "emptied":
        (entry / "a.npy").write_bytes(b"")
    elif damage == "other bytes":
        (entry / "a.npy").write_bytes(b"something else")
    elif damage == "a bit":
        content = bytearray((entry / "b.npy").read_bytes())
        content[-20] ^= 4
        (entry / "b.npy").write_bytes(content)
    elif damage in ("null", "{}", "a list"):  # a list of names: what older versions wrote
        (entry / "arrays.json").write_text('["a", "b"]' if damage == "a list" else damage)
    else:
        for path in entry.glob("b.npy" if damage == "one array gone" else "*"):
            path.unlink()
    assert sorted(cache.arrays("k", "n", (1,), make)) == ["a", "b"]
    assert cache.arrays("k", "n", (1,), make)["a"][0] == 2 and make.calls == 2


@pytest.mark.parametrize("place", ["header", "end", "middle"])
def test_a_long_array_is_checked_in_blocks_from_its_first_byte_to_its_last(tmp_path, monkeypatch, place):
    monkeypatch.setattr(files, "WHOLE", 1000)
    monkeypatch.setattr(files, "BLOCK", 100)
    array = np.arange(100_000)
    Cache(tmp_path).arrays("k", "n", (), lambda: {"a": array})
    [path] = tmp_path.glob("k-*/a.npy")
    content = bytearray(path.read_bytes())
    start = {"header": 80, "end": len(content) - 1, "middle": len(content) // 2}[place]
    stop = start + len(content) // files.BLOCKS if place == "middle" else start + 1  # one bit may lie between blocks
    content[start:stop] = bytes(byte ^ 1 for byte in content[start:stop])
    path.write_bytes(content)
    np.testing.assert_array_equal(Cache(tmp_path).arrays("k", "n", (), lambda: {"a": array})["a"], array)
    assert path.read_bytes() != content


def test_an_entry_mended_by_another_run_meanwhile_is_kept(tmp_path, make):
    cache = Cache(tmp_path)
    cache.arrays("k", "n", (1,), make)
    [entry] = tmp_path.glob("k-*")
    (entry / "a.npy").write_bytes(b"")

    def slow():
        Cache(tmp_path).arrays("k", "n", (1,), make)
        return make()

    assert cache.arrays("k", "n", (1,), slow)["a"][0] == 2  # the other run's


def test_a_file_held_by_another_run_is_said_to_be_held(tmp_path):
    with files.locked(tmp_path / "a"), pytest.raises(OSError, match="a is held by another run"):
        with files.locked(tmp_path / "a", wait=0):
            pytest.fail("two runs at once")


def test_deleting_the_folder_is_always_safe(tmp_path, make):
    cache = Cache(tmp_path / "cache")
    held = cache.arrays("k", "n", (1,), make)
    held = cache.arrays("k", "n", (1,), make)
    shutil.rmtree(tmp_path / "cache")
    np.testing.assert_array_equal(held["a"], np.arange(5) + 1)  # an open map outlives its file
    cache.arrays("k", "n", (1,), make)
    assert make.calls == 2


def test_another_run_that_was_first_is_no_error(tmp_path, make):
    def slow():
        Cache(tmp_path).arrays("k", "n", (1,), make)
        return make()

    assert sorted(Cache(tmp_path).arrays("k", "n", (1,), slow)) == ["a", "b"]
    assert len(list(tmp_path.glob("k-*"))) == 1


def test_a_full_disk_leaves_no_part_of_an_entry(tmp_path, make, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(files.np, "save", full)
        with pytest.raises(OSError, match="k-n-.*No space left.*--cache_dir"):
            Cache(tmp_path).arrays("k", "n", (1,), make)
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_everything_is_made_anew(make):
    for _ in range(2):
        assert sorted(Cache(None).arrays("k", "n", (1,), make)) == ["a", "b"]
    assert make.calls == 2


@pytest.mark.parametrize("counts", [draw(0)[0], csr_matrix((3, 4), dtype=np.float32)], ids=["counts", "no entry"])
def test_a_matrix_comes_back_as_it_was(tmp_path, counts):
    cache = Cache(tmp_path)
    for found in (cache.matrix("k", "n", (), lambda: [counts]), cache.matrix("k", "n", (), lambda: 1 / 0)):
        assert found.shape == counts.shape and found.dtype == np.float32
        np.testing.assert_array_equal(found.toarray(), counts.toarray())
        np.testing.assert_array_equal(found[[2, 0]].toarray(), counts.toarray()[[2, 0]])


def test_a_matrix_made_in_blocks_is_the_matrix_made_at_once(tmp_path):
    counts = draw(0)[0]
    blocks = [counts[:3], counts[3:4], counts[4:4], counts[4:]]
    Cache(tmp_path / "once").matrix("k", "n", (), lambda: [counts])
    Cache(tmp_path / "blocks").matrix("k", "n", (), lambda: iter(blocks))
    for name in ("data", "indices", "indptr", "shape"):
        once, in_blocks = (next(tmp_path.glob(f"{how}/k-*/{name}.npy")) for how in ("once", "blocks"))
        assert once.read_bytes() == in_blocks.read_bytes()
    np.testing.assert_array_equal(Cache(None).matrix("k", "n", (), lambda: iter(blocks)).toarray(), counts.toarray())


def test_a_matrix_that_breaks_off_leaves_no_entry(tmp_path):
    def broken():
        yield draw(0)[0]
        raise ValueError("NAME (PATH): the second block is damaged")

    with pytest.raises(ValueError, match="the second block"):
        Cache(tmp_path).matrix("k", "n", (), broken)
    assert not list(tmp_path.glob("k-*"))


def test_a_folder_without_write_bits_is_read_only_and_a_missing_one_is_judged_by_its_parent(tmp_path):
    assert writable(tmp_path) and writable(tmp_path / "not" / "there")
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    assert not writable(locked) and not writable(locked / "cache")
    locked.chmod(0o755)
