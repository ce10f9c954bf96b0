"""What a hostile or damaged .zarr store may not do.  python -m pytest tests/faults/test_store.py"""

import json
import os
import pickle

import formats
import numpy as np
import pytest

from reading.cells import Unreadable, matrices, read


@pytest.fixture
def store(tmp_path):
    return formats.zarr(tmp_path)[0]


@pytest.fixture
def store_3(tmp_path):
    """The same in the third version of the format."""
    (tmp_path / "third").mkdir()
    return formats.zarr(tmp_path / "third", 3)[0]


def edited(path, **changes):
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | changes))


def test_stores_of_both_versions_are_read(store, store_3):
    for path in (store, store_3):
        assert np.array_equal(read(path).counts.toarray(), formats.counts())


class Payload:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("place", ["filters", "compressor"])
def test_pickles_in_a_store_are_refused_before_anything_opens_them(store, tmp_path, place):
    array = store / "obs" / "n"
    pickled = {"id": "pickle", "protocol": 5}
    edited(array / ".zarray", **{"compressor": None, place: [pickled] if place == "filters" else pickled})
    (array / "0").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    (store / ".zmetadata").unlink(missing_ok=True)
    with pytest.raises(Unreadable, match="small.*obs/n/.zarray holds Python objects"):
        read(store)
    assert not (tmp_path / "ran").exists()


def test_a_link_out_of_a_store_or_within_it_is_refused(store, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"nobody's business")
    chunk = store / "obs" / "n" / "0"
    chunk.unlink()
    chunk.symlink_to(secret)
    with pytest.raises(Unreadable, match="small.*obs/n/0 is a link"):
        read(store)
    chunk.unlink()
    (store / "loop").symlink_to(store)
    with pytest.raises(Unreadable, match="small.*loop is a link"):
        matrices(store)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_a_store_is_not_waited_for(store):
    chunk = store / "obs" / "n" / "0"
    chunk.unlink()
    os.mkfifo(chunk)
    with pytest.raises(Unreadable, match="small.*obs/n/0 is a pipe"):
        read(store)


@pytest.mark.parametrize("change", [{"shape": [10**11]}, {"shape": [10**7], "chunks": [1]}, {"chunks": [10**12]}])
def test_sizes_that_no_store_of_that_length_can_hold_are_refused_before_memory_is_taken(store, change):
    edited(store / "obs" / "n" / ".zarray", **change)
    with pytest.raises(Unreadable, match="small.*obs/n/.zarray declares .* more than a store of"):
        read(store)


def test_they_are_in_the_third_version_too(store_3):
    place = store_3 / "obs" / "n" / "zarr.json"
    edited(place, shape=[10**11])
    with pytest.raises(Unreadable, match="small.*obs/n/zarr.json declares"):
        read(store_3)


def test_metadata_that_is_no_json_is_told_with_its_place(store):
    (store / "obs" / ".zattrs").write_text("{")
    (store / "X" / ".zarray").write_text("{")
    with pytest.raises(Unreadable, match="small.*X/.zarray is damaged"):
        read(store)
