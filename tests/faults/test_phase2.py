"""Phase 2 in place, ended between checkpoint and removal of the state.  python -m pytest tests/faults/test_phase2.py"""

import utils


def test_phase_2_in_place_ended_before_its_state_was_removed_is_known_as_finished(run, tmp_path, monkeypatch, capsys):
    model, flags = tmp_path / "model.out", ["--is_pretrain", "--kmeans"]
    assert run(*flags) == 0
    save = utils.save_checkpoint

    def killed(path, made):
        save(path, made)
        raise KeyboardInterrupt

    flags += ["--pretrain_output", "--pretrained_model", model]
    with monkeypatch.context() as patch:
        patch.setattr(utils, "save_checkpoint", killed)
        assert run(*flags) == 130
    made = model.read_bytes()
    capsys.readouterr()
    assert run(*flags, "--resume") == 0
    assert "this run was finished" in capsys.readouterr().out
    assert model.read_bytes() == made and not utils.state_path(model).exists()
