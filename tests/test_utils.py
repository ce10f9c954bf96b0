"""Checkpoints and results: run with `python -m pytest tests/test_utils.py`."""

import errno
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SHARED

import files
import utils
from model import Encoder
from stages import score
from utils import Checkpoint, load_checkpoint, save_checkpoint


@pytest.fixture
def checkpoint():
    torch.manual_seed(0)
    settings = {"hid": 8, "pt_lr": 1e-4, "kmeans": True}
    about = {"species": ["human", "mouse"], "datasets": ["a", "b"], "settings": settings, "history": [3.0, 2.5]}
    return Checkpoint(Encoder(12, 8), SHARED, phase=2, **about)


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_seed_fixes_every_library():
    drawn = []
    for _ in range(2):
        utils.seed_everything(5)
        drawn.append((np.random.rand(), torch.rand(1).item(), utils.random.random()))
    assert drawn[0] == drawn[1]


# -- checkpoints


def test_a_checkpoint_comes_back_as_it_was(checkpoint, tmp_path):
    path = tmp_path / "new" / "model.out"
    save_checkpoint(path, checkpoint)
    back = load_checkpoint(path)
    for name, value in checkpoint.encoder.state_dict().items():
        assert torch.equal(value, back.encoder.state_dict()[name])
    for name in ("genes", "recipe", "phase", "species", "datasets", "settings", "history"):
        assert getattr(back, name) == getattr(checkpoint, name)
    assert back.identity() == checkpoint.identity()


def test_signal_shares_come_back_and_are_a_prior_for_genes_by_name(checkpoint, tmp_path):
    without = checkpoint.identity()
    assert checkpoint.prior(SHARED) is None
    checkpoint.shares = torch.linspace(0, 1, 12)
    save_checkpoint(tmp_path / "model.out", checkpoint)
    back = load_checkpoint(tmp_path / "model.out")
    assert torch.equal(back.shares, checkpoint.shares)
    assert back.identity() == checkpoint.identity() != without
    assert np.array_equal(back.prior([SHARED[11], "NO SUCH", SHARED[0]]), [1.0, np.nan, 0.0], equal_nan=True)


def test_a_checkpoint_without_signal_shares_is_the_file_that_it_was(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "model.out", checkpoint)
    assert "shares" not in torch.load(tmp_path / "model.out", weights_only=True)
    assert load_checkpoint(tmp_path / "model.out").shares is None


def test_a_checkpoint_opens_with_weights_only_and_holds_no_device(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "model.out", checkpoint)
    content = torch.load(tmp_path / "model.out", weights_only=True)
    assert {"weights", "genes", "species", "recipe", "settings", "history", "version", "format"} <= set(content)
    assert all(value.device.type == "cpu" for value in content["weights"].values())


def test_the_same_checkpoint_is_the_same_file_whatever_its_name(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "a.out", checkpoint)
    save_checkpoint(tmp_path / "other.name", checkpoint)
    assert (tmp_path / "a.out").read_bytes() == (tmp_path / "other.name").read_bytes()


def test_the_identity_is_that_of_every_weight_and_gene(checkpoint):
    first = checkpoint.identity()
    seen = {first}
    with torch.no_grad():
        checkpoint.encoder.linear.bias[3] += 1e-3
        seen.add(checkpoint.identity())
        weight = checkpoint.encoder.linear.weight
        weight[-1, [-1, -2]] = weight[-1, [-2, -1]]
        seen.add(checkpoint.identity())
    checkpoint.genes = checkpoint.genes[::-1]
    seen.add(checkpoint.identity())
    assert len(seen) == 4


def test_there_is_no_checkpoint_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.out; make it with: python main.py --is_pretrain"):
        load_checkpoint(tmp_path / "none.out")


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "flipped", "folder", "pickle"])
def test_a_damaged_checkpoint_is_a_sentence(checkpoint, tmp_path, kind):
    path = tmp_path / "model.out"
    save_checkpoint(path, checkpoint)
    content = path.read_bytes()
    if kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "pickle":
        torch.save(Encoder(12, 8), path)  # a whole module: opening it would run what it says
    else:
        changed = {"empty": b"", "text": b"hello" * 99, "cut": content[: len(content) // 2], "flipped": content[::-1]}
        path.write_bytes(changed[kind])
    with pytest.raises(ValueError, match="model.out is no checkpoint, or a damaged one.*; pre-train again"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"genes": SHARED[::-1]}, "other names than it was saved with"),
        ({"genes": SHARED[:11]}, "11 gene names for 12 columns"),
        ({"genes_hash": None}, "other names than"),
        ({"version": 99}, "checkpoint version 99.*update scPretrain"),
        ({"format": "something else"}, "not a checkpoint of scPretrain"),
        ({"weights": {}}, "lacks parts of a checkpoint"),
        ({"shares": torch.zeros(12)}, "checksum"),
        ({"weights": {"linear.weight": torch.zeros(8, 12)}}, "lacks parts of a checkpoint"),
    ],
)
def test_a_checkpoint_that_is_not_what_it_says_is_refused(checkpoint, tmp_path, change, words):
    path = tmp_path / "model.out"
    save_checkpoint(path, checkpoint)
    torch.save(torch.load(path, weights_only=True) | change, path)
    with pytest.raises(ValueError, match=words):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [[1, 2], {"weights": 1}, {"other.weight": torch.zeros(2)}])
