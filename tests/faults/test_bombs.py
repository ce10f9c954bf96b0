"""Small compressed files that hold a line without end, or lines without number: memory is bounded, and it is told.

Run: python -m pytest tests/faults/test_bombs.py
"""

import gzip
import subprocess
import sys
from pathlib import Path

import formats
import pytest

from reading import bounded
from reading.cells import Unreadable, read

ROOT = Path(__file__).resolve().parents[2]
MANY = 10**9
READS = """
import resource, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from reading.cells import Unreadable, read
import pandas
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in map(Path, sys.argv[1:]):
    begin = time.process_time()
    try:
        read(path)
        said = "loads"
    except Unreadable as error:
        said = "refused" if path.name.split(".")[0] in str(error) else f"not by name: {{error}}"
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(path.name, said, time.process_time() - begin < 10, used < 2 << 20, sep="\\t")
"""


def packed(head: bytes, piece: bytes, size: int = MANY) -> bytes:
    """`head`, then `piece` over and over up to `size` bytes, as gzip: members of ten million bytes each."""
    some = piece * (10**7 // len(piece))
    return gzip.compress(head) + gzip.compress(some, 1) * (size // len(some))


TABLES = {
    "equal": (b"", b"0"),
    "endless_row": (b"cell,ACTB,CD3E\nA1,0,1\n", b"7"),
    "endless_fields": (b"cell,ACTB,CD3E\nA1,0,1\n", b"1,"),
    "endless_head": (b"", b"A,"),
    "rows": (b"cell,ACTB,CD3E\n", b"A1,0,1\n"),
    "quoted": (b'cell,ACTB,CD3E\nA1,0,1\n"', b"\n1"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted as Linux does")
def test_a_line_without_end_and_lines_without_number_are_told_before_memory_is_full(tmp_path):
    paths = []
    for name, (head, piece) in TABLES.items():
        paths.append(tmp_path / f"{name}.csv.gz")
        paths[-1].write_bytes(packed(head, piece))
    for name, part, (head, piece) in (
        ("features", "features.tsv.gz", (b"", b"A")),
        ("barcodes", "barcodes.tsv.gz", (b"", b"A\n")),
        ("head", "matrix.mtx.gz", (b"%%MatrixMarket matrix coordinate integer general\n%", b"a")),
        ("entries", "matrix.mtx.gz", (b"%%MatrixMarket matrix coordinate integer general\n8 20 9\n", b"1 1 1\n")),
    ):
        (tmp_path / name).mkdir()
        folder, _ = formats.mtx_gz(tmp_path / name)
        paths.append(folder.rename(tmp_path / f"{name}_folder"))
        (paths[-1] / part).write_bytes(packed(head, piece, 10**8 if name == "entries" else MANY))
    words = [sys.executable, "-c", READS.format(root=str(ROOT)), *map(str, paths)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.stdout.splitlines() == [f"{path.name}\trefused\tTrue\tTrue" for path in paths], done.stderr


def test_a_table_at_its_bounds_is_read_and_one_beyond_them_is_not(tmp_path, monkeypatch):
    path, _ = formats.table_gz(tmp_path)
    monkeypatch.setattr(bounded, "MOST", len(formats.CELLS) + 1)
    assert len(read(path).cells) == len(formats.CELLS)
    monkeypatch.setattr(bounded, "MOST", len(formats.CELLS))
    with pytest.raises(Unreadable, match="small.*more than 20 lines"):
        read(path)


def test_lines_that_end_as_old_spreadsheets_end_them_are_lines(tmp_path):
    path, _ = formats.table(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r"))
    with bounded.opened(path, "small", 60) as file:
        assert file.read().count(b"\r") == len(formats.CELLS) + 1
