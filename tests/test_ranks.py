"""Many processes make what one makes: python -m pytest tests/test_ranks.py. On the CPU, by gloo."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import HUMAN, QUICK, draw, write_catalogue, write_dataset
from torch import multiprocessing

import clus
import main
import ranks
import rf_svm_lr
import utils
from stages.batch import SparseRows, part

ROOT = Path(__file__).resolve().parent.parent
PHASE_1 = ["--is_pretrain", "--kmeans"]
TINY = 2  # cells: fewer than three processes


@pytest.fixture
def uneven(corpus):
    """The corpus with a dataset that has fewer cells than there are processes."""
    write_dataset(corpus / "Tiny_E.h5", 5, HUMAN, labelled=False, cells=TINY)
    lines = [line.split(",") for line in (corpus / "datasets.csv").read_text().split()[1:]]
    write_catalogue(corpus, [*lines, ("Tiny_E", "human", "no")])
    return corpus


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def one_of(number: int, of: int, port: int, folder: Path, commands: list) -> None:
    """A process of the run, as torchrun would start it: commands one after the other, what they say in NUMBER.txt."""
    where = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": of, "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({name: str(value) for name, value in where.items()} | {"TORCHELASTIC_RUN_ID": "test"})
    sys.stdout = sys.stderr = open(folder / f"{number}.txt", "w")  # noqa: SIM115
    for shift, (command, flags) in enumerate(commands):
        os.environ["MASTER_PORT"] = str(port + shift)
        if code := command([str(flag) for flag in flags]):
            raise SystemExit(code)
    sys.stdout.flush()


@pytest.fixture(scope="module")
def together():
    """Run (command, flags) after each other in `of` processes; gives what each of them said.

    They are forked from a server that has loaded the program once, in seconds, and never trained.
    """
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "test_ranks"])  # DDP loads the first, a second of it

    def run(of: int, folder: Path, *commands: tuple, code: int = 0) -> list[str]:
        folder.mkdir(exist_ok=True)
        port = free_port()
        started = [context.Process(target=one_of, args=(i, of, port, folder, commands), daemon=True) for i in range(of)]
        for process in started:
            process.start()
        for process in started:
            process.join(100)
        for process in started:
            process.kill()
        said = [(folder / f"{i}.txt").read_text() for i in range(of)]
        assert started[0].exitcode == code and (code or not any(one.exitcode for one in started)), said
        return said

    yield run
    os.environ.clear()
    os.environ.update(before)


def places(corpus: Path, folder: Path) -> list:
    made = ["--data_dir", corpus, "--cache_dir", folder / "cache", "--save_model", folder / "model.out", "--offline"]
    return [*made, "--pretrained_model", folder / "model.out", "--save_result", folder / "result.out"]


def phases(kind: str, corpus: Path, folder: Path) -> list:
    """Both phases of a recipe."""
    small = [*QUICK, "--recipe", kind, "--pt_epoch", "2"]
    flags = [*small, *places(corpus, folder), *PHASE_1]
    return [(main.main, flags), (main.main, [*flags, "--pretrain_output"])]


def cut_short(argv: list[str]) -> int:
    """main.py that stops between the last epoch and the checkpoint."""
    before = utils.save_checkpoint

    def stop(*_):
        raise ValueError("stopped here")

    utils.save_checkpoint = stop
    try:
        return main.main(argv)
    finally:
        utils.save_checkpoint = before


def alone(*commands: tuple) -> None:
    for command, flags in commands:
        assert command([str(flag) for flag in flags]) == 0


@pytest.mark.parametrize("kind", ["paper", "scpretrain2"])
def test_two_and_three_processes_learn_what_one_learns(together, uneven, tmp_path, kind):
    alone(*phases(kind, uneven, tmp_path / "1"))
    one = utils.load_checkpoint(tmp_path / "1" / "model.out")
    for of in (2, 3):
        said = together(of, tmp_path / str(of), *phases(kind, uneven, tmp_path / str(of)))
        assert "phase 2: 2 epochs" in said[0] and said[1:] == [""] * (of - 1)  # one speaks
        many = utils.load_checkpoint(tmp_path / str(of) / "model.out")
        assert (many.genes, many.datasets, many.phase) == (one.genes, one.datasets, 2)
        assert many.history == pytest.approx(one.history, abs=1e-5) and len(one.history) == 4
        for name, value in one.encoder.state_dict().items():
            assert torch.allclose(value, many.encoder.state_dict()[name], rtol=0, atol=1e-5)


def test_testing_in_two_processes_writes_the_tables_of_one(together, corpus, tmp_path):
    flags = [*QUICK, *places(corpus, tmp_path), *PHASE_1]
    alone((main.main, flags))
    commands = [(main.main, ["--kmeans"]), (rf_svm_lr.main, ["--clf", "lr"]), (clus.main, ["--umap", "none"])]
    found = {}
    for of in (1, 2):
        folder = tmp_path / f"results{of}"
        testing = [
            (command, [*flags[:-2], *more, "--save_result", folder / "result.out"]) for command, more in commands
        ]
        said = together(of, folder, *testing) if of > 1 else alone(*testing)
        found[of] = {path.name: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))}
    assert list(found[1]) == ["clus.csv", "lr.csv", "result.csv"] == list(found[2])
    for name, one in found[1].items():
        order, made = ["dataset", "arm", "seed"], [one, found[2][name]]
        one, two = (
            table.drop(columns="seconds", errors="ignore").sort_values(order, ignore_index=True) for table in made
        )
        pd.testing.assert_frame_equal(one, two)
    assert "Mouse_A" not in said[1] and said[0].count("won/tied/lost") == 3


def test_a_run_of_two_goes_on_as_one_and_a_run_of_one_as_three(together, uneven, tmp_path):
    def flags(folder, *more):
        return [*QUICK, *places(uneven, tmp_path / folder), *PHASE_1, *more]

    alone((main.main, flags("whole")))
    whole = utils.load_checkpoint(tmp_path / "whole" / "model.out")
    # both stop before the checkpoint, with the state of two epochs of three
    assert cut_short([str(flag) for flag in flags("one", "--pt_epoch", 2)]) == 2
    said = together(2, tmp_path / "two", (cut_short, flags("two", "--pt_epoch", 2)), code=2)
    assert "stopped here" in said[0]
    alone((main.main, flags("two", "--resume")))
    said = together(3, tmp_path / "one", (main.main, flags("one", "--resume")))
    assert "resumed after epoch 2" in said[0]
    for folder in ("one", "two"):
        went_on = utils.load_checkpoint(tmp_path / folder / "model.out")
        assert went_on.history == pytest.approx(whole.history, abs=1e-5) and len(whole.history) == 3
        difference = went_on.encoder.linear.weight - whole.encoder.linear.weight
        assert difference.abs().max() < 1e-5


def test_a_process_that_dies_stops_the_others_with_a_word_and_the_run_goes_on(corpus, tmp_path):
    """By torchrun itself: process 1 is killed as soon as there is a state to go on from."""
    flags = [*QUICK, *places(corpus, tmp_path), *PHASE_1, "--batch_num", "2", "--pt_patience", "100000"]
    dies = (
        "import os, signal, sys, utils, main, ranks\n"
        "from stages import train\n"
        "before = ranks.total\n"
        "def total(*values):\n"
        "    if ranks.rank() == 1 and (os.path.exists(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return before(*values)\n"
        "ranks.total = total\n"
        "raise SystemExit(main.main(sys.argv[2:]))\n"
    )
    (tmp_path / "dies.py").write_text(dies)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, tmp_path / "dies.py", tmp_path / "model.out.state", *flags, "--pt_epoch", "100000"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode != 0
    assert "error: another process of this run has ended" in done.stderr and "--resume" in done.stderr
    assert "Traceback" not in done.stderr.split("ChildFailedError")[0].split("torch/distributed")[0]
    assert not (tmp_path / "model.out").exists()
    alone((main.main, [*flags, "--pt_epoch", "3", "--resume"]))
    assert utils.load_checkpoint(tmp_path / "model.out").phase == 1


def test_owners_give_each_process_about_the_same(monkeypatch):
    sizes = [9, 1, 1, 1, 5, 4, 0]
    assert ranks.owners(sizes, 1) == [0] * 7
    found = ranks.owners(sizes, 2)
    load = [sum(size for size, owner in zip(sizes, found, strict=True) if owner == one) for one in (0, 1)]
    assert sorted(load) == [10, 11] and ranks.owners([], 3) == []


@pytest.mark.parametrize("of", [1, 2, 3, 5])
def test_shares_are_all_rows_once_and_a_part_is_those_rows(monkeypatch, of):
    counts = draw(0, 7)[0]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("WORLD_SIZE", str(of))
    parts = []
    for number in range(of):
        monkeypatch.setenv("RANK", str(number))
        one = part(counts, ranks.share(7))
        assert np.shares_memory(one.data, counts.data) or not one.nnz
        parts.append(SparseRows(one)[:])
    assert torch.equal(torch.cat(parts), torch.from_numpy(counts.toarray()))
    assert part(counts, slice(3, 3)).shape == (0, 12)


def test_another_launcher_s_variables_make_no_group(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "3")
    assert (ranks.size(), ranks.rank(), ranks.first()) == (1, 0, True)
