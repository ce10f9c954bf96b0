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
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

import data_loader as data
import flags
import utils
from annotation import report, write_h5ad
from annotation.outcome import Found, label, progress
from annotation.page import about, page_of, table_of, tell
from annotation.work import Wishes, learn_from
from files import whole, writable
from reading import normalize
from reading import source as q
from reading.cells import format_of
from reading.source import Source
from voice import heard

if TYPE_CHECKING:
    from anndata import AnnData

PREFIX = "scpretrain"


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
    try:
        wishes_of(args)
    except ValueError as error:
        parser.error(str(error))
    if args.embed_only and args.reference:
        parser.error("--embed_only gives no labels: leave it out, or leave --reference out")


def wishes_of(args: argparse.Namespace) -> Wishes:
    """The flags that say what is wanted; the others say where it is."""
    return Wishes(**{name: getattr(args, name) for name in Wishes.__dataclass_fields__})


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
    work = learn_from(cells, references, model, wishes)
    found = label(work, sink(work.labeller.hidden))
    found.uns = about(found, command)
    tell(found)
    return found


# -- files ----------------------------------------------------------------
def command(args: argparse.Namespace, argv: Sequence[str]) -> None:
    """The door for files: open, annotate, write."""
    check_out(args.out, [args.query, *args.reference])
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
        beside = beside_of(args.out, report=args.report, suggested=args.suggest > 0)
        parts = {path: stack.enter_context(whole(path)) for path in (args.out, *beside.values())}

        def sink(width: int) -> h5py.Dataset:
            begin_h5ad(parts[args.out], args.query, cells)
            file = stack.enter_context(h5py.File(parts[args.out], "r+"))  # closed before the file takes its name
            return write_h5ad.embedding(file, f"X_{PREFIX}", (len(cells), width))

        line = shlex.join(["python", "annotate.py", *argv])
        found = annotate_cells(cells, references, args.pretrained_model, wishes_of(args), sink, line)
        write_h5ad.add_fields(found.embedding.file, *fields(found), {PREFIX: found.uns})
        for kind, path in beside.items():
            write_beside(kind, parts[path], found, args.out.stem)
    print(f"{', '.join([str(args.out), *(path.name for path in beside.values())])} written")


def begin_h5ad(target: Path, query: Path, cells: Source) -> None:
    """An .h5ad of the query's cells: a copy of the file where it is one, else made from its row blocks."""
    if format_of(query) == "h5ad":
        write_h5ad.copy_file(query, target)
    else:
        write_h5ad.new_file(target, progress(cells, "writing the cells"), cells.rows.obs, cells.rows.genes)


