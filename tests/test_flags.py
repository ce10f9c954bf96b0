"""The command line of every command: run with `python -m pytest tests/test_flags.py`."""

import ast
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import flags
import recipes
from voice import log

ROOT = Path(flags.__file__).parent
COMMANDS = ("main.py", "rf_svm_lr.py", "clus.py", "fig.py")
HEAVY = ("torch", "sklearn", "pandas", "scipy", "matplotlib", "anndata", "numpy", "h5py")

PUBLISHED = {
    "mixed": False, "is_pretrain": False, "pt_epoch": 50, "ft_epoch": 500, "cuda": False, "avg_cluster_num": 100,
    "batch_num": 30, "pt_lr": 1e-4, "ft_lr": 0.002, "hid": 200, "ft_batch_size": 5000, "per_train": 0.6,
    "per_val": 0.1, "patience": 30, "pt_patience": 5, "max_tr_num": 1000, "kmeans": False, "pretrain_output": False,
    "pca_ft": False, "pca_dim": 500, "pca_pt": False, "pretrained_model": Path("pretrain/scPretrain.out"),
    "save_model": Path("pretrain/scPretrain.out"), "save_result": Path("results/result.out"), "fold1": 1, "fold2": 1,
    "np_input": None, "ann_input": None, "seed": 0,
}  # fmt: skip


def test_the_flags_have_their_published_defaults():
    args = vars(flags.build_parser("").parse_args([]))
    assert {name: args[name] for name in PUBLISHED} == PUBLISHED


@pytest.mark.parametrize(
    "words",
    ["--pt_epoch 0", "--hid -1", "--pt_lr 0", "--ft_lr nan", "--per_train 1", "--per_train 0.9 --per_val 0.1",
     "--per_val -0.1", "--seed -1", "--fold1 0", "--avg_cluster_num 0", "--pca_dim 0", "--save_result results/a.csv"],
)  # fmt: skip
def test_a_value_no_run_can_work_with_is_refused_with_the_flags_name(words, capsys):
    with pytest.raises(SystemExit) as stop:
        flags.run(lambda args: None, flags.build_parser(""), words.split())
    assert stop.value.code == 2 and words.split()[0] in capsys.readouterr().err


