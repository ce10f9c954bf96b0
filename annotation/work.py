"""What is known before the first cell is labelled: the wishes, the labels, the encoder, and what was learnt of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from annotation import foreign, given_labels, groups, marker_labels, road
from annotation import labeller as learn
from annotation.encoder import ON_THE_SPOT, embedder_of, encoder_for, with_own_map
from annotation.given_labels import Given
from annotation.groups import Groups
from annotation.labeller import Embedder, Labeller
from annotation.wishes import Wishes
from reading import source as q
from reading.source import Source
from voice import log

UNKNOWN = "Unknown"
MANY_STRANGE = 0.15  # share of a query's cells; between technologies up to a tenth look strange that are not
FEW_OF_TYPE = 10  # labelled cells of a type in all references: from 3 none of 59 were found


@dataclass(frozen=True)
class Centres:
    """What the query's cells are held against one by one, in features (D); None where it is not asked for."""

    voting: np.ndarray | None = None  # (K, D) of the small clusters that vote
    unlike: np.ndarray | None = None  # (U, D) of the groups of cells that no type explains
    grouped: Groups | None = None  # of cells that are to be named


@dataclass
class Work:
    """The opened datasets and what was learnt from them."""

    query: Source
    references: list[Source]
    wishes: Wishes
    labeller: Labeller
    known: np.ndarray  # (N,) labels of the query that are kept, -1 for none
    existing: np.ndarray | None  # (N,) labels of the query to compare with, "" for none
    overlap: list[dict]
    warnings: list[str]
    settings: dict[str, Any]
    names: list[str] = field(default_factory=list)  # of types, that the labels or markers name beside the classes
    calibrated: bool = True  # not by marker genes, whose sure cells are no sample
    marked: tuple[np.ndarray, np.ndarray] | None = None  # columns of markers (C,), for and against each type (L, C)
    centres: Centres | None = None  # made when the first cell is looked at


@dataclass(frozen=True)
class Labels:
    """Cell types by number: what is learnt from, and what is only compared with."""

    taught: np.ndarray  # (N,) of the query, learnt from, -1 for none
    known: np.ndarray  # (N,) of these the ones that are kept; marker genes only suppose
    theirs: list[np.ndarray]  # (M,) of each reference
    classes: list[str]
    existing: np.ndarray | None = None  # (N,) names in the query that are not learnt from, "" for none
    groups: np.ndarray | None = None  # (N,) int: cells are labelled by the names of these, -1 for others


def learn_from(cells: Source, references: Sequence[Source], model: Path | None, wishes: Wishes) -> Work:
    """Everything that comes before the first cell is labelled. model: a checkpoint; None: an encoder is made here."""
    everything = [cells, *references]
    shared = q.shared_genes(everything)
    check_column(cells, references, wishes)
    marked = marker_labels.measured(wishes.markers, cells) if wishes.markers else None
    labels = None if marked and wishes.typed else cell_types(cells, references, wishes)
    checkpoint, overlap, made, corpus = encoder_for(everything, shared, model, wishes)
    embedder = embedder_of(checkpoint, own=not references and made.startswith(ON_THE_SPOT))
    labels = labels or by_markers(cells, embedder, wishes, marked)
    labels = settled(cells, embedder, labels, wishes.seed) if labels.groups is not None else labels
    begin = time.perf_counter()
    log.info(f"learning what the {min(len(cells), learn.FIT):,} cells are like")
    pairs = list(zip(references, labels.theirs, strict=True))
    labeller = learn.fit(
        cells, embedder, labels.taught, labels.classes, pairs, batches=batches_of(references, wishes.batch_key),
        error=wishes.unknown, seed=wishes.seed,
    )  # fmt: skip
    if references and (model is None or corpus is not None):
        labeller = with_own_map(labeller, cells, wishes.seed, corpus)
    if labels.classes:
        measured = f"calibration error on held-out labelled cells {labeller.learnt.ece:.3f}"
        measured = "confidence is not calibrated, for sure cells are no sample" if wishes.markers else measured
        log.info(f"learnt {len(labels.classes)} types in {time.perf_counter() - begin:.1f} s; {measured}")
    warnings = [sentence for source in everything for sentence in source.warnings]
    warnings = doubts(labeller, wishes.unknown, cells.name) + warnings  # the gravest comes first
    for sentence in warnings:
        log.warning(sentence)
    settings = {
        "query": str(cells.rows.path),
        "references": ", ".join(str(source.rows.path) for source in references),
        "label_key": wishes.label_key or "",
        "batch_key": wishes.batch_key or "",
        "unlabeled": ", ".join(str(word) for word in wishes.unlabeled),
        "labels": str(wishes.labels.path) if wishes.labels else "",
        "markers": str(wishes.markers.path) if wishes.markers else "",
        "unknown": wishes.unknown or 0.0,
        "seed": wishes.seed,
        "checkpoint": made,
        "checkpoint_genes": len(checkpoint.genes),
        "recipe": checkpoint.recipe,
        "values": cells.values.describe(cells.matrix),
        "species": cells.species,
    }
    return Work(
        query=cells, references=list(references), wishes=wishes, labeller=labeller, known=labels.known,
        existing=labels.existing, marked=marked, overlap=overlap, warnings=warnings, settings=settings,
        names=names_of(wishes), calibrated=wishes.markers is None,
    )  # fmt: skip


