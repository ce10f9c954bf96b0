"""A run that has finished is known as finished, however it ended.  python -m pytest tests/faults/test_phase2.py"""

import pytest
from conftest import killed_after

import utils

FLAGS = ["--is_pretrain", "--kmeans"]


@pytest.fixture
def model(tmp_path):
    return tmp_path / "model.out"


@pytest.fixture
def in_place(run, model):
    """Phase 1 is made; the flags of a phase 2 that takes the place of its checkpoint."""
    assert run(*FLAGS) == 0
    return [*FLAGS, "--pretrain_output", "--pretrained_model", model]


@pytest.fixture
def killed(run, monkeypatch):
    """Runs a command that ends when its checkpoint is written and its state still there."""

    def killed(*flags):
        with killed_after(monkeypatch, "save_checkpoint"):
            assert run(*flags) == 130

    return killed


@pytest.mark.parametrize("more", [["--resume"], []])
def test_phase_2_in_place_ended_before_its_state_was_removed_is_known_as_finished(
    run, killed, in_place, model, capsys, more
):
    killed(*in_place)
    made = model.read_bytes()
    assert utils.state_path(model).exists()
    capsys.readouterr()
    assert run(*in_place, *more) == 0
    assert "this run was finished" in capsys.readouterr().out
    assert model.read_bytes() == made and not utils.state_path(model).exists()


@pytest.mark.parametrize("more", [["--resume"], []])
def test_phase_1_ended_before_its_state_was_removed_is_known_as_finished(run, killed, model, capsys, more):
    killed(*FLAGS)
    made = model.read_bytes()
    capsys.readouterr()
    assert run(*FLAGS, *more) == 0
    assert "this run was finished" in capsys.readouterr().out
    assert model.read_bytes() == made and not utils.state_path(model).exists()


@pytest.mark.parametrize("recipe", ["paper", "scpretrain2"])
def test_a_finished_run_says_so_when_it_is_to_go_on_and_its_state_is_long_gone(run, in_place, model, capsys, recipe):
    assert run(*FLAGS, "--recipe", recipe) == 0
    for flags in ([*FLAGS, "--recipe", recipe], [*in_place, "--recipe", recipe]):
        if "--pretrain_output" in flags:
            assert run(*flags) == 0
        made = model.read_bytes()
        capsys.readouterr()
        assert run(*flags, "--resume") == 0
        assert "this run was finished" in capsys.readouterr().out
        assert model.read_bytes() == made


def test_what_was_asked_otherwise_is_not_taken_for_finished(run, in_place, model, capsys):
    for flags in (
        [*FLAGS, "--resume", "--pt_epoch", "5"],
        [*FLAGS, "--resume", "--seed", "1"],
        [*in_place, "--resume"],
    ):
        made = model.read_bytes()
        capsys.readouterr()
        assert run(*flags) == 0
        assert "was finished" not in capsys.readouterr().out
        assert model.read_bytes() != made


def test_without_resume_a_finished_phase_2_in_place_trains_on_and_phase_1_anew(run, in_place, model):
    first = model.read_bytes()
    assert run(*FLAGS) == 0
    assert model.read_bytes() == first  # the same again
    assert run(*in_place) == run(*in_place) == 0
    assert utils.load_checkpoint(model).phase == 3


def test_a_third_phase_that_was_killed_goes_on_and_is_not_taken_for_the_second(run, in_place, model, monkeypatch):
    assert run(*in_place) == 0
    with killed_after(monkeypatch, "save_state"):
        assert run(*in_place) == 130
    assert utils.load_checkpoint(model).phase == 2 and utils.state_path(model).exists()
    assert run(*in_place, "--resume") == 0
    assert utils.load_checkpoint(model).phase == 3


def test_a_checkpoint_from_before_it_said_of_which_run_it_is_is_never_taken_for_finished(run, in_place, model, capsys):
    made = utils.load_checkpoint(model)
    made.run = made.asked = ""
    utils.save_checkpoint(model, made)
    assert run(*FLAGS, "--resume") == 0
    assert "was finished" not in capsys.readouterr().out
