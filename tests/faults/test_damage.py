"""Damaged checkpoints and states: each loads as it was saved, or ends in our own error that names the file.

Run: python -m pytest tests/faults/test_damage.py
"""

import random

import pytest
import torch

import utils
from model import Encoder
from utils import Checkpoint, load_checkpoint, load_state, save_checkpoint, save_state

CASES = 150


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "model.out"
    save_checkpoint(path, Checkpoint(Encoder(40, 8), [f"G{i}" for i in range(40)], settings={"hid": 8}, history=[0.5]))
    return path


def changed(path, change):
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The bytes with one bit turned, a stretch overwritten, cut out, or the end cut off."""
    at, kind = chance.randrange(len(data)), chance.randrange(4)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + chance.randbytes(16) + data[at + 16 :]
    return data[:at] + (data[at + chance.randrange(1, 64) :] if kind == 2 else b"")


def test_a_damaged_checkpoint_is_refused_by_name_or_is_what_was_saved(saved):
    whole, right = saved.read_bytes(), load_checkpoint(saved)
    for seed in range(CASES):
        saved.write_bytes(damaged(whole, random.Random(seed)))
        try:
            found = load_checkpoint(saved)
        except ValueError as error:
            assert "model.out" in str(error)
        else:  # the bit was one that says nothing
            assert found.identity() == right.identity() and found.settings == right.settings, seed
            assert found.history == right.history and found.phase == right.phase, seed


def test_a_damaged_state_is_refused_by_name_or_is_what_was_saved(tmp_path):
    path, model = tmp_path / "model.out.state", Encoder(40, 8).state_dict()
    save_state(path, {"identity": "a", "model": model, "optimizer": {}, "progress": {"epoch": 2}})
    whole = path.read_bytes()
    for seed in range(CASES):
        path.write_bytes(damaged(whole, random.Random(seed)))
        try:
            found = load_state(path, "a")
        except ValueError as error:
            assert "model.out.state" in str(error)
        else:
            assert found["progress"] == {"epoch": 2}
            assert all(torch.equal(found["model"][name], value) for name, value in model.items()), seed


@pytest.mark.parametrize("part", ["weights", "genes", "settings"])
def test_the_checksum_covers_weights_genes_and_settings(saved, part):
    def change(content):
        if part == "weights":
            content["weights"]["linear.bias"][0] += 1
        elif part == "genes":
            content["genes"][0], content["genes_hash"] = "H", utils.fingerprint(["H", *content["genes"][1:]])
        else:
            content["settings"]["hid"] = 9

    changed(saved, change)
    with pytest.raises(ValueError, match="model.out.*does not hold the bytes it was saved with"):
        load_checkpoint(saved)


def test_a_checkpoint_from_before_checksums_opens(saved):
    changed(saved, lambda content: [content.pop(name) for name in ("checksum", "run", "asked")])
    assert load_checkpoint(saved).encoder.hidden == 8


def test_a_checkpoint_or_a_state_that_has_lost_its_checksum_is_refused(saved, tmp_path):
    """Bits turned in the name of the checksum and in a weight: the second would pass unseen."""
    changed(saved, lambda content: content.update(checksun=content.pop("checksum")))
    with pytest.raises(ValueError, match="model.out.*checksum"):
        load_checkpoint(saved)
    save_state(tmp_path / "a.state", {"identity": "a", "model": {}})
    changed(tmp_path / "a.state", lambda content: content.update(checksun=content.pop("checksum")))
    with pytest.raises(ValueError, match="a.state is no training state"):
        load_state(tmp_path / "a.state", "a")


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda content: content.update(version="new"), "version"),
        (lambda content: content["weights"].update({"linear.weight": torch.zeros(3)}), "lacks parts"),
        (lambda content: content["weights"].update({"linear.weight": "none"}), "lacks parts"),
        (lambda content: content["weights"]["linear.weight"].fill_(float("nan")), "320 of the weights linear.weight"),
    ],
)
def test_parts_that_are_not_what_they_should_be_are_refused_by_name(saved, change, words):
    changed(saved, lambda content: ([content.pop(name) for name in ("checksum", "run")], change(content)))
    with pytest.raises(ValueError, match=f"model.out.*{words}"):
        load_checkpoint(saved)


def test_a_state_without_its_parts_is_refused(tmp_path):
    save_state(tmp_path / "a.state", {"identity": "a", "model": {}})
    changed(tmp_path / "a.state", lambda content: content.pop("model"))
    with pytest.raises(ValueError, match="a.state is no training state"):
        load_state(tmp_path / "a.state", "a")