def fields(found: Found) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What is added beside the embedding: columns of obs and arrays of obsm, by the names they have there."""
    arrays = {f"X_umap_{PREFIX}": found.umap} if found.umap is not None else {}
    return {f"{PREFIX}_{name}": column for name, column in found.columns.items()}, arrays


def write_beside(kind: str, path: Path, found: Found, title: str) -> None:
    """Write one of the files that lie beside the .h5ad."""
    if kind == "table":
        table_of(found).to_csv(path, index_label="cell", float_format="%.4f")
    elif kind == "page":
        report.write_report(path, page_of(found, title))
    elif kind == "suggested":
        found.suggested.to_csv(path, index=False, float_format="%.4f")


def beside_of(out: Path, *, report: bool = True, suggested: bool = True) -> dict[str, Path]:
    """The files beside `out`, by what they hold."""
    ends = (
        {"table": ".csv"} | ({"page": ".html"} if report else {}) | ({"suggested": ".suggest.csv"} if suggested else {})
    )
    return {kind: out.with_suffix(end) for kind, end in ends.items()}


def check_out(out: Path, inputs: Sequence[Path]) -> None:
    """ValueError where `out` or a file beside it would overwrite an input, or cannot be written."""
    if out.suffix != ".h5ad":
        raise ValueError(f"--out {out} must end in .h5ad, that is what is written")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; name a file in it")
    for path in (out, *beside_of(out).values()):
        for other in inputs:
            if path.exists() and other.exists() and path.samefile(other) or path.absolute() == other.absolute():
                raise ValueError(f"--out {out} would overwrite the input {other}; name another file")
    if not writable(out.parent):
        raise ValueError(f"--out {out}: the folder {out.absolute().parent} cannot be written; name another one")


# -- notebooks ----------------------------------------------------------------
def annotate(
    adata: AnnData,
    reference: AnnData | Sequence[AnnData] = (),
    *,
    label_key: str | None = None,
    unlabeled: str | Sequence[str] = (),
    embed_only: bool = False,
    pretrained_model: str | Path | None = None,
    gene_list: str | Path | None = None,
    values: str | None = None,
    species: str | None = None,
    reference_species: str | None = None,
    unknown: float | None = None,
    consensus: bool = True,
    suggest: int = 0,
    umap: bool = True,
    report: str | Path | None = None,
    force: bool = False,
    seed: int = 0,
    data_dir: str | Path = "dataset",
    offline: bool = True,
    verbose: bool = True,
) -> AnnData:
    """The command for an AnnData in memory, or backed: a copy with the new fields; the README says what each is.

    Args:
        adata: the cells to label, (N, G). It stays as it is; a backed one is read from its file, the copy is in memory.
        reference: one labelled AnnData to learn the types from, or several. None: the labels are in `adata`.
        label_key: the column of obs with cell types. Default: cell_ontology_class, else cell_type.
        unlabeled: label(s) that mean a cell has none, such as "Unknown"; empty and NaN always do.
        embed_only: no labels, only the embedding.
        pretrained_model: a checkpoint of main.py. Default: an encoder is made of the cells at hand.
        gene_list: the genes of a published bare checkpoint.
        values: what the numbers are, "counts", "cp10k" or "log" (see --help). Default: found out.
        species, reference_species: "human" or "mouse". Default: told from the gene names.
        unknown: the share of known cells that may be called Unknown, e.g. 0.05. None: no cell is.
        consensus: let small clusters vote.
        suggest: so many cells whose labels would help most are named in uns["scpretrain"]["suggested"].
        umap: compute a UMAP.
        report: a file to write the page to, e.g. "annotated.html".
        force: go on with doubled gene names, or under 10 % of the checkpoint's genes.
        seed: every chance comes from it.
        data_dir: where the ortholog table is. offline: never touch the network.
        verbose: say what is done on standard output; otherwise nothing is written there or to standard error.
    Returns:
        A copy in memory with obs["scpretrain_..."], obsm["X_scpretrain"] and uns["scpretrain"].
    Raises:
        ValueError: with what to do about it, as the command does.
    """
    wishes = Wishes(
        label_key=label_key,
        unlabeled=[unlabeled] if isinstance(unlabeled, str) else list(unlabeled),
        embed_only=embed_only,
        unknown=unknown,
        consensus=consensus,
        suggest=suggest,
        umap=umap,
        gene_list=None if gene_list is None else Path(gene_list),
        force=force,
        seed=seed,
    )
    others = [reference] if hasattr(reference, "obs_names") else list(reference)
    with spoken(verbose):
        out = adata.to_memory() if adata.isbacked else adata.copy()  # before any work: what cannot be copied fails now
        utils.seed_everything(seed)
        table = data.orthologs(Path(data_dir), offline=offline)
        cells = of_adata(out, "adata", table, species=species, values=values, force=force)
        q.refuse_cells(cells)
        sources = [
            of_adata(one, f"reference {i}", table, species=reference_species, force=force)
            for i, one in enumerate(others, 1)
        ]
        q.translate([cells, *sources], table)
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
                write_beside("page", part, found, Path(report).stem)
        return out


@contextmanager
def spoken(verbose: bool) -> Iterator[None]:
    """Say what is done while the block runs; not `verbose`: nothing at all, not even the warnings of libraries."""
    with heard(logging.INFO if verbose else None), warnings.catch_warnings():
        if not verbose:
            warnings.simplefilter("ignore")
        yield


def of_adata(adata: AnnData, name: str, table, *, values: str | None = None, **how) -> Source:
    """An AnnData as a dataset to annotate or to learn from."""
    cells = q.matrices_of(adata, name)
    words, found = q.choose({words: one.counts[:500] for words, one in cells.items()}, values, name)
    return q.in_memory(cells[words], table, words, found, **how)


if __name__ == "__main__":
    sys.exit(main())
