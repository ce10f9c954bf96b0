"""What is said of an annotation: a few lines at the end, uns, the .csv, and what the page is handed."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, vstack

from annotation import report
from annotation.given_labels import some
from annotation.labeller import Learnt
from annotation.markers import informative, marker_dots
from annotation.outcome import Found, progress
from annotation.work import UNKNOWN
from voice import log

DRAWN = 50_000  # cells in the page's map
GENES_SHOWN = 2_000  # that the page can colour the map by
GENES_OF_GROUP = 5
GROUPS_SAID = 40  # groups, or suggested cells, that the screen shows at most


def about(found: Found, command: str) -> dict[str, Any]:
    """What goes into uns['scpretrain']; command: what was typed."""
    work = found.work
    model, learnt = work.labeller, work.labeller.learnt
    content = {
        "versions": versions(),
        "settings": work.settings,
        "genes": np.array(work.query.genes, dtype=object),
        "classes": np.array(model.classes, dtype=object),
        "temperature": learnt.temperature,
        "ece": learnt.ece if work.calibrated else float("nan"),
        "seed": work.wishes.seed,
        "recipe": work.settings["recipe"],
        "warnings": np.array([*work.warnings, *doubts(found)], dtype=object),
        "overlap": pd.DataFrame(work.overlap),
        "cells_learnt_from": len(model.fitted.rows),
        "command": command,
    }
    if found.clusters is not None:
        content["clusters"] = found.clusters.set_index(found.clusters["cluster"].astype(str).to_numpy())
    if found.suggested is not None:
        content["suggested"] = found.suggested["cell"].to_numpy(dtype=object)
    if found.markers is not None and len(found.markers):
        content["markers"] = found.markers.set_index(found.markers.index.astype(str))
    if work.wishes.explore:
        content["groups"] = listed(found.groups).set_index(found.groups["group"].astype(str).to_numpy())
        content["group_stability"] = found.stability
    return content


def listed(groups: pd.DataFrame) -> pd.DataFrame:
    """The table of groups with its lists of cells as text."""
    return groups.assign(suggested=[", ".join(str(cell) for cell in cells) for cells in groups["suggested"]])


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("torch", "numpy", "scipy", "scikit-learn", "pandas", "anndata", "h5py", "umap-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def doubts(found: Found) -> list[str]:
    """What the calls give reason to doubt, as the page says it: of all cells."""
    if not found.work.labeller.classes:
        return []
    types = np.asarray(found.columns["cell_type"]).astype(object)
    counts = pd.Series(types).value_counts().to_dict()
    return report.doubts(counts, types, np.asarray(found.columns["confidence"]), found.work.wishes.unknown, UNKNOWN)


def table_of(found: Found) -> pd.DataFrame:
    """The .csv: a row a cell, the columns of obs without the prefix, and the map."""
    table = pd.DataFrame(found.columns, index=pd.Index(found.work.query.rows.cells, dtype=object))
    if found.umap is not None:
        table["umap_1"], table["umap_2"] = found.umap[:, 0], found.umap[:, 1]
    return table


def tell(found: Found) -> None:
    """The counts per type, most first, and how fast it went."""
    work = found.work
    rate = len(work.query) / max(found.seconds, 1e-9)
    took = f"{found.seconds:.1f} s ({rate:,.0f} cells/s; {found.processor:.1f} s of processor time)"
    log.info(f"{len(work.query):,} cells in {took}")
    if work.labeller.classes:
        counts = pd.Series(np.asarray(found.columns["cell_type"])).value_counts()
        if work.labeller.calls_unknown and work.labeller.unknown is not None:
            counts[UNKNOWN] = counts.get(UNKNOWN, 0)
        log.info("; ".join(f"{name} {count:,}" for name, count in counts.items()))
        for sentence in unknown_groups(found):
            log.info(sentence)
        for sentence in doubts(found):
            log.warning(sentence)
    if found.suggested is not None and len(found.suggested):
        log.info(f"label next: {some([str(cell) for cell in found.suggested['cell']], GROUPS_SAID)}")
    if work.wishes.explore:
        for row in found.groups.head(GROUPS_SAID).itertuples():
            genes = ", ".join(markers_of(found, str(row.group))["gene"].head(GENES_OF_GROUP)) or "no gene of its own"
            proposed = f"; {row.proposed}?" if row.proposed else ""
            log.info(f"group {row.group}: {row.n:,} cell{'s' * (row.n != 1)}; {genes}{proposed}")
        if (more := len(found.groups) - GROUPS_SAID) > 0:
            log.info(f"and {more:,} smaller groups; uns['scpretrain']['groups'] lists them all")


def markers_of(found: Found, name: str) -> pd.DataFrame:
    """The marker genes of one type, or group."""
    return found.markers[found.markers["type"] == name]


def probabilities_of(found: Found) -> pd.DataFrame:
    """The .probabilities.csv: a row a cell, a column a type."""
    cells = pd.Index(found.work.query.rows.cells, dtype=object)
    return pd.DataFrame(found.probabilities, index=cells, columns=found.work.labeller.classes)


# -- the page ----------------------------------------------------------------
@dataclass(frozen=True)
class Naming:
    """How the names that are given on the page come back: what to type next, and the files that takes."""

    next_command: str = ""  # {labels} stands for the saved file
    save_as: str = ""
    groups_file: str = ""


def page_of(found: Found, title: str, naming: Naming = Naming()) -> report.Annotation:
    """What the page says."""
    work, of = found.work, found.columns
    fitted, n, called = work.labeller.fitted, len(work.query), bool(work.labeller.classes)
    rows = fitted.rows if n > DRAWN else np.arange(n)
    page = report.Annotation(
        title=title,
        cells=[work.query.rows.cells[row] for row in rows],
        cell_type=np.full(len(rows), "not labelled", dtype=object),
        confidence=np.full(len(rows), np.nan),
        umap=found.umap[rows] if found.umap is not None else None,
        overlap=work.overlap,
        warnings=work.warnings,
        notes=found.notes + expected(found) + unknown_groups(found),
        settings=work.settings,
        versions=versions(),
        command=found.uns["command"],
        unknown=UNKNOWN,
        called=called,
        genes=gene_values(found, rows),
        names=names_of(found),
    )
    if not called:
        page.group, page.groups = found.group[rows], with_genes(found)
        page.next_command, page.save_as = naming.next_command, naming.save_as
        page.groups_file = naming.groups_file
        return page
    types = np.asarray(of["cell_type"]).astype(object)  # (N,)
    page.cell_type, page.confidence = types[rows], np.asarray(of["confidence"])[rows]
    page.second_choice = np.asarray(pd.Series(of["second_choice"]).astype(object).fillna(""))[rows]
    page.counts = pd.Series(types).value_counts().to_dict()
    page.clusters = found.clusters
    page.markers, page.dots = found.markers, dots_of(found, types[fitted.rows])
    beside_known(page, found, types, rows)
    if np.isfinite(work.labeller.learnt.ece) and work.calibrated:
        page.ece, page.reliability = work.labeller.learnt.ece, reliability(work.labeller.learnt)
    return page


def expected(found: Found) -> list[str]:
    """How many known cells are expected among the unknown ones, where some were asked for."""
    work, share = found.work, found.work.wishes.unknown
    if not share or not work.labeller.classes or work.labeller.learnt.foreign:
        return []
    return [
        f"{UNKNOWN} are cells that no type explains. Of the cells of known types about {100 * share:.3g} % are "
        "expected among them, for that share was asked for; where the labels come from another dataset it can be more."
    ]


def unknown_groups(found: Found) -> list[str]:
    """What the groups of unknown cells are: a sentence with their sizes and genes, none where there is one group."""
    group = found.columns.get("unknown_group")
    if group is None or len(group.categories) < 2:
        return []
    count = pd.Series(group).value_counts()
    said = []
    for name in group.categories:
        genes = ", ".join(markers_of(found, name)["gene"].head(GENES_OF_GROUP)) or "no gene of its own"
        said.append(f"{name}: {count[name]:,} cells, {genes}")
    return [f"{UNKNOWN} cells in groups: {'; '.join(said)}."]


def names_of(found: Found) -> list[str]:
    """Names of types to choose from: of the labels, of the markers, of the query's own column."""
    wishes, query = found.work.wishes, found.work.query
    names = [*found.work.labeller.classes, *found.work.names]
    column = query.labels(wishes.label_key, wishes.unlabeled)
    return list(dict.fromkeys([*names, *sorted(set(column) - {""} if column is not None else ())]))


