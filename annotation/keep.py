"""A labeller in a file of its own: kept to label the rest of the query it was learnt on, or another sample."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from annotation import confidence, road, saved, write_h5ad
from annotation import labeller as learn
from annotation.calling import Calling
from annotation.encoder import ON_THE_SPOT, with_own_map
from annotation.labeller import Embedder, Fitted, Labeller, Learnt
from annotation.lessons import CELLS, Lessons
from annotation.outcome import centres_of
from annotation.strange import Places, Strange
from annotation.wishes import Wishes
from annotation.work import Centres, Work, doubts
from files import fingerprint, whole
from reading import source as q
from reading.source import Source
from voice import log

KIND = "labeller"
AGAIN = "learn it anew with --save_labeller"
UNBOUNDED = ("unknown.limits",)
LOOKED_AT = 64  # cells whose values tell whether a query is the one that was learnt on
LEARNT = ("weights", "turn", "shift", "shared", "raw", "held_out")  # arrays of Learnt; shared and raw may be None
FITTED = ("rows", "features", "averaged", "probabilities", "strange", "scores")  # all but log, which the query has
STRANGE, PLACES = ("local", "limits"), ("middle", "directions", "root", "centres")
UNKNOWN = ("middle", "axes", "rows", "points", "ratio", "doubt")
Content = tuple[dict[str, Any], dict[str, np.ndarray]]


# -- to a file ----------------------------------------------------------------
def save(path: Path, work: Work) -> None:
    """Write what was learnt, whole. Raises OSError where the disk is full."""
    words, arrays = content_of(work)
    lessons, called = lessons_of(work)
    words["lessons"] = {
        "of_others": work.labeller.lessons is not None,
        "genes": lessons.genes,
        "batch": lessons.batch.tolist(),
        "datasets": len(lessons.parts),
        "called": called,
    }
    for i, part in enumerate(lessons.parts):
        arrays |= {f"lessons.{i}.{name}": getattr(part, name) for name in ("data", "indices", "indptr")}
        arrays |= {f"lessons.{i}.embedding": lessons.embeddings[i], f"lessons.{i}.labels": lessons.labels[i]}
        arrays[f"lessons.{i}.truth"] = lessons.truth[i]
    with whole(path) as part, write_h5ad.opened(part, "w") as file:
        saved.put(file, KIND, words, arrays, packed="lessons")
    cells, size = len(lessons.batch), path.stat().st_size / 1e6
    log.info(f"{path}: what was learnt of {len(work.labeller.classes)} types, with {cells:,} cells ({size:,.1f} MB)")


def content_of(work: Work) -> Content:
    """All that labels are told by, but for the cells that teach another sample: words and arrays."""
    model, query, wishes = work.labeller, work.query, work.wishes
    learnt, fitted, unknown = model.learnt, model.fitted, model.unknown
    work.centres = centres = work.centres or centres_of(work)
    given = np.flatnonzero(work.known >= 0)
    words = {
        "classes": model.classes,
        "query": {"identity": identity(query, fitted.rows), "species": query.species, "genes": query.genes,
                  "spelled": query.spelled(), "cells": len(query)},
        "embedder": _words(model.embedder), "shown": _words(model.shown),
        "types": learnt.calling.types if learnt.calling else 0,
        "learnt": {name: getattr(learnt, name) for name in ("temperature", "ece", "most", "familiarity")},
        "unknown": _words_of(unknown),
        "labeller": {"calls_unknown": model.calls_unknown, "unexplained": model.unexplained},
        "work": {name: getattr(work, name) for name in ("settings", "overlap", "warnings", "names", "calibrated")},
        "wishes": {name: getattr(wishes, name) for name in ("label_key", "unlabeled", "unknown", "seed")},
        "compared": {"at_all": work.existing is not None, "key": None if wishes.labels else wishes.label_key},
    }  # fmt: skip
    found = {"columns": query.columns, "anchors": model.anchors, "known.rows": given, "known.labels": work.known[given]}
    found |= {f"learnt.{name}": getattr(learnt, name) for name in LEARNT}
    found |= {f"fitted.{name}": getattr(fitted, name) for name in FITTED}
    found |= {"centres.voting": centres.voting, "centres.unlike": centres.unlike}
    found |= {"centres.grouped": centres.grouped.centres} if centres.grouped else {}
    for name in ("embedder", "shown"):
        one = getattr(model, name)
        found |= {f"{name}.weight": one.weight, f"{name}.bias": one.bias} if one else {}
    if learnt.calling:
        found |= {f"calling.{name}": getattr(learnt.calling, name) for name in ("bias", "present", "slopes")}
    names = STRANGE if isinstance(unknown, Strange) else UNKNOWN if unknown else ()
    found |= {f"unknown.{name}": getattr(unknown, name) for name in names}
    if isinstance(unknown, Strange):
        found |= {f"unknown.{name}": getattr(unknown.places, name) for name in PLACES}
    if isinstance(unknown, confidence.Unknown):
        found |= {f"unknown.types.{i}": array for i, array in enumerate(unknown.types)}
        found |= {f"unknown.overall.{i}": array for i, array in enumerate(unknown.overall)}
    return words, {name: array for name, array in found.items() if array is not None}


def _words(embedder: Embedder | None) -> dict[str, Any] | None:
    return None if embedder is None else {name: getattr(embedder, name) for name in ("genes", "plain", "own")}


def _words_of(unknown: confidence.Unknown | Strange | None) -> dict[str, float] | None:
    if unknown is None:
        return None
    names = ["threshold"] + (["entropy_weight"] if isinstance(unknown, confidence.Unknown) else [])
    return {name: float(getattr(unknown, name)) for name in names}


def identity(query: Source, rows: np.ndarray) -> str:
    """A hash of what a query is: its cells, genes and values, the last by a few of the cells learnt from (M,)."""
    cells = hashlib.sha256("\n".join(str(name) for name in query.rows.cells).encode("utf-8", "backslashreplace"))
    counts = query.take(rows[:LOOKED_AT])
    values = hashlib.sha256(counts.data.tobytes() + counts.indices.tobytes()).hexdigest()
    return fingerprint(len(query), cells.hexdigest(), query.rows.genes, asdict(query.values), query.matrix, values)


def model_of(work: Work) -> str:
    """A short hash of all that labels are told by; where the files lie does not count."""
    words, arrays = content_of(work)
    return saved.fingerprint(words | {"work": None}, arrays)


def lessons_of(work: Work) -> tuple[Lessons, int]:
    """Cells that teach another sample, of the references or else of the query itself; how many of them by their calls.

    Of the query all cells that a type explains, those without a label by their call. Calls are not always right, so
    what such a cell is taken for where confidence is measured is drawn from its probabilities, which are calibrated.
    """
    model, fitted = work.labeller, work.labeller.fitted
    if model.lessons is not None:
        return model.lessons, 0
    rng, p = np.random.default_rng(work.wishes.seed), fitted.probabilities
    known = work.known[fitted.rows]
    labels = np.where(known >= 0, known, np.where(fitted.strange, -1, p.argmax(axis=1)))
    drawn = (rng.random(len(p))[:, None] > p.cumsum(axis=1)).sum(axis=1).clip(max=p.shape[1] - 1)
    rows = road.evenly(labels, CELLS, rng)
    cells, truth = fitted.log[rows], np.where(known >= 0, known, drawn)[rows]
    embedding = model.embedder(work.query, work.query.take(fitted.rows[rows]), cells)
    lessons = Lessons(work.query.genes, [cells], [embedding], [labels[rows]], [truth], np.full(len(rows), "0"))
    return lessons, int((known[rows] < 0).sum())


# -- from a file ----------------------------------------------------------------
def load(path: Path) -> Content:
    """What `save` wrote. Raises ValueError or FileNotFoundError with the file's name, and what to do."""
    return saved.get(path, KIND, AGAIN, unbounded=UNBOUNDED)


