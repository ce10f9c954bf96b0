"""Label your own cells: cells in, cell types out.

python annotate.py --query cells.h5ad --reference atlas.h5ad --label_key cell_type --out annotated.h5ad
    the types come from another dataset, or from several
python annotate.py --query cells.h5ad --label_key cell_type --unlabeled Unknown --out annotated.h5ad
    the types come from the few cells of the same file that have one
python annotate.py --query cells.h5ad --out explored.h5ad --explore
    nothing is labelled yet: groups of cells, their genes, and a page (explored.html) to name them on
python annotate.py --query cells.h5ad --labels explored.labels.csv --out annotated.h5ad
    the types come from a table of labels, such as the page saved: cell,cell_type or group,cell_type
python annotate.py --query cells.h5ad --markers markers.csv --out annotated.h5ad
    the types come from marker genes: type,gene[,sign]
python annotate.py --query cells.h5ad --out annotated.h5ad --embed_only
    no types, just the embedding for scanpy
python annotate.py --query new.h5ad --labeller kept.labeller --out annotated.h5ad
    the types come from what an earlier run kept with --save_labeller kept.labeller

Query and references: .h5ad, .h5mu, .zarr, 10x .h5 or filtered_feature_bc_matrix/, folders of kallisto, alevin-fry and
Parse, Cell BLAST .h5, .csv/.tsv(.gz), .loom.
The same from Python: from annotate import annotate; adata = annotate(adata, label_key="cell_type")
"""

from __future__ import annotations

import argparse
import logging
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flags
from annotation.wishes import Wishes

PREFIX = "scpretrain"
BESIDE = {  # what lies beside the .h5ad
    "table": ".csv",
    "markers": ".markers.csv",
    "page": ".html",
    "suggested": ".suggest.csv",
    "probabilities": ".probabilities.csv",
}
LARGE = 500_000_000  # bytes: a longer copy says so


def build_parser() -> flags.Parser:
    """The flags of this command."""
    parser = flags.Parser(__doc__)
    for group in (flags.labelled_cells, flags.labelling):
        group(parser)
    return parser


if __name__ == "__main__":
    flags.answer(build_parser(), flags.check_files, flags.check_labelling(Wishes))

import h5py
import numpy as np

import utils
from annotation import given_labels, keep, marker_labels, report, shards, write_h5ad
from annotation.outcome import SLOW, Found, label, progress
from annotation.page import Naming, about, page_of, probabilities_of, table_of, tell
from annotation.work import Work, learn_from
from files import whole, writable, writing
from reading import catalogue
from reading import source as q
from reading.cells import format_of, of_anndata, read_zarr_store
from reading.source import Source
from voice import RESULT, heard, log

if TYPE_CHECKING:
    from anndata import AnnData


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    run = lambda args: command(args, argv)  # noqa: E731
    check = flags.check_labelling(Wishes)
    return flags.run(run, build_parser(), argv, check=check, check_paths=flags.check_files)


def learn(cells: Source, references: Sequence[Source], model: Path | None, wishes: Wishes) -> Work:
    """What is known before the first cell is labelled: from a labeller's file, or learnt here; kept where asked."""
    if wishes.labeller is None:
        work = learn_from(cells, references, model, wishes)
    elif model is not None:
        raise ValueError("--labeller brings its encoder: leave it out, or leave --pretrained_model out")
    else:
        whole_work = wishes.shard is None or wishes.save_labeller is not None
        work = keep.work_with(wishes.labeller, cells, wishes, whole_work=whole_work)
    if wishes.save_labeller is not None:
        keep.save(wishes.save_labeller, work)
    return work


def annotate_cells(
    cells: Source,
    references: Sequence[Source],
    model: Path | None,
    wishes: Wishes,
    sink: Callable[[int], Any],
    command: str = "",
) -> Found:
    """The route of both doors: learn, label by blocks, decide, say. model: a checkpoint, or None to make one here.

    sink: handed the width H, gives what takes the embedding (N, H) by slices.
    """
    work = learn(cells, references, model, wishes)
    if wishes.merge is None:
        found = label(work, sink(work.labeller.width))
    else:
        found = shards.joined(work, wishes.merge, sink)
    found.uns = about(found, command)
    tell(found)
    return found