def with_genes(found: Found) -> pd.DataFrame:
    """The table of groups with the genes of each: dicts of gene, inside, outside."""
    genes = []
    for number in found.groups["group"]:
        mine = markers_of(found, str(number)).head(GENES_OF_GROUP)
        columns = zip(mine["gene"], mine["detected_in"], mine["detected_out"], strict=True)
        genes.append([{"gene": gene, "inside": inside, "outside": outside} for gene, inside, outside in columns])
    return found.groups.assign(genes=genes)


def gene_values(found: Found, rows: np.ndarray) -> tuple[list[str], csr_matrix]:
    """The names of the most telling genes, most telling first, and their log1p values in the drawn cells (n, K)."""
    query, fitted = found.work.query, found.work.labeller.fitted
    names = query.spelled()
    columns = informative(fitted.log, names, found.markers["gene"], GENES_SHOWN)
    place = np.full(len(query), -1)
    place[fitted.rows] = np.arange(len(fitted.rows))
    if (place[rows] >= 0).all():
        values = fitted.log[:, columns].tocsr()[place[rows]]
    else:
        values = vstack(
            [query.log(counts)[0][:, columns] for _, counts in progress(query, "reading genes for the page")],
            format="csr",
        )[rows]
    return [names[column] for column in columns], values.astype(np.float32)