def names_of(wishes: Wishes) -> list[str]:
    """Types that a file of labels, or of marker genes, names."""
    names = list(wishes.labels.names) if wishes.labels else []
    return names + (wishes.markers.types if wishes.markers else [])


def doubts(labeller: Labeller, unknown: float | None, name: str) -> list[str]:
    """Sentences about what the labels do not explain in the query of this name."""
    learnt = labeller.learnt
    if not labeller.classes:
        return []
    if learnt.foreign:
        cells = f"All its cells are {UNKNOWN}" if unknown else "Its labels mean nothing, no confidence is above 0.5"
        return [
            f"{name} is not of the references' world (agreement {learnt.familiarity:.2f}, under {foreign.FAMILIAR}): "
            f"another organ or species, or other values than were taken for granted. {cells}"
        ]
    if unknown is None and labeller.unexplained > MANY_STRANGE:
        return [
            f"{labeller.unexplained:.0%} of the query's cells look like none of the references' types. They are "
            "called the nearest one all the same, at a confidence of 0.5 at most; --unknown calls them Unknown"
        ]
    if unknown and not labeller.tells_unknown:
        return ["too few labels to tell unknown cells by: none is called Unknown for its strangeness"]
    return []


# -- labels ----------------------------------------------------------------
def check_column(cells: Source, references: Sequence[Source], wishes: Wishes) -> None:
    """ValueError where --label_key names a column that the query lacks and nothing but the query is read."""
    if references or not wishes.label_key or (wishes.typed and not wishes.markers):
        return  # looked for where the labels are taken
    if cells.labels(wishes.label_key, wishes.unlabeled) is None:
        raise ValueError(no_column(cells, wishes.label_key))


def no_column(cells: Source, key: str) -> str:
    """That the query has no such column, and what to do."""
    return f"{cells.where}: no column {key!r}; leave --label_key out, or name one that is there"