# -- files ----------------------------------------------------------------
def command(args: argparse.Namespace, argv: Sequence[str]) -> None:
    """The door for files: open, annotate, write."""
    inputs = [args.query, *args.reference, args.labels, args.markers, args.labeller, *(args.merge or ())]
    check_out(args.out, args.save_labeller, [path for path in inputs if path])
    given = given_labels.read(args.labels, args.label_key) if args.labels else None
    for path in (args.query, *args.reference):
        format_of(path)  # before anything is fetched
    utils.seed_everything(args.seed)
    with ExitStack() as stack:
        table_of_genes = partial(catalogue.orthologs, args.data_dir, offline=args.offline)
        how = {name: getattr(args, name) for name in ("species", "values", "layer", "modality", "force")}
        theirs = [(path, {"species": args.reference_species, "force": args.force}) for path in args.reference]
        cells, references, table = open_all(
            stack, (args.query, how), theirs, table_of_genes, of_mouse=args.pretrained_model is not None
        )
        markers = markers_of(args.markers, cells, table, table_of_genes) if args.markers else None
        wishes = replace(flags.fill(Wishes, args), labels=given, markers=markers)
        if wishes.merge is not None:
            wishes = replace(wishes, merge=wishes.merge or shards.found_beside(args.out))
        if args.out is None or wishes.shard:
            work = learn(cells, references, args.pretrained_model, wishes)
            if wishes.shard:
                shards.write(shards.path_of(args.out, wishes.shard), work, wishes.shard)
            return
        beside = beside_of(args.out, wishes, args.report)
        parts = {path: stack.enter_context(whole(path)) for path in (args.out, *beside.values())}

        def sink(width: int) -> h5py.Dataset:
            begin_h5ad(parts[args.out], args.query, cells)
            stack.enter_context(writing(args.out))
            file = stack.enter_context(write_h5ad.opened(parts[args.out]))  # closed before the file takes its name
            return write_h5ad.embedding(file, f"X_{PREFIX}", (len(cells), width))

        line = shlex.join(["python", "annotate.py", *argv])
        found = annotate_cells(cells, references, args.pretrained_model, wishes, sink, line)
        write_h5ad.add_fields(found.embedding.file, *fields(found), {PREFIX: found.uns})
        naming = naming_after(args.query, args.out, lambda words: flags.command_line(words, args))
        for kind, path in beside.items():
            with writing(path):
                write_beside(kind, parts[path], found, args.out.stem, naming)
    log.log(RESULT, f"{', '.join([str(args.out), *(path.name for path in beside.values())])} written")
    if former := [path.name for path in left_over(args.out) if path not in beside.values()]:
        log.warning(f"{', '.join(former)} beside it: of an earlier run with this --out, not of this one")


def open_all(
    stack: ExitStack,
    query: tuple[Path, dict[str, Any]],
    theirs: Sequence[tuple[Path, dict[str, Any]]],
    orthologs: Callable[..., dict[str, str]],
    *,
    of_mouse: bool,
) -> tuple[Source, list[Source], dict[str, str]]:
    """Query and references, each a file and how to open it; and the ortholog table, fetched only where it is needed.

    of_mouse: a checkpoint is used, whose genes are of mouse.
    """
    table = orthologs(needed=False)
    references = [stack.enter_context(q.open_source(path, table, **how)) for path, how in theirs]
    cells = stack.enter_context(q.open_source(query[0], table, like=references, **query[1]))
    return cells, references, matched([cells, *references], table, orthologs, of_mouse)


def matched(
    everything: Sequence[Source], table: dict[str, str], orthologs: Callable[..., dict[str, str]], of_mouse: bool
) -> dict[str, str]:
    """Match the genes of the query, first, and the references; the ortholog table, fetched where two species meet."""
    q.refuse_cells(everything[0])
    species = {source.species for source in everything}
    if not table and (len(species) > 1 or (of_mouse and "human" in species)):
        table = orthologs()
        for source in everything:
            q.names_of(source, table)
    q.translate(everything, table)
    return table