def dots_of(found: Found, types: np.ndarray) -> pd.DataFrame:
    """How every type expresses the first markers of each, from the cells that were learnt from and their types (M,)."""
    wanted = found.markers.groupby("type", sort=False).head(3)["gene"]
    genes = found.work.query.spelled()
    return marker_dots(found.work.labeller.fitted.log, genes, types, list(dict.fromkeys(wanted)))


def beside_known(page: report.Annotation, found: Found, types: np.ndarray, rows: np.ndarray) -> None:
    """Add the labels that cells came with, and how the calls agree with them."""
    work, learnt = found.work, found.work.labeller.learnt
    names = np.array([*work.labeller.classes, ""], dtype=object)
    if work.existing is not None:
        page.known = work.existing[rows]
        page.confusion = pd.crosstab(pd.Series(work.existing, name="existing"), pd.Series(types, name="predicted"))
        page.confusion = page.confusion.drop(index="", errors="ignore")
    elif (work.known >= 0).any():
        page.known = names[work.known][rows]
        if len(learnt.held_out):  # kept labels agree by construction; this says something
            _, calls, truth = learnt.held_out.T
            page.confusion = pd.crosstab(names[truth.astype(int)], names[calls.astype(int)])
            page.confusion_note = (
                "Labelled cells, each called as if it had no label; in the output their labels are kept."
            )


def reliability(learnt: Learnt) -> pd.DataFrame:
    """How often held-out labelled cells were called rightly, by bins of confidence: confidence, accuracy, n."""
    sure, calls, truth = learnt.held_out.T
    bins = pd.DataFrame({"confidence": sure, "accuracy": (calls == truth).astype(float)})
    bins = bins.groupby(np.minimum((sure * 10).astype(int), 9))
    return bins.mean().assign(n=bins.size()).reset_index(drop=True)
