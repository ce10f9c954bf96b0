"""Pipes and devices in the places of files, read or written, are refused and not waited for.

Run: python -m pytest tests/faults/test_pipes.py
"""

import os
import signal
from pathlib import Path

import pytest
from test_annotate import few, world

import annotate
import clus
import fig
import main
import rf_svm_lr
import utils
from annotation import given_labels
from reading.align import ORTHOLOG_FILE

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")


@pytest.fixture(autouse=True)
def no_endless_wait():
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(120)
    yield
    signal.alarm(0)


def pipe(path: Path) -> Path:
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    "command, flag",
    [
        *(
            (main, flag)
            for flag in ("--ann_input", "--np_input", "--pretrained_model", "--save_model", "--save_result")
        ),
        *((command, "--pretrained_model") for command in (rf_svm_lr, clus)),
        *((clus, "--figs"), (fig, "--save_result"), (main, "--cache_dir"), (main, "--gene_list")),
        *((annotate, flag) for flag in ("--query", "--reference", "--labels", "--markers", "--gene_list", "--out")),
    ],
)
def test_a_flag_that_names_a_pipe_or_a_device_is_refused(tmp_path, corpus, capsys, command, flag):
    few(world()).write_h5ad(tmp_path / "few.h5ad")
    named = {"--query": "few.h5ad", "--out": "out.h5ad"} if command is annotate else {}
    for path in (pipe(tmp_path / "pipe"), Path("/dev/null")):
        flags = [*named.items(), ("--data_dir", "data"), (flag, path)]
        words = [
            str(tmp_path / word) if i and word != path else str(word) for one in flags for i, word in enumerate(one)
        ]
        assert command.main([*words, "--offline"]) == 2
        assert f"{flag} {path}: not a regular file" in capsys.readouterr().err
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("name", ["datasets.csv", ORTHOLOG_FILE, "Human_C.h5"])
def test_a_pipe_in_the_data_folder_is_refused_by_name(run, corpus, capsys, name):
    pipe(corpus / name)
    assert run("--is_pretrain", "--kmeans") == 2
    assert name in (said := capsys.readouterr().err) and "not a regular file" in said


def test_a_pipe_in_the_place_of_a_state_a_table_of_results_or_of_labels_is_refused_by_name(run, tmp_path, capsys):
    assert run("--is_pretrain", "--kmeans") == 0
    pipe(tmp_path / "model.out.state")
    assert run("--is_pretrain", "--kmeans", "--resume") == 2
    assert "model.out.state" in capsys.readouterr().err
    with pytest.raises(ValueError, match="result.csv.*not a regular file"):
        utils.read_results(pipe(tmp_path / "result.csv"))
    with pytest.raises(ValueError, match="labels.csv.*not a regular file"):
        given_labels.read(pipe(tmp_path / "labels.csv"))