def test_what_a_user_can_mend_is_a_line_and_exit_2_and_the_traceback_comes_on_request(capsys):
    def command(args):
        raise ValueError("Baron (a.h5): mend it")

    assert flags.run(command, flags.build_parser(""), []) == 2
    assert capsys.readouterr().err == "error: Baron (a.h5): mend it\n"
    assert flags.run(command, flags.build_parser(""), ["--traceback"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_wrong_flag_is_one_line_with_the_reason_first(capsys):
    with pytest.raises(SystemExit):
        flags.run(lambda args: None, flags.build_parser(""), ["--seed", "x"])
    error = capsys.readouterr().err
    assert error.startswith("error: argument --seed") and error.count("\n") == 1 and "--help" in error


def test_a_bug_of_ours_is_not_hidden():
    with pytest.raises(KeyError):
        flags.run(lambda args: {}["x"], flags.build_parser(""), [])


def test_ctrl_c_is_exit_130_and_says_how_to_go_on(capsys):
    def command(args):
        raise KeyboardInterrupt

    assert flags.run(command, flags.build_parser(""), []) == 130
    assert "--resume" in capsys.readouterr().err


def test_ctrl_c_during_the_imports_is_no_traceback(capsys):
    flags._uncaught(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "interrupted before the work began\n"
    flags._uncaught(KeyError, KeyError("ours"), None)
    assert "KeyError: 'ours'" in capsys.readouterr().err


def test_escape_sequences_in_names_do_not_reach_the_terminal(capsys):
    def command(args):
        log.info("Baron\x1b[2J\x9b1m\tand\nmore")
        raise ValueError("B\x1b]0;cell\x07: mend it")

    assert flags.run(command, flags.build_parser(""), []) == 2
    said = capsys.readouterr()
    assert said.out == "Baron\ufffd[2J\ufffd1m\tand\nmore\n" and said.err == "error: B\ufffd]0;cell\ufffd: mend it\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--is_pretrain", "--save_model", "{}"], "--save_model .* is a folder; name a file in it"),
        (["--is_pretrain", "--save_model", "{}/closed/model"], "closed cannot be written"),
        (["--is_pretrain", "--save_model", "{}/file/model"], "file is a file, not a folder"),
        (["--save_result", "{}"], "--save_result .* is a folder"),
        (["--save_result", "{}/closed/new/result.out"], "closed cannot be written"),
        (["--figs", "{}/file"], "--figs .* is a file, not a folder"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(tmp_path, capsys, words, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "closed").mkdir(mode=0o555)
    words = [word.format(tmp_path) for word in words]
    check = flags.check_outputs
    assert flags.run(lambda args: pytest.fail("worked"), flags.build_parser(""), words, check_paths=check) == 2
    assert re.search(message, capsys.readouterr().err)


def script(*words):
    """A command as a user starts it, and which of its heavy imports had been made when it ended."""
    text = (
        "import runpy, sys, atexit\n"
        f"atexit.register(lambda: print('HEAVY', *[name for name in {HEAVY!r} if name in sys.modules]))\n"
        f"sys.argv = {[str(word) for word in words]!r}\n"
        f"runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_a_wrong_flag_are_answered_before_anything_heavy_is_imported(name):
    code, said, _ = script(name, "--help")
    assert code == 0 and "--save_result" in said and said.endswith("HEAVY\n")
    code, said, error = script(name, "--lable_key", "x")
    assert code == 2 and said == "HEAVY\n" and "did you mean --label_key?" in error


@pytest.mark.parametrize("name", COMMANDS[:3])
def test_a_missing_folder_file_or_checkpoint_is_named_before_anything_heavy_is_imported(name, tmp_path):
    pretraining = ["--is_pretrain"] if name == "main.py" else []
    for words, expected in (
        (["--data_dir", tmp_path / "none", *pretraining], "none is not a folder"),
        (["--ann_input", tmp_path / "none.h5ad"], "there is no "),
        (["--data_dir", tmp_path, "--pretrained_model", tmp_path / "none.out"], "make it with: python main.py"),
    ):
        code, said, error = script(name, *words)
        assert code == 2 and said == "HEAVY\n" and expected in error and error.count("\n") == 1


def shown(name, capsys):
    module = __import__(name.removesuffix(".py"))
    with pytest.raises(SystemExit):
        module.main(["--help"])
    return capsys.readouterr().out


def test_help_lists_the_flags_a_command_uses_and_it_takes_every_published_one(capsys):
    assert "--pt_lr" in shown("main.py", capsys) and "--clf" not in shown("main.py", capsys)
    assert "--clf" in shown("rf_svm_lr.py", capsys) and "--pt_lr" not in shown("rf_svm_lr.py", capsys)
    assert "--umap" in shown("clus.py", capsys) and "--ft_lr" not in shown("clus.py", capsys)
    assert "--dpi" in shown("fig.py", capsys) and "--data_dir" not in shown("fig.py", capsys)
    for name in COMMANDS:
        parser = __import__(name.removesuffix(".py")).parser()
        assert set(PUBLISHED) <= set(vars(parser.parse_args([])))


def test_quiet_leaves_warnings_and_what_the_run_came_to(capsys):
    from voice import RESULT, log

    def command(args):
        log.info("a step")
        log.warning("a doubt")
        log.log(RESULT, "the table")

    assert flags.run(command, flags.build_parser(""), ["--quiet"]) == 0
    assert capsys.readouterr().out == "warning: a doubt\nthe table\n"


def test_a_recipe_has_the_defaults_of_the_flags_and_takes_what_is_given():
    parser = flags.build_parser("")
    args = parser.parse_args([])
    args.given = set()
    for kind in (recipes.Paper, recipes.ScPretrain2):
        made = flags.fill(kind, args)
        assert made == kind(kmeans=False)
        assert {one.name for one in fields(kind)} - {"network_settings"} <= set(vars(args))
    args = parser.parse_args(["--pt_epoch", "7", "--ft_lr", "0.5"])
    args.given = {"pt_epoch", "ft_lr"}
    assert flags.fill(recipes.ScPretrain2, args).pt_epoch == 7
    assert flags.fill(recipes.Paper, args).network_settings.ft_lr == 0.5


def test_the_namespace_stays_in_flags_and_at_the_door_of_the_commands():
    at_the_door = {"main", "command", "check_paths"}
    for name in (*COMMANDS, "recipes.py", "utils.py", "data_loader.py", "model.py"):
        for function in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef) and function.name not in at_the_door:
                hints = [ast.unparse(one.annotation) for one in function.args.args if one.annotation]
                assert not any("Namespace" in hint for hint in hints), f"{name}: {function.name}"