def work_with(path: Path, cells: Source, wishes: Wishes, *, whole_work: bool = True) -> Work:
    """What is known before the first cell of a query is labelled by a labeller from a file.

    On the query it was learnt on it is what it was, to the last bit. Another sample is a query to it, as the labelled
    cells in it are a reference: centred on itself, with drift and limits of its own. whole_work: it is also concluded.
    Raises ValueError for another species, too few of its genes, a damaged file.
    """
    words, arrays = load(path)
    own = words["query"]
    try:
        if cells.species != own["species"]:
            raise ValueError(
                f"{cells.where}: it is of {cells.species}, and {path} was learnt on {own['species']}; labels go from "
                "one species to another with --reference, or say --species if it was told wrongly"
            )
        kept = replace(wishes, labeller=None, **words["wishes"])
        if own["cells"] == len(cells) and identity(cells, arrays["fitted.rows"]) == own["identity"]:
            log.info(f"{cells.name}: the cells that {path} was learnt on; {len(words['classes'])} types")
            return restored(words, arrays, cells, kept, whole_work)
        return taught(path, words, arrays, cells, replace(kept, label_key=wishes.label_key, unlabeled=wishes.unlabeled))
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path} lacks parts of a labeller ({error!r}); it is damaged: {AGAIN}") from error


