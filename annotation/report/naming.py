"""The section on which groups of cells get their names."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from annotation.report.annotation import Annotation
from annotation.report.words import percent, plural, text

POINTING = (
    "Ringed cells are those to look at first. Point at a row to light its cells, click a cell to jump to its row."
)


def naming(a: Annotation, fill, tools: str = "", bars: str = "", downloads: str = "") -> str:
    """A map by group, and a row a group with what tells its type and a box for its name; "" without groups.

    fill : sections.fill, which reads a file of the page; tools : HTML that stands above the map;
    bars, downloads : beneath it.
    """
    if a.groups is None:
        return ""
    numbers = [str(number) for number in a.groups["group"]]
    rows = "".join(_row(a, k, row, numbers) for k, row in enumerate(a.groups.to_dict("records")))
    choices = dict.fromkeys([*a.names, *(str(row) for row in a.groups["proposed"] if row)])
    return fill(
        "naming.html",
        map="" if a.umap is None else fill("group.html", cells=plural(len(a.cells), "cell")),
        pointing="" if a.umap is None else POINTING,
        tools=tools,
        bars=bars,
        downloads=downloads,
        rows=rows,
        names="".join(f'<option value="{text(name)}"></option>' for name in choices),
        save_as=text(a.save_as or "labels.csv"),
        command=text(command(a)),
    )


def command(a: Annotation) -> str:
    """The exact command that comes next; "" where the caller names none."""
    return a.next_command.replace("{labels}", shlex.quote(a.save_as or "labels.csv"))


def _row(a: Annotation, k: int, row: Mapping, numbers: Sequence[str]) -> str:
    number, proposed = text(numbers[k]), str(row.get("proposed") or "")
    score = row.get("score")
    said = "" if not proposed or score is None or score != score else f", score {float(score):.2f}"
    hint = '<p class="hint" hidden></p>' if not proposed else (
        f'<p class="hint">Proposed from markers{said}; press Enter in the box to confirm.</p>'
    )  # fmt: skip
    mixed = ""
    if row.get("mixed"):
        mixed = (
            '<span class="mixed" title="Its cells do not look alike: name it only if all suggested cells are of one '
            'type, or explore with more groups">mixed: may want to be split</span>'
        )
    first = ", ".join(text(cell) for cell in row.get("suggested") or ())
    look = f"<details><summary>Cells to look at first</summary><p>{first}</p></details>" if first else ""
    others = "".join(f'<option value="{text(n)}">same as group {text(n)}</option>' for n in numbers if n != numbers[k])
    dot = f'<i class="dot {a.shape(k, "")}" style="background-color:{a.colour(k, "")}" aria-hidden="true"></i>'
    return (
        f'<li class="group" data-group="{number}" data-proposed="{text(proposed)}">'
        f'<h3>{dot}Group {number} <em>{plural(int(row["n"]), "cell")}</em> {mixed}<span class="state"></span></h3>'
        f'<p class="genes">{_genes(row.get("genes") or ())}</p>'
        f'<div class="name"><label>Name <input class="called" list="used-names" autocomplete="off" spellcheck="false" '
        f'aria-label="Name of group {number}"></label><button type="button" class="confirm" hidden>Confirm</button>'
        f'<label><input type="checkbox" class="skip"> leave unlabelled</label>'
        f'<select class="same" aria-label="Group {number} is the same as"><option value="">same as …</option>'
        f"{others}</select></div>{hint}{look}</li>\n"
    )


def _genes(genes: Sequence[Mapping]) -> str:
    """A button a gene: it colours the maps by it."""
    if not genes:
        return '<span class="hint">No gene is its own.</span>'
    return " ".join(
        f'<button type="button" class="gene" data-gene="{text(gene["gene"])}" '
        f'title="Expressed by {percent(float(gene["inside"]))} of the group, {percent(float(gene["outside"]))} of all '
        f'other cells"><b>{text(gene["gene"])}</b> {100 * float(gene["inside"]):.0f} <small>/ '
        f"{100 * float(gene['outside']):.0f} %</small></button>"
        for gene in genes
    )
