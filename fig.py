"""Scatter plots of all results, one point a dataset: above the diagonal scPretrain is better.

python fig.py                           figs/nn_*, CLF_*, clus_*, leiden_* and summary, each as .pdf and .png
python fig.py --format png --dpi 300    only .png, finer
"""

import argparse
from collections.abc import Callable, Sequence

import flags


def parser() -> flags.Parser:
    return flags.build_parser(__doc__, flags.results, flags.pictures, flags.running)


if __name__ == "__main__":
    flags.answer(parser())

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import utils
from stages import plot, score
from voice import RESULT, log

TITLES = score.METRICS | score.CLUSTER_METRICS
OF_MAIN, OF_CLASSIFIER, OF_CLUSTERS = tuple(score.METRICS), ("auprc", "auroc"), ("ari", "silhouette")
OF_LEIDEN = {"leiden": "ARI at resolution 1", "leiden_best": "ARI at the best one"}  # not told the number of types
METHODS = {
    "nn": "main.py's classifier",  # a network or the few-label classifier: tables do not say the recipe
    "svm": "linear SVM",
    "rf": "random forest",
    "lr": "logistic regression",
    "knn": "kNN",
    "clus": "k-means",
    "leiden": "Leiden",
}
ACROSS = 6  # panels in a row of the summary page, at most


@dataclass(frozen=True)
class Panel:
    """One scatter plot: where its numbers come from and what it is called."""

    method: str  # nn, svm, svm_tuned, ..., clus
    metric: str
    values: pd.DataFrame  # a row a dataset, columns (mean | std, arm)

    @property
    def name(self) -> str:
        metric = {"leiden": "1", "leiden_best": "best"}.get(self.metric, self.metric)
        return f"{self.method}_{metric}"

    @property
    def title(self) -> str:
        kind = self.method.removesuffix("_tuned")
        return f"{METHODS[kind]}{', tuned' if kind != self.method else ''}: {(TITLES | OF_LEIDEN)[self.metric]}"


def main(argv: Sequence[str] | None = None) -> int:
    return flags.run(command, parser(), argv)


def command(args: argparse.Namespace) -> None:
    """Draw what has results, name what has none with the command that makes it."""
    # the default folder need not be where the data are: results do not say where they came from
    where = "" if "data_dir" in args.given or any(args.data_dir.glob("*.h5*")) else " --data_dir DIR"
    panels, missing = collect(args.save_result, lambda words: flags.command_line(f"{words}{where}", args))
    pictures = flags.fill(utils.Pictures, args)
    if not panels:
        lines = "".join(f"\n  {line}" for line in missing.values())
        raise FileNotFoundError(f"there are no results in {args.save_result.parent} yet; make them with:{lines}")
    written = []
    with rc_context(plot.STYLE):
        for panel in panels:
            figure = Figure(figsize=(3.4, 3.5), layout="constrained")
            comparison = draw(figure.add_subplot(), panel)
            written += pictures.save(figure, panel.name)
            log.info(f"{panel.title}: {comparison.won} of {len(panel.values)} above, p = {comparison.p:.3g}")
        written += pictures.save(summary(panels), "summary")
    for what, line in missing.items():
        log.info(f"no results of {what} yet; make them with: {line}")
    log.log(RESULT, f"{len(written)} files in {args.figs}: {', '.join(sorted({path.stem for path in written}))}")


def collect(save_result: Path, proposed: Callable[[str], str]) -> tuple[list[Panel], dict[str, str]]:
    """The panels that have results, and for each method without any the command that makes them, as `proposed`."""
    sources = [("nn", save_result.with_suffix(".csv"), OF_MAIN, utils.RESULT_COLUMNS, "main.py --kmeans")]
    for kind in flags.CLASSIFIERS:
        for tuned in (False, True):
            path = utils.classifier_results(save_result, kind, tuned)
            line = f"rf_svm_lr.py --clf {kind}"
            sources.append((path.stem, path, OF_CLASSIFIER, utils.RESULT_COLUMNS, line))
    path = utils.clustering_results(save_result)
    sources.append(("clus", path, OF_CLUSTERS, utils.CLUSTER_COLUMNS, "clus.py"))
    sources.append(("leiden", path, tuple(OF_LEIDEN), utils.CLUSTER_COLUMNS, "clus.py"))
    panels, missing = [], {}
    for method, path, metrics, columns, words in sources:
        results = utils.read_results(path, columns)
        found = [Panel(method, metric, score.paired(results, utils.ARMS, metric)) for metric in metrics]
        found = [panel for panel in found if len(panel.values)]
        panels += found
        if not found and not method.endswith("_tuned"):
            missing[METHODS[method]] = proposed(words)
    return panels, missing


def draw(axis: Axes, panel: Panel, *, title: str = "") -> score.Comparison:
    """One panel on an axis; returns the comparison whose numbers stand above it."""
    with_, without = utils.ARMS
    mean, std = (panel.values[kind] for kind in ("mean", "std"))
    comparison = score.compare(mean[with_].to_numpy(), mean[without].to_numpy())
    count = f"{comparison.won} of {len(mean)} above"
    if comparison.tied:
        count += f", {comparison.tied} tied"
    plot.paired_scatter(
        axis,
        mean[without].to_numpy(),
        mean[with_].to_numpy(),
        errors=(std[without].to_numpy(), std[with_].to_numpy()),
        title=title or panel.title,
        below=f"{count}; p = {comparison.p:.2g}",
        arms=utils.ARMS,
        tie=score.TIE,
    )
    return comparison


def summary(panels: Sequence[Panel]) -> Figure:
    """Every panel on one page: a row for main.py, then a column for each other method."""
    rows: list[Sequence[Panel | None]] = (
        [of_main] if (of_main := [panel for panel in panels if panel.method == "nn"]) else []
    )
    columns = [list(of_one) for method, of_one in groupby(panels, lambda panel: panel.method) if method != "nn"]
    each = -(-len(columns) // max(1, -(-len(columns) // ACROSS)))  # as many in each row
    for start in range(0, len(columns), max(1, each)):
        rows += zip(*columns[start : start + each], strict=True)
    across = max(len(row) for row in rows)
    figure = Figure(figsize=(2.5 * across, 2.75 * len(rows) + 0.4), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12)  # inches: a title of two lines must not touch the row above
    axes = figure.subplots(len(rows), across, squeeze=False)
    for row, of_row in zip(rows, axes, strict=True):
        for axis in of_row[len(row) :]:
            axis.set_axis_off()
        for axis, panel in zip(of_row, row, strict=False):
            title = panel.title.replace(": ", ":\n")
            draw(axis, panel, title=title)
            axis.set(xlabel="", ylabel="")
            axis.tick_params(labelsize=7)
    datasets = max(len(panel.values) for panel in panels)
    figure.suptitle(f"{datasets} datasets, one point each; above the diagonal scPretrain is better", fontsize=11)
    figure.supxlabel(utils.ARMS[1], fontsize=10)
    figure.supylabel(utils.ARMS[0], fontsize=10)
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