def cell_types(cells: Source, references: Sequence[Source], wishes: Wishes) -> Labels:
    """The types that are learnt from, of the query or of its references; none where no types are wanted.

    Raises ValueError for a missing column, no label, one type, or a type called Unknown.
    """
    none = np.full(len(cells), -1)
    if not wishes.typed:
        return Labels(none, none, [], [])
    existing, sources = None, list(references) or [cells]
    if references:
        texts = [labels_of(source, wishes, True) for source in references]
        existing = cells.labels(wishes.label_key, wishes.unlabeled)
    elif wishes.labels:
        keys = given_labels.keys_of(wishes.labels, cells, [cells.rows.path.parent, Path.cwd()])
        texts, existing = [of_file(cells, wishes, wishes.labels, keys)], cells.labels(None, wishes.unlabeled)
    else:
        texts = [labels_of(cells, wishes, False)]
    where = str(wishes.labels.path) if wishes.labels else ", ".join(source.where for source in sources)
    classes = types_of(texts, where)
    place = {name: i for i, name in enumerate(classes)} | {"": -1}
    codes = [np.array([place[label] for label in labels], dtype=int) for labels in texts]
    for source, labels in zip(sources, codes, strict=True):
        tell_labels(source.name, labels, classes)
    if references:
        count = np.bincount(np.concatenate(codes)[np.concatenate(codes) >= 0], minlength=len(classes))
        if few := [f"{classes[i]} ({count[i]})" for i in np.flatnonzero(count < FEW_OF_TYPE)]:
            references[0].warnings.append(
                f"{where}: under {FEW_OF_TYPE} labelled cells of {', '.join(few)}: too few to know these types by. "
                "Cells of theirs may be called another type, or Unknown with --unknown; label more of them, or add a "
                "reference that has more"
            )
    if existing is not None and (existing != "").any():
        log.info(f"{cells.name} has labels of its own; they are not used, but compared with in the report")
    if not references:
        of = groups_named(keys, wishes.labels) if wishes.labels else None
        return Labels(codes[0], codes[0], [], classes, existing, of)
    return Labels(none, none, codes, classes, existing)


def groups_named(keys: Sequence[str], given: Given) -> np.ndarray | None:
    """The group whose name each cell has, as int (N,), -1 for a cell that has none; None where cells were named.

    keys: what the file calls every cell by. A cell that was named otherwise than most of its group has its own name.
    """
    if not given.by_group and not given.groups:
        return None
    table = pd.DataFrame({"type": [given.types.get(key) or "" for key in keys]})
    table["group"] = list(keys) if given.by_group else [given.groups.get(key, "") for key in keys]
    usual = table.groupby("group")["type"].agg(lambda types: types.mode()[0])
    named = (table["type"] != "") & (table["group"] != "") & (table["type"] == table["group"].map(usual))
    return np.where(named, np.unique(table["group"], return_inverse=True)[1], -1)


def of_file(cells: Source, wishes: Wishes, given: Given, keys: Sequence[str]) -> np.ndarray:  # (N,) object
    """Labels from a file of their own; over those of the column --label_key, where the query has it."""
    labels = given_labels.labels_of(given, cells, keys=keys)
    column = cells.labels(wishes.label_key, wishes.unlabeled) if wishes.label_key else None
    if wishes.label_key and column is None and wishes.label_key != given.column:
        raise ValueError(no_column(cells, wishes.label_key))
    labels = given_labels.merged(labels, column, given, cells)
    return np.where(np.isin(labels.astype(str), [str(word).strip() for word in wishes.unlabeled]), "", labels)


def settled(cells: Source, embedder: Embedder, labels: Labels, seed: int) -> Labels:
    """Without the cells that a group's name does not fit: `groups.keep_their_name`."""
    log.info("looking whether the names fit all cells of their groups")
    fitted = learn.fit(cells, embedder, labels.taught, [], seed=seed).fitted
    kept = groups.keep_their_name(fitted.features, labels.groups[fitted.rows], labels.taught[fitted.rows], seed)
    taught = labels.taught.copy()
    taught[fitted.rows[~kept]] = -1
    if lost := int((~kept).sum()):
        log.info(
            f"{lost:,} of {int((labels.taught >= 0).sum()):,} cells of named groups look surely like another type: "
            "they do not keep the name"
        )
    return replace(labels, taught=taught, known=taught)


