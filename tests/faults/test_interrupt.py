"""Ctrl-C in the first second, while a command still makes its imports, is a word and no traceback.

Run: python -m pytest tests/faults/test_interrupt.py
"""

import subprocess
import sys
from pathlib import Path

import pytest

resource = pytest.importorskip("resource")  # not on Windows
ROOT = Path(__file__).resolve().parents[2]
EARLY = """
import runpy, signal, sys
def interrupted(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGVTALRM, interrupted)
sys.argv = {words!r}
sys.path.insert(0, {root!r})
signal.setitimer(signal.ITIMER_VIRTUAL, {seconds})
runpy.run_path({words!r}[0], run_name="__main__")
"""
QUERY = ["--query", "few.h5ad", "--out", "out.h5ad", "--embed_only"]


@pytest.fixture(scope="module", params=["main", "rf_svm_lr", "clus", "fig", "annotate"])
def command(request):
    """A command, and the processor time until it makes its imports: that of its --help, with everything compiled."""
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run([sys.executable, str(ROOT / f"{request.param}.py"), "--help"], capture_output=True, timeout=120)
        spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    return request.param, spent


@pytest.mark.skipif(sys.platform == "win32", reason="there is no timer of processor time there")
@pytest.mark.parametrize("later", [0.05, 0.3, 0.7])
def test_an_interrupt_while_the_imports_are_made_is_no_traceback(tmp_path, command, later):
    command, begin = command
    (tmp_path / "dataset").mkdir()
    for name in ("few.h5ad", "model.out"):
        (tmp_path / name).write_bytes(b"-")  # looked for before the imports
    flags = QUERY if command == "annotate" else ["--pretrained_model", "model.out"]
    code = EARLY.format(words=[str(ROOT / f"{command}.py"), *flags], root=str(ROOT), seconds=begin + later)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode != 0 and "interrupted" in done.stderr
    assert "Traceback" not in done.stderr
