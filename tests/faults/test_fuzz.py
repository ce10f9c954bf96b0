"""About 300 damaged files of every format: each loads, or ends in our own error that names the file.

Text and arrays are read here, what can crash a library (HDF5, .mtx) in a child a format.

Run: python -m pytest tests/faults/test_fuzz.py (many more cases: python tests/faults/campaign.py --cases 10000)
"""

import gzip
import os

import campaign
import formats
import h5py
import numpy as np
import pytest

import utils
from reading.align import read_orthologs
from reading.cells import Unreadable, open_rows, read

EACH = 15  # cases a format


@pytest.mark.parametrize("kind", formats.FORMATS)
def test_a_damaged_file_loads_or_ends_in_our_error_that_names_it(tmp_path, kind):
    run = campaign.in_child if kind in campaign.CRASHES else campaign.cases
    order = (kind, range(EACH), tmp_path / "cases")
    if run is campaign.cases:
        (tmp_path / "cases").mkdir()
        order = (kind, tmp_path / "cases", range(EACH))
    found = list(run(*order))
    assert [number for number, _ in found] == list(range(EACH))
    assert [(number, said) for number, said in found if not campaign.clean(said)] == []
    remade = kind == "cache"  # what is damaged there is made again
    assert remade or any(said == "refused" for _, said in found)


def test_a_child_that_dies_is_told_with_its_case_and_the_next_ones_are_tried(tmp_path, monkeypatch):
    script = tmp_path / "dies.py"
    script.write_text("import os, sys\nat = int(sys.argv[3])\nprint(at, 'loads', flush=True)\nat == 1 or os.abort()\n")
    monkeypatch.setattr(campaign, "__file__", str(script))
    found = list(campaign.in_child("csv", range(4), tmp_path / "cases"))
    assert [number for number, _ in found] == [0, 1, 2, 3]
    assert found[1][1].startswith("crash") and found[0][1] == found[2][1] == "loads"


def test_a_size_that_no_file_of_that_length_can_hold_is_refused_before_memory_is_taken(tmp_path):
    path, _ = formats.cellblast(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["exprs/data"]
        file.create_dataset("exprs/data", (10**11,), "f4", chunks=(1024,))  # nothing of it is written
    with pytest.raises(Unreadable, match="small.*exprs/data declares 372.5 GB"):
        read(path)


def test_a_chunk_that_would_take_all_memory_is_refused_before_it_is_unpacked(tmp_path):
    path, _ = formats.cellblast(tmp_path)
    with h5py.File(path, "r+") as file:
        file.create_dataset("obs/huge", (10,), "f8", chunks=(2 * 10**8,), maxshape=(None,), compression="gzip")
    with pytest.raises(Unreadable, match="small.*obs/huge is packed in pieces of 1.5 GB"):
        read(path)


def test_an_array_that_states_more_than_its_file_holds_is_refused(tmp_path):
    folder, _ = formats.npy(tmp_path)
    path = folder / "label.npy"
    path.write_bytes(path.read_bytes().replace(b"(20,), }            ", b"(2000000000000,), } "))
    with pytest.raises(Unreadable, match="small.*label.npy is not a whole .npy file"):
        read(folder)
    np.savez(folder / "label.npz", a=np.arange(3))
    (folder / "label.npz").replace(path)
    with pytest.raises(Unreadable, match="label.npy is an .npz archive"):
        read(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize(
    "kind, part", [("csv", "small.csv"), ("npy folder", "label.npy"), ("mtx folder", "features.tsv")]
)
def test_a_pipe_in_place_of_a_text_or_an_array_is_not_waited_for(tmp_path, kind, part):
    path, parts = formats.FORMATS[kind][0](tmp_path)
    place = next(one for one in parts if one.name == part)
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(Unreadable, match="small.*not a regular file"):
        read(path)


MTX = {
    "a head that is another": (b"coordinate", b"array", "does not begin with"),
    "more entries than there is room for": (b"8 20 ", b"8 20 99999999", "more than it has room for"),
    "fewer lines than entries": (b"\n1 1 1\n", b"\n", "lines of them"),
    "a byte that is no number": (b"\n1 1 1\n", b"\n1 1 \0\n", "no part of a number"),
    "an index out of range": (b"\n1 1 1\n", b"\n9 1 1\n", "out of bounds"),
    "sizes that are not three": (b"8 20 ", b"820 ", "three numbers"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", MTX)
def test_a_damaged_mtx_is_refused_with_what_is_wrong_in_it(tmp_path, case, packed):
    folder, parts = (formats.mtx_gz if packed else formats.mtx)(tmp_path)
    old, new, words = MTX[case]
    whole = gzip.decompress(parts[0].read_bytes()) if packed else parts[0].read_bytes()
    assert old in whole
    whole = whole.replace(old, new, 1)
    parts[0].write_bytes(gzip.compress(whole) if packed else whole)
    with pytest.raises(Unreadable, match=f"small.*{parts[0].name}.*{words}"):
        read(folder)


def test_an_ortholog_table_that_is_cut_short_is_refused_by_name(tmp_path):
    path, _ = formats.orthologs(tmp_path)
    path.write_text(path.read_text().removesuffix(",Krt18\n"))
    with pytest.raises(ValueError, match="small.csv.*ends too early"):
        read_orthologs(path)


def test_a_column_of_another_length_is_told_by_name_when_the_file_is_opened(tmp_path):
    path, _ = formats.h5ad(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["obs/n"]
        file["obs/n"] = np.arange(7)
        file["obs/n"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    with pytest.raises(Unreadable, match="small.*column 'n' has 7 values for 20 cells"), open_rows(path):
        pass


def test_a_word_in_place_of_a_number_in_a_result_table_is_told_with_its_row(tmp_path):
    path, _ = formats.results(tmp_path)
    whole = path.read_text()
    for old, new, words in [
        (",0.5,", ",half,", "row 1: accuracy is 'half'"),
        ("scratch,2,", "scratch,,", "row 3: seed"),
    ]:
        path.write_text(whole.replace(old, new, 1))
        with pytest.raises(ValueError, match=f"small.csv, {words}"):
            utils.read_results(path)
