"""Scatter plots of result files, read back from their axes: run with `python -m pytest tests/test_fig.py`."""

import numpy as np
import pytest
from matplotlib.figure import Figure

import fig
import utils
from stages import score

NAMES = [f"Set_{number}" for number in range(7)]


@pytest.fixture
def results(tmp_path):
    """A results folder: main.py with three repeats, one classifier, clusters; seven datasets."""
    rng = np.random.default_rng(0)
    files = [
        (tmp_path / "result.csv", utils.RESULT_COLUMNS, range(3)),
        (tmp_path / "svm.csv", utils.RESULT_COLUMNS, [0]),
    ]
    for path, columns, seeds in [*files, (tmp_path / "clus.csv", utils.CLUSTER_COLUMNS, range(2))]:
        for name in NAMES:
            for arm in utils.ARMS:
                for seed in seeds:
                    row = {column: rng.uniform(0.5, 1) for column in columns}
                    utils.write_result(path, row | {"dataset": name, "arm": arm, "seed": seed, "run": "x"}, columns)
    return tmp_path


def draw(folder, *flags):
    places = ["--save_result", folder / "result.out", "--figs", folder / "figs", "--dpi", 40]
    return fig.main([str(flag) for flag in [*places, *flags]])


def panels_of(folder):
    return {panel.name: panel for panel in fig.collect(folder / "result.out", str)[0]}


def test_every_panel_and_the_page_are_files_and_what_is_missing_is_named(results, capsys, monkeypatch):
    monkeypatch.chdir(results)  # where no dataset is
    assert draw(results, "--format", "png") == 0
    drawn = {path.name for path in (results / "figs").iterdir()}
    of_main = {f"nn_{metric}.png" for metric in ("accuracy", "kappa", "macro_f1", "auprc", "auroc")}
    others = {
        "svm_auprc.png",
        "svm_auroc.png",
        "clus_ari.png",
        "clus_silhouette.png",
        "leiden_1.png",
        "leiden_best.png",
        "summary.png",
    }
    assert drawn == of_main | others
    out = capsys.readouterr().out
    line = f"python rf_svm_lr.py --clf rf --data_dir DIR --save_result {results / 'result.out'}"
    assert f"no results of random forest yet; make them with: {line}" in out
    assert "no results of linear SVM" not in out and "no results of main.py's classifier" not in out


def test_the_page_comes_in_the_formats_asked_for(results):
    assert draw(results, "--format", "pdf,svg") == 0
    assert (results / "figs" / "summary.pdf").read_bytes()[:5] == b"%PDF-"
    assert b"<svg" in (results / "figs" / "summary.svg").read_bytes()
    assert not list((results / "figs").glob("*.png"))


def test_the_points_are_the_means_of_the_table_over_the_repeats(results):
    table = utils.read_results(results / "result.csv")
    axis = Figure().add_subplot()
    comparison = fig.draw(axis, panels_of(results)["nn_auprc"])
    points = axis.collections[-1].get_offsets()
    assert len(points) == 7
    for name, (x, y) in zip(NAMES, points, strict=True):
        of_set = table[table.dataset == name]
        assert x == pytest.approx(of_set[of_set.arm == utils.ARMS[1]].auprc.mean())
        assert y == pytest.approx(of_set[of_set.arm == utils.ARMS[0]].auprc.mean())
    above = int(sum(y - x >= score.TIE for x, y in points))
    assert comparison.won == above
    assert f"{above} of 7 above" in axis.texts[0].get_text()


def test_error_bars_are_the_spread_of_the_repeats(results):
    table = utils.read_results(results / "result.csv")
    axis = Figure().add_subplot()
    fig.draw(axis, panels_of(results)["nn_kappa"])
    vertical = axis.collections[1].get_segments()
    first = table[(table.dataset == "Set_0") & (table.arm == utils.ARMS[0])].kappa
    assert np.ptp(vertical[0][:, 1]) == pytest.approx(2 * first.std())


def test_a_repeat_of_one_arm_only_is_left_out(results):
    path = results / "svm.csv"
    row = dict.fromkeys(utils.RESULT_COLUMNS, 0.0) | {"dataset": "Set_0", "arm": utils.ARMS[0], "seed": 9, "run": "x"}
    before = panels_of(results)["svm_auroc"].values
    utils.write_result(path, row)
    utils.write_result(path, row | {"dataset": "Lonely"})
    assert panels_of(results)["svm_auroc"].values.equals(before)


def test_the_page_holds_every_panel_with_the_data_of_the_tables(results):
    panels = panels_of(results)
    page = fig.summary(list(panels.values()))
    drawn = [axis for axis in page.axes if axis.axison]
    assert len(drawn) == len(panels) == 11
    titles = [axis.get_title().replace("\n", " ") for axis in drawn]
    for panel in panels.values():
        axis = drawn[titles.index(panel.title)]
        mean = panel.values["mean"]
        assert np.allclose(axis.collections[-1].get_offsets(), mean[[utils.ARMS[1], utils.ARMS[0]]])
        assert axis.get_xlim() == axis.get_ylim()


def test_without_any_results_every_command_is_named(tmp_path, capsys):
    assert draw(tmp_path, "--data_dir", tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: there are no results") and "Traceback" not in error
    for words in ("main.py --kmeans", "rf_svm_lr.py --clf svm", "clus.py"):
        assert f"python {words} --data_dir {tmp_path} --save_result {tmp_path / 'result.out'}" in error
    assert not (tmp_path / "figs").exists()


def test_an_unknown_format_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        draw(tmp_path, "--format", "gif")
    assert stopped.value.code == 2
    assert "pdf, png, svg" in capsys.readouterr().err


def test_a_table_of_something_else_is_refused_with_its_name(results, capsys):
    (results / "rf.csv").write_text("a,b\n1,2\n")
    assert draw(results) == 2
    assert "rf.csv lacks the columns" in capsys.readouterr().err