def test_a_foreign_file_of_torchs_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "foreign.out")
    with pytest.raises(ValueError, match="foreign.out is not a checkpoint of scPretrain"):
        load_checkpoint(tmp_path / "foreign.out")


def published(path):
    content = {"fc1.weight": torch.rand(8, 12), "fc1.bias": torch.rand(8)}
    torch.save(content, path)
    return content


@pytest.mark.parametrize("suffix", [".txt", ".npy"])
def test_a_published_checkpoint_opens_with_its_genes(tmp_path, suffix):
    content = published(tmp_path / "bare.out")
    genes = tmp_path / f"genes{suffix}"
    if suffix == ".npy":
        np.save(genes, np.array(SHARED))
    else:
        genes.write_text("\n".join(gene.capitalize() for gene in SHARED))
    back = load_checkpoint(tmp_path / "bare.out", gene_list=genes)
    assert back.genes == SHARED and back.encoder.hidden == 8
    assert torch.equal(back.encoder.linear.weight, content["fc1.weight"])
    assert torch.equal(back.encoder.linear.bias, content["fc1.bias"])


def test_a_published_checkpoint_needs_the_right_genes(tmp_path):
    content, genes = published(tmp_path / "bare.out"), tmp_path / "genes.txt"
    with pytest.raises(ValueError, match="bare.out is a published checkpoint.*12 genes with --gene_list"):
        load_checkpoint(tmp_path / "bare.out")
    with pytest.raises(FileNotFoundError, match="genes.txt.*--gene_list"):
        load_checkpoint(tmp_path / "bare.out", gene_list=genes)
    genes.write_text("A\nB\n")
    with pytest.raises(ValueError, match="genes.txt lists 2 genes, .*bare.out has 12 columns"):
        load_checkpoint(tmp_path / "bare.out", gene_list=genes)
    np.save(tmp_path / "genes.npy", np.array(SHARED, dtype=object))
    with pytest.raises(ValueError, match="genes.npy.*plain text"):
        load_checkpoint(tmp_path / "bare.out", gene_list=tmp_path / "genes.npy")
    genes.write_text("\n".join(SHARED))
    del content["fc1.bias"]
    torch.save(content, tmp_path / "bare.out")
    with pytest.raises(ValueError, match="bare.out lacks parts of a checkpoint"):
        load_checkpoint(tmp_path / "bare.out", gene_list=genes)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_disk_that_is_really_full_is_an_os_error(checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "model.out"
    save_checkpoint(path, checkpoint)
    before = path.read_bytes()
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "0123abcd")
    part = tmp_path / f"model.out.{os.getpid()}-{files._machine()}-0123abcd.part"
    part.symlink_to("/dev/full")
    with pytest.raises(OSError, match="model.out could not be written .No space left.*intact"):
        save_checkpoint(path, checkpoint)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["model.out"]


