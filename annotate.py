"""Label your own cells: cells in, cell types out.

python annotate.py --query cells.h5ad --reference atlas.h5ad --label_key cell_type --out annotated.h5ad
    the types come from another dataset, or from several
python annotate.py --query cells.h5ad --label_key cell_type --unlabeled Unknown --out annotated.h5ad
    the types come from the few cells of the same file that have one
python annotate.py --query cells.h5ad --out annotated.h5ad --embed_only
    no types, just the embedding for scanpy

Query and references: .h5ad, 10x .h5 or filtered_feature_bc_matrix/, Cell BLAST .h5, .csv/.tsv(.gz), .loom.
The same from Python: from annotate import annotate; adata = annotate(adata, label_key="cell_type")
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np

import data_loader as data
import flags
import recipes
import utils
from annotation import labeller as learn
from annotation import report, write_h5ad
from annotation.labeller import Embedder
from annotation.outcome import PREFIX, UNKNOWN, Work, label, page_of, progress, table_of, tell
from files import whole, writable
from reading import align, normalize
from reading import source as q
from reading.cells import format_of
from reading.source import Source
from voice import heard, log

MANY_STRANGE = 0.15  # share of a query's cells; between technologies up to a tenth look strange that are not
SPOT_CELLS = 6_000  # cells of a dataset that an encoder made on the spot is trained on


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    return flags.run(lambda args: command(args, argv), build_parser(), argv, check=check_flags)


def build_parser() -> argparse.ArgumentParser:
    """The flags of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cells = parser.add_argument_group("cells")
    cells.add_argument("--query", type=Path, required=True, metavar="FILE", help="the cells to label")
    cells.add_argument(
        "--reference",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="labelled datasets to learn the types from",
    )
    cells.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the .h5ad to write; a .csv and a .html lie beside it"
    )
    cells.add_argument(
        "--label_key", metavar="COLUMN", help="the column of cell types (default: cell_ontology_class, else cell_type)"
    )
    cells.add_argument(
        "--unlabeled", nargs="+", default=[], metavar="LABEL",
        help="labels that mean a cell has none, such as Unknown; empty and NaN always do",
    )  # fmt: skip
    cells.add_argument("--embed_only", action="store_true", help="no labels, only the embedding")
    cells.add_argument("--species", choices=("human", "mouse"), help="of the query (default: told from its gene names)")
    cells.add_argument("--reference_species", choices=("human", "mouse"), help="of the references (default: likewise)")
    cells.add_argument(
        "--values", choices=list(normalize.NAMED), help="what the query's numbers are (default: found out)"
    )
    cells.add_argument(
        "--layer", metavar="NAME", help="the query's matrix to use: X, raw or a layer (default: found out)"
    )
    cells.add_argument(
        "--force", action="store_true", help="go on with doubled gene names, or under 10 %% of the checkpoint's genes"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--pretrained_model",
        type=Path,
        metavar="FILE",
        help="checkpoint (default: one is made of query and references)",
    )
    how.add_argument("--gene_list", type=Path, metavar="FILE", help="genes of a published bare checkpoint")
    how.add_argument(
        "--unknown", type=float, nargs="?", const=0.05, metavar="SHARE",
        help="call cells Unknown that no known type explains, wrongly so for at most about this share of the known "
        "ones (0.05 where no number is given; default: off)",
    )  # fmt: skip
    how.add_argument(
        "--consensus", action=argparse.BooleanOptionalAction, default=True, help="let small clusters vote (default: on)"
    )
    how.add_argument(
        "--suggest", type=int, default=0, metavar="N", help="list the N cells whose labels would help most"
    )
    how.add_argument("--umap", action=argparse.BooleanOptionalAction, default=True, help="compute a UMAP (default: on)")
    how.add_argument(
        "--report", action=argparse.BooleanOptionalAction, default=True, help="write the .html (default: on)"
    )
    how.add_argument(
        "--data_dir", type=Path, default=Path("dataset"), metavar="DIR", help="where the ortholog table is"
    )
    how.add_argument("--offline", action="store_true", help="never touch the network")
    how.add_argument("--seed", type=int, default=0, help="every chance comes from it (default: 0)")
    how.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    return parser