def restored(words: dict, arrays: dict[str, np.ndarray], cells: Source, wishes: Wishes, whole_work: bool) -> Work:
    """The very work that was saved. Without `whole_work` the cells learnt from are not read once more."""
    cells.columns, cells.genes = arrays["columns"], words["query"]["genes"]  # whether there is an ortholog table or not
    rows = arrays["fitted.rows"]
    again = cells.log(cells.take(rows))[0] if whole_work else csr_matrix((0, len(cells.genes)), dtype=np.float32)
    calling = Calling(types=words["types"], **_under("calling", arrays)) if words["types"] else None
    model = Labeller(
        query=cells,
        embedder=_embedder(words, arrays, "embedder"),
        classes=words["classes"],
        learnt=Learnt(**_under("learnt", arrays), **words["learnt"], calling=calling),
        fitted=Fitted(log=again, **_under("fitted", arrays)),
        anchors=arrays["anchors"],
        unknown=_unknown(words, _under("unknown", arrays)),
        shown=_embedder(words, arrays, "shown"),
        lessons=lessons_in(words, arrays) if words["lessons"]["of_others"] else None,
        **words["labeller"],
    )
    known = np.full(len(cells), -1)
    known[arrays["known.rows"]] = arrays["known.labels"]
    compared = words["compared"]
    existing = cells.labels(compared["key"], wishes.unlabeled) if compared["at_all"] else None
    settings = words["work"].pop("settings") | {"query": str(cells.rows.path)}
    for sentence in words["work"]["warnings"]:
        log.warning(sentence)
    centres = Centres(arrays.get("centres.voting"), arrays.get("centres.unlike"))
    centres = None if wishes.consensus and centres.voting is None else centres
    centres = replace(centres, voting=None) if centres and not wishes.consensus else centres
    return Work(
        query=cells, references=[], wishes=wishes, labeller=model, known=known, existing=existing, settings=settings,
        centres=centres, **words["work"],
    )  # fmt: skip


def _under(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays called name.something, as something."""
    return {key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")}


def _embedder(words: dict, arrays: dict[str, np.ndarray], name: str) -> Embedder | None:
    if words[name] is None:
        return None
    return Embedder(weight=arrays[f"{name}.weight"], bias=arrays[f"{name}.bias"], **words[name])


def _unknown(words: dict, arrays: dict[str, np.ndarray]) -> confidence.Unknown | Strange | None:
    if words["unknown"] is None:
        return None
    if "limits" in arrays:
        places = Places(**{name: arrays[name] for name in PLACES})
        return Strange(places, **{name: arrays[name] for name in STRANGE}, **words["unknown"])
    plain = {name: arrays[name] for name in UNKNOWN}
    types = tuple(arrays[f"types.{i}"] for i in range(3))
    return confidence.Unknown(
        types=types, overall=(arrays["overall.0"], arrays["overall.1"]), **plain, **words["unknown"]
    )


def taught(path: Path, words: dict, arrays: dict[str, np.ndarray], cells: Source, wishes: Wishes) -> Work:
    """What the labelled cells in a labeller teach about another sample."""
    rename(cells, words["query"]["spelled"], words["query"]["genes"])
    lessons = lessons_in(words, arrays)
    overlap = q.check_overlap(cells, lessons.genes, wishes.force, of="labeller")
    embedder, classes = _embedder(words, arrays, "embedder"), words["classes"]
    called = f", {words['lessons']['called']:,} of them by what they were called" if words["lessons"]["called"] else ""
    log.info(
        f"{cells.name}: not the cells that {path} was learnt on; {len(lessons.batch):,} cells in it{called} teach it "
        f"{len(classes)} types"
    )
    model = learn.teach(cells, embedder, classes, lessons, error=wishes.unknown, seed=wishes.seed)
    existing = cells.labels(wishes.label_key, wishes.unlabeled)
    if words["work"]["settings"]["checkpoint"].startswith(ON_THE_SPOT):
        model = with_own_map(model, cells, wishes.seed)
    warnings = doubts(model, wishes.unknown, cells.name) + cells.warnings
    for sentence in warnings:
        log.warning(sentence)
    settings = words["work"]["settings"] | {
        "labeller": str(path), "query": str(cells.rows.path), "values": cells.values.describe(cells.matrix),
    }  # fmt: skip
    return Work(
        query=cells, references=[], wishes=wishes, labeller=model, known=np.full(len(cells), -1), settings=settings,
        existing=existing, overlap=[overlap], warnings=warnings,
        names=words["work"]["names"], calibrated=words["work"]["calibrated"],
    )  # fmt: skip


def lessons_in(words: dict, arrays: dict[str, np.ndarray]) -> Lessons:
    """The labelled cells that a file holds."""
    genes, parts, numbers = words["lessons"]["genes"], [], range(words["lessons"]["datasets"])
    labels = [arrays[f"lessons.{i}.labels"] for i in numbers]
    for i in numbers:
        pieces = tuple(arrays[f"lessons.{i}.{name}"] for name in ("data", "indices", "indptr"))
        parts.append(csr_matrix(pieces, shape=(len(labels[i]), len(genes))))
    embeddings = [arrays[f"lessons.{i}.embedding"] for i in numbers]
    truth = [arrays[f"lessons.{i}.truth"] for i in numbers]
    return Lessons(genes, parts, embeddings, labels, truth, np.array(words["lessons"]["batch"]))


def rename(cells: Source, spelled: list[str], genes: list[str]) -> None:
    """Call the genes of a sample what the labeller calls genes of the same spelling, ortholog table or not."""
    known = {name.upper(): gene for name, gene in zip(spelled, genes, strict=True)}
    taken, columns, names = set(known.values()), [], []
    for column, own, name in zip(cells.columns, cells.genes, cells.spelled(), strict=True):
        found = known.get(name.upper())
        if found is None and own in taken:
            continue  # another column has the name by its spelling
        columns.append(column)
        names.append(found or own)
    cells.columns, cells.genes = np.array(columns, dtype=np.int64), names