def test_a_full_disk_leaves_the_earlier_checkpoint_and_state(checkpoint, tmp_path, monkeypatch):
    path, state = tmp_path / "model.out", tmp_path / "model.out.state"
    save_checkpoint(path, checkpoint)
    utils.save_state(state, {"identity": "x"})
    checkpoint.phase = 3
    for place, name in ((torch, "save"), (os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            with pytest.raises(OSError, match="intact"):
                save_checkpoint(path, checkpoint)
            with pytest.raises(OSError, match="intact"):
                utils.save_state(state, {"identity": "y"})
    assert load_checkpoint(path).phase == 2 and utils.load_state(state, "x") == {"identity": "x"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.out", "model.out.state"]


def test_a_state_is_that_of_one_run_only(tmp_path):
    path = utils.state_path(tmp_path / "model.out")
    assert utils.load_state(path, "x") is None
    utils.save_state(path, {"identity": "x", "model": {"a": torch.ones(2)}})
    assert torch.equal(utils.load_state(path, "x")["model"]["a"], torch.ones(2))
    with pytest.raises(ValueError, match="model.out.state.*other data or settings.*--resume"):
        utils.load_state(path, "y")
    path.write_bytes(path.read_bytes()[:99])
    with pytest.raises(ValueError, match="model.out.state.*damaged.*delete it"):
        utils.load_state(path, "x")


# -- results


def row(dataset="a", arm=utils.ARMS[0], seed=0, accuracy=0.5, run="r1"):
    about = {"dataset": dataset, "arm": arm, "seed": seed, "n_train": 24, "n_test": 12, "accuracy": accuracy}
    return about | {"kappa": 0.25, "macro_f1": 0.5, "auprc": 0.75, "auroc": 0.875, "seconds": 1.5, "run": run}


def test_results_come_back_as_they_were_in_the_columns_that_were_asked_for(tmp_path):
    path = tmp_path / "results" / "result.csv"
    assert utils.read_results(path).empty
    rows = [row("a"), row("a", utils.ARMS[1]), row("b", seed=1), row("NA", run="0012")]
    for one in rows:
        utils.write_result(path, one)
    assert utils.read_results(path).to_dict("records") == rows
    columns = "dataset,arm,seed,n_train,n_test,accuracy,kappa,macro_f1,auprc,auroc,seconds"
    assert path.read_text().startswith(columns)


def test_a_row_takes_the_place_of_the_older_one_of_its_dataset_arm_and_seed(tmp_path):
    path = tmp_path / "result.csv"
    for one in (row("a"), row("a", seed=1), row("b"), row("a", accuracy=0.75, run="r2")):
        utils.write_result(path, one)
    table = utils.read_results(path)
    assert sorted(zip(table["dataset"], table["seed"], table["accuracy"], strict=True)) == [
        ("a", 0, 0.75),
        ("a", 1, 0.5),
        ("b", 0, 0.5),
    ]


def test_a_table_that_lacks_a_newer_column_is_read_with_nan_and_written_on(tmp_path):
    path = tmp_path / "result.csv"
    pd.DataFrame([row("a"), row("b")]).drop(columns="macro_f1").to_csv(path, index=False)
    old = utils.read_results(path)
    assert list(old.columns) == utils.RESULT_COLUMNS and old["macro_f1"].isna().all() and (old["kappa"] == 0.25).all()
    utils.write_result(path, row("c"))
    back = utils.read_results(path)
    assert list(back["macro_f1"].isna()) == [True, True, False] and back["macro_f1"].dtype == float
    assert "nan" in score.table(old, utils.ARMS, score.METRICS)


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", 'x,"y\n', "\xff\xfe"])
def test_a_file_that_is_no_table_of_results_is_left_alone(tmp_path, content):
    path = tmp_path / "result.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match="result.csv.*move it away"):
        utils.write_result(path, row())
    assert path.read_bytes() == content.encode("latin-1")


def test_a_full_disk_leaves_the_earlier_results(tmp_path, monkeypatch):
    path, text = tmp_path / "result.csv", tmp_path / "result.out"
    utils.write_result(path, row())
    utils.write_published(text, utils.read_results(path))
    before = path.read_bytes(), text.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_csv", full)
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="result.csv could not be written .No space left"):
            utils.write_result(path, row("b"))
        with pytest.raises(OSError, match="result.out could not be written .No space left"):
            utils.write_published(text, utils.read_results(path))
    assert (path.read_bytes(), text.read_bytes()) == before
    assert sorted(file.name for file in tmp_path.glob("[!.]*")) == ["result.csv", "result.out"]


def test_the_text_format_is_the_published_one(tmp_path):
    rows = [row("a", utils.ARMS[1], accuracy=0.4), row("a", accuracy=0.6), row("b")]
    utils.write_published(tmp_path / "result.out", pd.DataFrame(rows))
    assert (tmp_path / "result.out").read_text().splitlines() == [
        "a",
        "scPretrain:(0.6, 0.25, (0.75, 0.875))",
        "Without pretraining:(0.4, 0.25, (0.75, 0.875))",
        "b",
        "scPretrain:(0.5, 0.25, (0.75, 0.875))",
    ]


def test_bfloat16_is_for_gpus_and_for_processors_that_have_it(monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    cpu = torch.device("cpu")
    assert utils.bf16(torch.device("cuda"), False) and utils.bf16(cpu, True) and not utils.bf16(cpu, False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    with caplog.at_level("INFO", logger="scpretrain"):
        assert not utils.bf16(cpu, True)
    assert "--mixed: no effect" in caplog.text