def by_markers(cells: Source, embedder: Embedder, wishes: Wishes, marked: tuple[np.ndarray, np.ndarray]) -> Labels:
    """A few sure cells of each type, by marker genes; types without evidence are left out and named.

    marked: as `marker_labels.measured` gives it.
    """
    markers, seed, (columns, signs) = wishes.markers, wishes.seed, marked
    none = np.full(len(cells), -1)
    log.info(f"looking for sure cells of {len(markers.types)} types by {len(columns)} marker genes")
    fitted = learn.fit(cells, embedder, none, [], seed=seed).fitted
    near = road.neighbours(fitted.features, learn.AVERAGED)
    found = marker_labels.seeds(fitted.log[:, columns], signs, near, seed)  # (M,)
    count = np.bincount(found[found >= 0], minlength=len(signs))
    kept = np.flatnonzero(count)
    if lost := [markers.types[k] for k in np.flatnonzero(count == 0)]:
        cells.warnings.append(f"no cell is surely of type {', '.join(lost)} by its marker genes: left out")
    if len(kept) < 2:
        raise ValueError(
            f"{markers.path}: sure cells were found of {len(kept)} of its {len(count)} types, and two are needed; name "
            "more genes for each type, or genes that these cells express"
        )
    log.info("sure cells: " + ", ".join(f"{markers.types[k]} {count[k]}" for k in kept))
    taught = none.copy()
    taught[fitted.rows] = np.where(found >= 0, np.searchsorted(kept, found), -1)
    classes = types_of([np.array([markers.types[k] for k in kept], dtype=object)], str(markers.path))
    return Labels(taught, none, [], classes, cells.labels(wishes.label_key, wishes.unlabeled))


def labels_of(source: Source, wishes: Wishes, referred: bool) -> np.ndarray:  # (N,) object
    """A dataset's labels as its file has them, "" for none; ValueError where there are none."""
    key, unlabeled = wishes.label_key, wishes.unlabeled
    labels = source.labels(key, unlabeled)
    if labels is None:
        wanted = f"column {key!r}" if key else "column cell_ontology_class or cell_type"
        columns = source.rows.columns
        has = f"it has {', '.join(columns)}. Name one with --label_key" if columns else "it has no columns of cells"
        ways = "a labelled dataset with --reference, a table with --labels or marker genes with --markers"
        other = "" if referred else f", name {ways}, or begin with --explore"
        raise ValueError(f"{source.where}: no {wanted} to take cell types from; {has}{other}")
    if not (labels != "").any():
        without = f" once {', '.join(unlabeled)} count as none" if unlabeled else ""
        raise ValueError(
            f"{source.where}: no cell is left with a label in {key or 'its column of types'!r}{without}; label some, "
            "or name a --reference"
        )
    return labels


def batches_of(references: Sequence[Source], key: str | None) -> list[np.ndarray] | None:
    """Of each reference the batch of its cells (R,); None where no column is named. ValueError where none has it."""
    if not key:
        return None
    found = [source.rows.labels(key) for source in references]
    if all(one is None for one in found):
        columns = sorted({column for source in references for column in source.rows.columns})
        raise ValueError(
            f"{', '.join(source.where for source in references)}: no column {key!r} to take batches from; there are "
            f"{', '.join(columns) or 'none'}. Name one with --batch_key, or leave it out"
        )
    count = sum(1 if one is None else len(set(one)) for one in found)
    log.info(f"{count} batches of references" + ("" if count > 1 else ": one cannot be held out, parts of it are"))
    return [np.zeros(len(source)) if one is None else one for source, one in zip(references, found, strict=True)]


def types_of(texts: Sequence[np.ndarray], where: str) -> list[str]:
    """The types among labels, sorted; ValueError where there is only one, or one is called Unknown."""
    classes = sorted({str(label) for labels in texts for label in set(labels)} - {""})
    if clash := [name for name in classes if name.lower() == UNKNOWN.lower()]:
        raise ValueError(
            f"{where}: a type is called {clash[0]!r}, which is what cells without a type are called here; if its cells "
            f"have no label say --unlabeled {clash[0]}, else rename it"
        )
    if not classes:
        raise ValueError(f"{where}: no cell is left with a label; label some")
    if len(classes) < 2:
        raise ValueError(
            f"{where}: only one cell type, {classes[0]!r}, and two are needed to tell cells apart; label cells of "
            "another type, or name a --reference that has more"
        )
    return classes


def tell_labels(name: str, labels: np.ndarray, classes: list[str]) -> None:
    """How many cells of a dataset have a label, and which types have hardly any."""
    count = np.bincount(labels[labels >= 0], minlength=len(classes))
    log.info(f"{name}: {count.sum():,} of {len(labels):,} cells have a label, of {np.count_nonzero(count)} types")
    if few := [classes[i] for i in np.flatnonzero((count > 0) & (count < 3))]:
        log.info(f"{name}: under 3 labelled cells of {', '.join(few)}; expect little of these")