def markers_of(
    path: Path, cells: Source, table: dict[str, str], orthologs: Callable[..., dict[str, str]]
) -> marker_labels.Markers:
    """The file of marker genes; the ortholog table is fetched where hardly a gene is measured under its own name."""
    markers = marker_labels.read(path, table)
    if not table and marker_labels.of_another_species(markers, cells):
        markers = marker_labels.read(path, orthologs())
    return markers


def begin_h5ad(target: Path, query: Path, cells: Source) -> None:
    """An .h5ad of the query's cells: a copy of the file where it is one, else made from its row blocks."""
    if format_of(query) == "h5ad":
        if (size := query.stat().st_size) > LARGE:
            log.info(f"copying {query} ({size / 1e9:.1f} GB)")
        write_h5ad.copy_file(query, target)
    elif format_of(query) == "zarr":
        write_h5ad.whole(target, read_zarr_store(query))
    else:
        write_h5ad.new_file(target, progress(cells, "writing the cells"), cells.rows.obs, cells.rows.genes)


def fields(found: Found) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What is added beside the embedding: columns of obs and arrays of obsm, by the names they have there."""
    arrays = {f"X_umap_{PREFIX}": found.umap, f"{PREFIX}_probabilities": found.probabilities}
    columns = {f"{PREFIX}_{name}": column for name, column in found.columns.items()}
    return columns, {name: array for name, array in arrays.items() if array is not None}


def write_beside(kind: str, path: Path, found: Found, title: str, naming: Naming) -> None:
    """Write one of the files that lie beside the .h5ad."""
    if kind == "table":
        table_of(found).to_csv(path, index_label="cell", float_format="%.4f")
    elif kind == "page":
        if len(found.work.query) > SLOW:
            log.info("writing the page")
        report.write_report(path, page_of(found, title, naming))
    elif kind == "suggested":
        found.suggested.to_csv(path, index=False, float_format="%.4f")
    elif kind == "markers":
        of = {"type": "type" if found.work.labeller.classes else "group"}
        found.markers.rename(columns=of).to_csv(path, index=False, float_format="%.4f")
    elif kind == "probabilities":
        probabilities_of(found).to_csv(path, index_label="cell", float_format="%.5f")


def beside_of(out: Path, wishes: Wishes, page: bool) -> dict[str, Path]:
    """The files beside `out`, by what they hold."""
    wanted = {
        "table": True,
        "markers": not wishes.embed_only,
        "page": page,
        "suggested": wishes.suggest > 0,
        "probabilities": wishes.probabilities,
    }
    return {kind: out.with_suffix(BESIDE[kind]) for kind, wished in wanted.items() if wished}


def left_over(out: Path) -> list[Path]:
    """The files beside `out` that are there, whichever run wrote them."""
    return [path for end in BESIDE.values() if (path := out.with_suffix(end)).exists()]


def naming_after(query: Path, out: Path, line: Callable[[str], str]) -> Naming:
    """What comes after the page was used to name groups: the same query with its labels. line: adds the kept flags."""
    target = out.with_name("labelled.h5ad" if out.name == "annotated.h5ad" else "annotated.h5ad")
    words = f"annotate.py --query {shlex.quote(str(query))} --labels {{labels}} --out {shlex.quote(str(target))}"
    return Naming(line(words), f"{out.stem}.labels.csv", out.with_suffix(".csv").name)


def check_out(out: Path | None, labeller: Path | None, inputs: Sequence[Path]) -> None:
    """ValueError where `out`, a file beside it, or a labeller would overwrite an input, or cannot be written."""
    if labeller is not None:
        if labeller.is_dir():
            raise ValueError(f"--save_labeller {labeller} is a folder; name a file in it")
        refuse_same(f"--save_labeller {labeller}", labeller, [*inputs, *([out] if out else [])])
        flags.check_folder(f"--save_labeller {labeller}", labeller.parent)
    if out is None:
        return
    if out.suffix != ".h5ad":
        raise ValueError(f"--out {out} must end in .h5ad, that is what is written")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; name a file in it")
    for path in (out, *(out.with_suffix(end) for end in BESIDE.values())):
        refuse_same(f"--out {out}", path, inputs)
    if not writable(out.parent):
        raise ValueError(f"--out {out}: the folder {out.absolute().parent} cannot be written; name another one")


def refuse_same(flag: str, path: Path, inputs: Sequence[Path]) -> None:
    """ValueError where a file to write is one of those that are read."""
    for other in inputs:
        if path.exists() and other.exists() and path.samefile(other) or path.absolute() == other.absolute():
            raise ValueError(f"{flag} would overwrite the input {other}; name another file")


# -- notebooks ----------------------------------------------------------------
def annotate(
    adata: AnnData,
    reference: AnnData | Sequence[AnnData] = (),
    *,
    label_key: str | None = None,
    batch_key: str | None = None,
    unlabeled: str | Sequence[str] = (),
    labels: str | Path | Mapping[Any, str] | None = None,
    markers: str | Path | None = None,
    explore: int = 0,
    embed_only: bool = False,
    pretrained_model: str | Path | None = None,
    gene_list: str | Path | None = None,
    values: str | None = None,
    species: str | None = None,
    reference_species: str | None = None,
    unknown: float | None = None,
    consensus: bool = True,
    suggest: int = 0,
    probabilities: bool = False,
    umap: bool = True,
    report: str | Path | None = None,
    force: bool = False,
    seed: int = 0,
    labeller: str | Path | None = None,
    save_labeller: str | Path | None = None,
    data_dir: str | Path = "dataset",
    offline: bool = True,
    verbose: bool = True,
) -> AnnData:
    """The command for an AnnData in memory, or backed: a copy with the new fields; docs/annotate.md says what each is.

    Args:
        adata: the cells to label, (N, G). It stays as it is; a backed one is read from its file, the copy is in memory.
        reference: one labelled AnnData to learn the types from, or several. None: the labels are in `adata`.
        label_key: the column of obs with cell types. Default: cell_ontology_class, else cell_type.
        batch_key: the column of the references with batches or donors; whole ones are held out to set limits.
        unlabeled: label(s) that mean a cell has none, such as "Unknown"; empty and NaN always do.
        labels: a table of labels (a file cell,cell_type or group,cell_type), or a dict or Series cell -> type, or
            group -> type where obs has the scpretrain_group of explore.
        markers: a file of marker genes, type,gene[,sign].
        explore: so many groups of cells to be named, e.g. 20; no labels are needed.
        embed_only: no labels, only the embedding.
        pretrained_model: a checkpoint of main.py. Default: an encoder is made of the cells at hand.
        gene_list: the genes of a published bare checkpoint.
        values: what the numbers are, "counts", "cp10k", "log1p" ... (see --help). Default: found out.
        species, reference_species: "human" or "mouse". Default: told from the gene names.
        unknown: the share of known cells that may be called Unknown, e.g. 0.05. None: no cell is.
        consensus: let small clusters vote.
        suggest: so many cells whose labels would help most are named in uns["scpretrain"]["suggested"].
        probabilities: the probability of every type goes into obsm["scpretrain_probabilities"].
        umap: compute a UMAP.
        report: a file to write the page to, e.g. "annotated.html".
        force: go on with doubled gene names, or under 10 % of the checkpoint's genes.
        seed: every chance comes from it.
        labeller: a file that save_labeller wrote: label by what was learnt then.
        save_labeller: a file to keep in what was learnt.
        data_dir: where the ortholog table is. offline: never touch the network.
        verbose: say what is done on standard output; otherwise nothing is written there or to standard error.
    Returns:
        A copy in memory with obs["scpretrain_..."], obsm["X_scpretrain"] and uns["scpretrain"].
    Raises:
        ValueError: with what to do about it, as the command does. FileNotFoundError: for a file that is not there.
    """
    wanted = dict(
        label_key=label_key,
        batch_key=batch_key,
        unlabeled=[unlabeled] if isinstance(unlabeled, str) else list(unlabeled),
        embed_only=embed_only,
        explore=explore,
        unknown=unknown,
        consensus=consensus,
        suggest=suggest,
        probabilities=probabilities,
        umap=umap,
        gene_list=None if gene_list is None else Path(gene_list),
        force=force,
        seed=seed,
        labeller=None if labeller is None else Path(labeller),
        save_labeller=None if save_labeller is None else Path(save_labeller),
    )
    others = [reference] if hasattr(reference, "obs_names") else list(reference)
    wanted["reference"] = tuple(f"reference {i}" for i in range(1, len(others) + 1))
    with spoken(verbose), by_argument():
        Wishes(**wanted, labels=labels, markers=markers)  # refuses what cannot be before any work
        given = given_of(labels, label_key, adata)
        out = adata.to_memory() if adata.isbacked else adata.copy()  # before any work: what cannot be copied fails now
        utils.seed_everything(seed)
        orthologs = partial(catalogue.orthologs, Path(data_dir), offline=offline)
        table = orthologs(needed=False)
        cells = of_adata(out, "adata", table, species=species, values=values, force=force)
        sources = [
            of_adata(one, f"reference {i}", table, species=reference_species, force=force)
            for i, one in enumerate(others, 1)
        ]
        table = matched([cells, *sources], table, orthologs, pretrained_model is not None)
        genes = None if markers is None else markers_of(Path(markers), cells, table, orthologs)
        wishes = Wishes(**wanted, labels=given, markers=genes)
        model = None if pretrained_model is None else Path(pretrained_model)
        found = annotate_cells(
            cells, sources, model, wishes, lambda width: np.empty((len(cells), width), np.float32), "annotate(...)"
        )
        columns, arrays = fields(found)
        for name, column in columns.items():
            out.obs[name] = column
        for name, array in ({f"X_{PREFIX}": found.embedding} | arrays).items():
            out.obsm[name] = array
        out.uns[PREFIX] = found.uns
        if report is not None:
            with whole(report) as part:
                write_beside("page", part, found, Path(report).stem, Naming(save_as=f"{Path(report).stem}.labels.csv"))
        return out


def given_of(
    labels: str | Path | Mapping[Any, str] | None, label_key: str | None, adata: AnnData
) -> given_labels.Given | None:
    """Labels as a notebook hands them: a file, or types by the cell's name, or by the group of an earlier run."""
    if labels is None or isinstance(labels, (str, Path)):
        return None if labels is None else given_labels.read(Path(labels), label_key)
    types = {str(cell): "" if kind is None or kind != kind else str(kind) for cell, kind in labels.items()}
    groups = {str(name) for name in adata.obs.get(given_labels.GROUP, ())}
    by_group = bool(groups & set(types)) and not set(adata.obs_names) & set(types)
    return given_labels.Given(Path("labels"), by_group, types)


@contextmanager
def by_argument() -> Iterator[None]:
    """Let errors name the arguments of the function, not the flags of the command."""
    try:
        yield
    except ValueError as error:
        error.args = (re.sub(r"--([a-z]\w+)", r"`\1`", str(error)),)
        raise


@contextmanager
def spoken(verbose: bool) -> Iterator[None]:
    """Say what is done while the block runs; not `verbose`: nothing at all, not even the warnings of libraries."""
    with heard(logging.INFO if verbose else None), warnings.catch_warnings():
        if not verbose:
            warnings.simplefilter("ignore")
        yield


def of_adata(adata: AnnData, name: str, table, *, values: str | None = None, **how) -> Source:
    """An AnnData as a dataset to annotate or to learn from."""
    cells = of_anndata(adata, name)
    words, found = q.choose({words: one.counts[:500] for words, one in cells.items()}, values, name)
    return q.in_memory(cells[words], table, words, found, **how)


if __name__ == "__main__":
    sys.exit(main())
