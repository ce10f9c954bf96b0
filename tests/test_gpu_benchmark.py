"""The GPU benchmark, on the CPU: run with `python -m pytest tests/test_gpu_benchmark.py`."""

import re

import pytest
import torch

from benchmarks import gpu


def test_without_a_gpu_it_checks_and_measures_the_same_functions(capsys, monkeypatch):
    monkeypatch.setattr(gpu.scale, "GENES", 900)
    monkeypatch.setattr(gpu.scale, "DRAWS", 300)
    assert gpu.main(["--device", "cpu", "--quick"]) == 0
    said = capsys.readouterr().out
    assert len(re.findall(r": ok$", said, re.MULTILINE)) == 4
    for part in ("50 components", "k-means", "training, paper", "training, scpretrain2", "embedding", "annotate"):
        [numbers] = re.findall(rf"^{part}.*?  +(\d+\.\d{{3}}) +([\d,]+) ", said, re.MULTILINE)[:1]
        assert float(numbers[0]) >= 0 and int(numbers[1].replace(",", "")) > 0


def test_losses_that_differ_fail(monkeypatch, capsys):
    assert gpu.say("losses", 2e-3, gpu.LOSS) and gpu.say("losses", float("nan"), gpu.LOSS)
    assert not gpu.say("losses", 1e-4, gpu.LOSS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_a_gpu_is_told_what_it_can_do(capsys):
    assert gpu.main([]) == 2 and "--device cpu --quick" in capsys.readouterr().out