def check_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse what no run can work with; exits with 2."""
    if args.unknown is not None and not 0 <= args.unknown < 1:
        parser.error(f"--unknown is a share of cells, from 0 to below 1, not {args.unknown}")
    if args.suggest < 0:
        parser.error(f"--suggest must not be negative, it is {args.suggest}")
    if args.seed < 0:
        parser.error(f"--seed must not be negative, it is {args.seed}")
    if args.embed_only and (args.reference or args.unknown):
        parser.error("--embed_only gives no labels: leave it out, or leave --reference and --unknown out")


def command(args: argparse.Namespace, argv: Sequence[str]) -> None:
    """One run: open, decide, learn, label by blocks, write."""
    table_file, page_file, list_file = check_out(args.out, [args.query, *args.reference])
    for path in (args.query, *args.reference):
        format_of(path)  # before anything is fetched
    utils.seed_everything(args.seed)
    with ExitStack() as stack:
        table = data.orthologs(args.data_dir, offline=args.offline)
        cells = stack.enter_context(
            q.open_source(
                args.query, table, species=args.species, values=args.values, layer=args.layer, force=args.force
            )
        )
        q.refuse_cells(cells)
        references = [
            stack.enter_context(q.open_source(path, table, species=args.reference_species, force=args.force))
            for path in args.reference
        ]
        q.translate([cells, *references], table)
        work = learn_from(
            cells, references, args.pretrained_model, label_key=args.label_key, unlabeled=args.unlabeled,
            embed_only=args.embed_only, unknown=args.unknown, seed=args.seed, force=args.force,
            gene_list=args.gene_list,
        )  # fmt: skip
        h5ad = format_of(args.query) == "h5ad"
        with ExitStack() as files:  # all of them take their names at the end, or none does
            part, csv = (files.enter_context(whole(path)) for path in (args.out, table_file))
            if h5ad:
                write_h5ad.copy_file(args.query, part)
            else:
                blocks = progress(cells, "writing the cells")
                write_h5ad.new_file(part, blocks, cells.rows.obs, cells.rows.genes)
            with h5py.File(part, "r+") as file:
                sink = write_h5ad.embedding(file, f"X_{PREFIX}", (len(cells), work.labeller.hidden))
                found = label(work, sink, use_consensus=args.consensus, umap=args.umap, suggestions=args.suggest)
                found.uns["command"] = shlex.join(["python", "annotate.py", *argv])
                arrays = {f"X_umap_{PREFIX}": found.umap} if found.umap is not None else {}
                columns = {f"{PREFIX}_{name}": column for name, column in found.columns.items()}
                write_h5ad.add_fields(file, columns, arrays, {PREFIX: found.uns})
            table_of(found, cells.rows.cells).to_csv(csv, index_label="cell", float_format="%.4f")
            if args.report:
                page = files.enter_context(whole(page_file))
                report.write_report(page, page_of(work, found, args.out.stem))
            if found.suggested is not None:
                listed = files.enter_context(whole(list_file))
                found.suggested.to_csv(listed, index=False, float_format="%.4f")
    tell(work, found)
    names = [str(args.out), table_file.name, *([page_file.name] if args.report else [])]
    names += [list_file.name] if found.suggested is not None else []
    print(f"{', '.join(names)} written")


def check_out(out: Path, inputs: Sequence[Path]) -> tuple[Path, Path, Path]:
    """The .csv, .html and .suggest.csv beside `out`; ValueError where one would overwrite an input, or none can be."""
    if out.suffix != ".h5ad":
        raise ValueError(f"--out {out} must end in .h5ad, that is what is written")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; name a file in it")
    beside = out.with_suffix(".csv"), out.with_suffix(".html"), out.with_suffix(".suggest.csv")
    for path in (out, *beside):
        for other in inputs:
            if path.exists() and other.exists() and path.samefile(other) or path.absolute() == other.absolute():
                raise ValueError(f"--out {out} would overwrite the input {other}; name another file")
    if not writable(out.parent):
        raise ValueError(f"--out {out}: the folder {out.absolute().parent} cannot be written; name another one")
    return beside


# -- learning ----------------------------------------------------------------
def learn_from(
    cells: Source,
    references: Sequence[Source],
    model: Path | None,
    *,
    label_key: str | None,
    unlabeled: Sequence[str],
    embed_only: bool,
    unknown: float | None,
    seed: int,
    force: bool = False,
    gene_list: Path | None = None,
) -> Work:
    """Everything that comes before the first cell is labelled."""
    everything = [cells, *references]
    shared = q.shared_genes(everything)
    if embed_only:
        known, theirs, classes, existing = np.full(len(cells), -1), [], [], None
    else:
        known, theirs, classes, existing = cell_types(cells, references, label_key, unlabeled)
    if model is not None:
        checkpoint = utils.load_checkpoint(model, gene_list=gene_list)
        overlap = [q.check_overlap(source, checkpoint.genes, force) for source in everything]
        made = f"{model}, {checkpoint.recipe}"
    else:
        least = min(len(source.genes) for source in everything)
        overlap = [q.own_overlap(source, shared, least) for source in everything]
        checkpoint = pretrain_here(everything, shared, seed)
        made = "made of these cells"
    linear = checkpoint.encoder.linear
    embedder = Embedder(
        checkpoint.genes, linear.weight.detach().cpu().numpy().T.copy(), linear.bias.detach().cpu().numpy(),
        plain=checkpoint.recipe == "paper",
    )  # fmt: skip
    begin = time.perf_counter()
    pairs = list(zip(references, theirs, strict=True))
    labeller = learn.fit(cells, embedder, known, classes, pairs, error=unknown, seed=seed)
    warnings = [sentence for source in everything for sentence in source.warnings]
    if classes:
        log.info(
            f"learnt {len(classes)} types in {time.perf_counter() - begin:.1f} s; calibration error on held-out "
            f"labelled cells {labeller.learnt.ece:.3f}"
        )
        if references and unknown is None and labeller.unexplained > MANY_STRANGE:
            warnings.append(
                f"{labeller.unexplained:.0%} of the query's cells look like none of the references' types. They are "
                "called the nearest one all the same, and their confidence means nothing; --unknown calls them Unknown"
            )
        if unknown and not np.isfinite(labeller.unknown.threshold):
            warnings.append("too few labels to tell unknown cells by: none is called Unknown for its strangeness")
    for sentence in warnings:
        log.warning(sentence)
    settings = {
        "query": str(cells.rows.path), "references": ", ".join(str(source.rows.path) for source in references),
        "label_key": label_key or "", "unlabeled": ", ".join(str(word) for word in unlabeled),
        "unknown": unknown or 0.0, "seed": seed,
        "checkpoint": made, "checkpoint_genes": len(checkpoint.genes), "recipe": checkpoint.recipe,
        "values": cells.values.describe(cells.matrix), "species": cells.species,
    }  # fmt: skip
    return Work(cells, list(references), labeller, known, existing, overlap, warnings, settings, seed)


def cell_types(
    cells: Source, references: Sequence[Source], key: str | None, unlabeled: Sequence[str]
) -> tuple[np.ndarray, list[np.ndarray], list[str], np.ndarray | None]:
    """Labels as ints: of the query (N,), of each reference (M,), the names, and query labels only to compare with.

    Raises ValueError for a missing column, no label, one type, or a type called Unknown.
    """
    texts = []
    for source in references or [cells]:
        labels = source.labels(key, unlabeled)
        if labels is None:
            wanted = f"column {key!r}" if key else "column cell_ontology_class or cell_type"
            columns = source.rows.columns
            raise ValueError(
                f"{source.where}: no {wanted} to take cell types from; "
                + (
                    f"it has {', '.join(columns)}. Name one with --label_key"
                    if columns
                    else "it has no columns of cells"
                )
                + ("" if references else ", name a labelled dataset with --reference, or use --embed_only")
            )
        found = len(np.flatnonzero(labels != ""))
        if not found:
            raise ValueError(
                f"{source.where}: no cell is left with a label in {key or 'its column of types'!r}"
                f"{' once ' + ', '.join(unlabeled) + ' count as none' if unlabeled else ''}; label some, or name a "
                "--reference"
            )
        texts.append(labels)
    classes = sorted({str(label) for labels in texts for label in set(labels)} - {""})
    where = ", ".join(source.where for source in references or [cells])
    if clash := [name for name in classes if name.lower() == UNKNOWN.lower()]:
        raise ValueError(
            f"{where}: a type is called {clash[0]!r}, which is what cells without a type are called here; if its cells "
            f"have no label say --unlabeled {clash[0]}, else rename it"
        )
    if len(classes) < 2:
        raise ValueError(
            f"{where}: only one cell type, {classes[0]!r}, and two are needed to tell cells apart; label cells of "
            "another type, or name a --reference that has more"
        )
    place = {name: i for i, name in enumerate(classes)} | {"": -1}
    codes = [np.array([place[label] for label in labels], dtype=int) for labels in texts]
    for source, labels in zip(references or [cells], codes, strict=True):
        count = np.bincount(labels[labels >= 0], minlength=len(classes))
        log.info(
            f"{source.name}: {count.sum():,} of {len(labels):,} cells have a label, of {np.count_nonzero(count)} types"
        )
        if few := [classes[i] for i in np.flatnonzero((count > 0) & (count < 3))]:
            log.info(f"{source.name}: under 3 labelled cells of {', '.join(few)}; expect little of these")
    if not references:
        return codes[0], [], classes, None
    existing = cells.labels(key, unlabeled)
    if existing is not None and (existing != "").any():
        log.info(f"{cells.name} has labels of its own; they are not used, but compared with in the report")
    return np.full(len(cells), -1), codes, classes, existing


def pretrain_here(sources: Sequence[Source], genes: list[str], seed: int) -> utils.Checkpoint:
    """No checkpoint at hand: an encoder made of the very cells, on the genes they share."""
    begin = time.perf_counter()
    matrices = []
    for source in sources:
        rows = learn.choose_rows(np.full(len(source), -1), SPOT_CELLS, seed)
        values, empty = source.log(source.take(rows))
        matrices.append(align.align(values[~empty], source.genes, genes))
    matrices = [matrix for matrix in matrices if matrix.shape[0] > 1]
    if not matrices:
        raise ValueError(
            "no dataset has two cells to pre-train an encoder on; name a checkpoint with --pretrained_model"
        )
    cells = sum(matrix.shape[0] for matrix in matrices)
    log.info(f"no checkpoint named: pre-training an encoder on {cells:,} cells x {len(genes):,} genes (up to a minute)")
    encoder = recipes.closed_form(matrices, genes, seed)
    log.info(f"pre-trained in {time.perf_counter() - begin:.1f} s")
    return utils.Checkpoint(
        encoder, genes, recipe="scpretrain2, on the spot", datasets=[source.name for source in sources]
    )


# -- notebooks ----------------------------------------------------------------
def annotate(
    adata,
    reference=(),
    *,
    label_key: str | None = None,
    unlabeled: str | Sequence[str] = (),
    embed_only: bool = False,
    pretrained_model: str | Path | None = None,
    values: str | None = None,
    species: str | None = None,
    unknown: float | None = None,
    consensus: bool = True,
    suggest: int = 0,
    umap: bool = True,
    force: bool = False,
    seed: int = 0,
    data_dir: str | Path = "dataset",
    offline: bool = True,
    verbose: bool = True,
):
    """The command for an AnnData in memory; returns a copy with the new fields, see the README for each.

    reference: one labelled AnnData, or several. unlabeled: label(s) that mean a cell has none. unknown: share of known
    cells that may be called Unknown (None: off). Raises ValueError with what to do, as the command does.
    """
    with heard(logging.INFO if verbose else None):
        others = [reference] if hasattr(reference, "obs_names") else list(reference)
        unlabeled = [unlabeled] if isinstance(unlabeled, str) else list(unlabeled)
        table = data.orthologs(Path(data_dir), offline=offline)
        utils.seed_everything(seed)
        cells = of_adata(adata, "adata", table, species=species, values=values, force=force)
        q.refuse_cells(cells)
        sources = [of_adata(one, f"reference {i}", table, force=force) for i, one in enumerate(others, 1)]
        q.translate([cells, *sources], table)
        work = learn_from(
            cells, sources, None if pretrained_model is None else Path(pretrained_model), label_key=label_key,
            unlabeled=unlabeled, embed_only=embed_only, unknown=unknown, seed=seed, force=force,
        )  # fmt: skip
        out = adata.copy()
        sink = np.empty((len(cells), work.labeller.hidden), np.float32)
        found = label(work, sink, use_consensus=consensus, umap=umap, suggestions=suggest)
        for name, column in found.columns.items():
            out.obs[f"{PREFIX}_{name}"] = column
        out.obsm[f"X_{PREFIX}"] = sink
        if found.umap is not None:
            out.obsm[f"X_umap_{PREFIX}"] = found.umap
        out.uns[PREFIX] = found.uns
        tell(work, found)
        return out


def of_adata(adata, name: str, table, *, values: str | None = None, **how) -> Source:
    """An AnnData as a dataset to annotate or to learn from."""
    cells = q.matrices_of(adata, name)
    words, found = q.choose({words: one.counts[:500] for words, one in cells.items()}, values, name)
    return q.in_memory(cells[words], table, words, found, **how)


if __name__ == "__main__":
    sys.exit(main())
