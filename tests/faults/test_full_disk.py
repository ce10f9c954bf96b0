"""A disk that takes so many bytes and no more: one sentence, exit 2, nothing half-written, no crash at exit.

Run: python -m pytest tests/faults/test_full_disk.py
"""

import subprocess
import sys
from pathlib import Path

import pytest
from test_annotate import few, world

ROOT = Path(__file__).resolve().parents[2]
SMALL = """
import resource, signal, sys
sys.path.insert(0, {root!r})
import annotate
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, resource.RLIM_INFINITY))
sys.exit(annotate.main({words!r}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on a file's size is set by Linux")
@pytest.mark.parametrize("room", [-20_000, 1_000, 30_000])
def test_a_disk_that_fills_up_is_one_sentence_and_the_old_output_stays(tmp_path, room):
    few(world()).write_h5ad(tmp_path / "query.h5ad")
    out = tmp_path / "out.h5ad"
    out.write_bytes(b"an older result")
    room += (tmp_path / "query.h5ad").stat().st_size
    words = ["--query", out.with_name("query.h5ad"), "--out", out, "--embed_only", "--no-umap", "--no-report"]
    code = SMALL.format(root=str(ROOT), room=room, words=[*map(str, words), "--offline"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error:") and "out.h5ad could not" in done.stderr
    assert out.read_bytes() == b"an older result"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5ad", "query.h5ad"]
