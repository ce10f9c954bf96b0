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
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch

import data_loader as data
import labeller as learn
import query as q
import utils
from labeller import Block, Embedder, Labeller
from model import Encoder
from query import Source
from stages import align, cluster, consensus, directions, normalize, pca, report, suggest, write_h5ad
from stages.files import whole, writable
from stages.read import format_of

UNKNOWN = "Unknown"
PREFIX = "scpretrain"
BLOCK = 4096  # query rows at a time
SPOT_CELLS = 6_000  # cells of a dataset that an encoder made on the spot is trained on
DRAWN = 50_000  # cells in the report's map


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    return utils.run(lambda args: command(args, argv), build_parser(), argv, check=check_flags)


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
        "--unlabeled", nargs="+", default=[], metavar="LABEL", help="labels that mean a cell has none, such as Unknown; empty and NaN always do"
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
        "--unknown", type=float, nargs="?", const=0.05, metavar="SHARE", help="call cells Unknown that no known type explains, wrongly so "
        "for about this share of the known ones (0.05 where no number is given; default: off)"
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
    beside = check_out(args.out, [args.query, *args.reference])
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
        work = learn_from(
            cells, references, args.pretrained_model, label_key=args.label_key, unlabeled=args.unlabeled,
            embed_only=args.embed_only, unknown=args.unknown, seed=args.seed, force=args.force,
            gene_list=args.gene_list,
        )  # fmt: skip
        h5ad = format_of(args.query) == "h5ad"
        with whole(args.out) as part, whole(beside[0]) as csv, whole(beside[1]) as page:
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
                write_h5ad.add_fields(file, found.columns, arrays, {PREFIX: found.uns})
            table_of(found, cells.rows.cells).to_csv(csv, index_label="cell", float_format="%.4f")
            if args.report:
                report.write_report(page, page_of(work, found, args.out.stem))
            else:
                page.touch()
        if not args.report:
            beside[1].unlink()
        if found.suggested is not None:
            with whole(args.out.with_suffix(".suggest.csv")) as part:
                found.suggested.to_csv(part, index=False, float_format="%.4f")
    tell(work, found)
    print(f"{args.out}, {beside[0].name}{' and ' + beside[1].name if args.report else ''} written")


def check_out(out: Path, inputs: Sequence[Path]) -> tuple[Path, Path]:
    """The .csv and .html beside `out`; ValueError where one would overwrite an input, or nothing can be written."""
    if out.suffix != ".h5ad":
        raise ValueError(f"--out {out} must end in .h5ad, that is what is written")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; name a file in it")
    beside = out.with_suffix(".csv"), out.with_suffix(".html")
    for path in (out, *beside, out.with_suffix(".suggest.csv")):
        for other in inputs:
            if path.exists() and other.exists() and path.samefile(other) or path.absolute() == other.absolute():
                raise ValueError(f"--out {out} would overwrite the input {other}; name another file")
    if not writable(out.parent):
        raise ValueError(f"--out {out}: the folder {out.absolute().parent} cannot be written; name another one")
    return beside


# -- learning ----------------------------------------------------------------
@dataclass
class Work:
    """The opened datasets and what was learnt from them."""

    query: Source
    references: list[Source]
    labeller: Labeller
    known: np.ndarray  # (N,) labels of the query that are kept, -1 for none
    existing: np.ndarray | None  # (N,) labels of the query to compare with, "" for none
    overlap: list[dict]
    warnings: list[str]
    settings: dict[str, Any]
    seed: int


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
    say: Callable[[str], None] = print,
) -> Work:
    """Everything that comes before the first cell is labelled."""
    everything = [cells, *references]
    q.shared_genes(everything)
    if embed_only:
        known, theirs, classes, existing = np.full(len(cells), -1), [], [], None
    else:
        known, theirs, classes, existing = cell_types(cells, references, label_key, unlabeled, say)
    overlap = []
    if model is not None:
        checkpoint = utils.load_checkpoint(model, gene_list=gene_list)
        overlap = [q.check_overlap(source, checkpoint.genes, force, say) for source in everything]
        made = f"{model}, {checkpoint.recipe}"
    else:
        checkpoint = pretrain_here(everything, seed, say)
        overlap = [q.check_overlap(source, checkpoint.genes, True, say) for source in everything]
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
        say(
            f"learnt {len(classes)} types in {time.perf_counter() - begin:.1f} s; calibration error on held-out labelled "
            f"cells {labeller.ece:.3f}"
        )
        if unknown and not np.isfinite(labeller.unknown.threshold):
            warnings.append("too few labels to tell unknown cells by: none is called Unknown for its strangeness")
    for sentence in warnings:
        say(f"warning: {sentence}")
    settings = {
        "query": str(cells.rows.path), "references": ", ".join(str(source.rows.path) for source in references),
        "label_key": label_key or "", "unlabeled": ", ".join(str(word) for word in unlabeled), "unknown": unknown or 0.0, "seed": seed,
        "checkpoint": made, "checkpoint_genes": len(checkpoint.genes), "recipe": checkpoint.recipe,
        "values": cells.values.describe(cells.matrix), "species": cells.species,
    }  # fmt: skip
    return Work(cells, list(references), labeller, known, existing, overlap, warnings, settings, seed)


def cell_types(
    cells: Source, references: Sequence[Source], key: str | None, unlabeled: Sequence[str], say: Callable[[str], None]
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
                f"{' once ' + ', '.join(unlabeled) + ' count as none' if unlabeled else ''}; label some, or name a --reference"
            )
        texts.append(labels)
    classes = sorted(set().union(*(labels.astype(str) for labels in texts)) - {""})
    where = ", ".join(source.where for source in references or [cells])
    if clash := [name for name in classes if name.lower() == UNKNOWN.lower()]:
        raise ValueError(
            f"{where}: a type is called {clash[0]!r}, which is what cells without a type are called here; if its cells "
            f"have no label say --unlabeled {clash[0]}, else rename it"
        )
    if len(classes) < 2:
        raise ValueError(f"{where}: only one cell type, {classes[0]!r}; two are needed to tell cells apart")
    place = {name: i for i, name in enumerate(classes)} | {"": -1}
    codes = [np.array([place[label] for label in labels], dtype=int) for labels in texts]
    for source, labels in zip(references or [cells], codes, strict=True):
        count = np.bincount(labels[labels >= 0], minlength=len(classes))
        say(f"{source.name}: {count.sum():,} of {len(labels):,} cells have a label, of {np.count_nonzero(count)} types")
        if few := [classes[i] for i in np.flatnonzero((count > 0) & (count < 3))]:
            say(f"{source.name}: under 3 labelled cells of {', '.join(few)}; expect little of these")
    if not references:
        return codes[0], [], classes, None
    existing = cells.labels(key, unlabeled)
    if existing is not None and (existing != "").any():
        say(f"{cells.name} has labels of its own; they are not used, but compared with in the report")
    return np.full(len(cells), -1), codes, classes, existing


def pretrain_here(sources: Sequence[Source], seed: int, say) -> utils.Checkpoint:
    """No checkpoint at hand: an encoder made of the very cells, on the genes they share."""
    begin = time.perf_counter()
    genes = q.shared_genes(sources)
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
    say(f"no checkpoint named: pre-training an encoder on {cells:,} cells x {len(genes):,} genes (up to a minute)")
    encoder = pretrain_on_the_spot(matrices, genes, seed)
    say(f"pre-trained in {time.perf_counter() - begin:.1f} s")
    return utils.Checkpoint(
        encoder, genes, recipe="scpretrain2, on the spot", datasets=[source.name for source in sources]
    )


def pretrain_on_the_spot(matrices, genes: list[str], seed: int, hidden: int = 200) -> Encoder:
    """The scpretrain2 encoder of cells (N, G) csr, log1p of 10,000 counts, one matrix a dataset: its closed form."""
    means, variances = zip(*map(directions.moments, matrices), strict=True)
    scale = directions.gene_scale(variances, [np.ones(len(genes), bool)] * len(matrices))
    labels = []
    for matrix in matrices:
        points = pca.project(matrix, *pca.components(matrix, 50, seed=seed))  # (N, 50)
        labels.append(cluster.pseudo_labels(points, cluster.few_sizes(len(points)), seed=seed, spread=True))
    found = directions.directions(matrices, means, labels, scale, hidden)  # (H, G)
    encoder = Encoder(len(genes), int(np.flatnonzero(np.abs(found).sum(axis=1)).max(initial=0)) + 1)
    with torch.no_grad():
        encoder.linear.weight.copy_(torch.from_numpy(found[: encoder.hidden] / scale))
        encoder.linear.bias.zero_()
    return encoder


# -- labelling ----------------------------------------------------------------
@dataclass
class Found:
    """What the query's N cells are: the columns for obs, and what else is written."""

    columns: dict[str, Any]
    umap: np.ndarray | None  # (N, 2)
    uns: dict[str, Any]
    clusters: pd.DataFrame | None
    suggested: pd.DataFrame | None
    seconds: float
    notes: list[str] = field(default_factory=list)


def label(work: Work, sink, *, use_consensus: bool, umap: bool, suggestions: int, say=print) -> Found:
    """Label every cell of the query by blocks; its embedding goes into `sink` (N, H), which takes slices."""
    model, cells, n = work.labeller, work.query, len(work.query)
    types, notes = len(model.classes), []
    places = learn.lay_out(model.features, work.seed) if umap else None
    centres = learn.over_cluster(model, work.seed) if types and use_consensus else None
    calls, second = np.full(n, -1), np.full(n, -1)
    confidences, strange = np.zeros(n, np.float32), np.zeros(n, bool)
    probability = np.zeros((n, types), np.float32) if centres is not None else None
    clusters, layout = np.zeros(n, int), np.zeros((n, 2), np.float32) if umap else None
    at_once = n <= learn.FIT
    begin = time.perf_counter()

    def take(rows, block: Block) -> None:
        sink[rows] = block.embedding
        if types:
            order = np.argsort(-block.probabilities, axis=1, kind="stable")[:, :2]
            calls[rows], second[rows] = order[:, 0], order[:, 1]
            confidences[rows] = block.probabilities[np.arange(len(order)), order[:, 0]]
            strange[rows] = block.strange
        if centres is not None:
            clusters[rows], probability[rows] = consensus.assign(block.features, centres), block.probabilities
        if umap:
            layout[rows] = places[model.anchors[block.near[:, :3]]].mean(axis=1)

    for start, counts in progress(cells, "labelling"):
        take(slice(start, start + counts.shape[0]), model.block(counts))
    if at_once and umap:
        layout[model.rows] = places
    if at_once and types:  # all cells were learnt from together: their own scores are the better ones
        strange[model.rows] = model.strange
    seconds = time.perf_counter() - begin
    if not at_once:
        notes.append(
            f"Learnt from {len(model.rows):,} of the {n:,} cells (UMAP, clusters, markers); the others were labelled in "
            "blocks and placed on the map beside their nearest cells."
        )
    found = Found({}, layout, {}, None, None, seconds, notes)
    if types:
        found.columns, found.clusters = decide_types(
            work, calls, second, confidences, strange, probability, clusters, centres
        )
    if suggestions:
        found.suggested = suggest_cells(work, found, suggestions, say)
    found.uns = about(work, found)
    return found


def decide_types(work, calls, second, confidences, strange, probability, clusters, centres):
    """The columns of obs and the table of clusters: votes overrule, then Unknown, then known labels."""
    known, classes = work.known, np.array([*work.labeller.classes, UNKNOWN], dtype=object)
    votes = np.where(known >= 0, known, np.where(strange, -1, calls))
    final, table, extra = calls.copy(), None, {}
    if centres is not None:
        voted = consensus.consensus(centres, consensus.count_votes(clusters, votes, len(centres), len(classes) - 1))
        final = consensus.overrule(calls, clusters, voted)
        changed = final != calls
        second = np.where(changed, calls, second)
        confidences = np.where(changed, probability[np.arange(len(calls)), final], confidences)
        extra = {
            f"{PREFIX}_cluster": clusters, f"{PREFIX}_cluster_type": named(voted.winner[clusters], classes),
            f"{PREFIX}_vote_share": voted.share[clusters], f"{PREFIX}_vote_entropy": voted.entropy[clusters],
            f"{PREFIX}_mixed": voted.mixed[clusters],
        }  # fmt: skip
        table = pd.DataFrame(
            {"cluster": np.arange(len(centres)), "n": np.bincount(clusters, minlength=len(centres)),
             "majority": classes[voted.winner], "share": voted.share, "entropy": voted.entropy, "mixed": voted.mixed}
        )  # fmt: skip
        table = table[table["n"] > 0]
    second = np.where(strange, final, second)  # of Unknown: the type that is nearest
    final, confidences = np.where(strange, -1, final), confidences.copy()
    final = np.where(known >= 0, known, final)
    confidences[known >= 0] = 1.0
    second = np.where((second == final) | (known >= 0) & (second == known), -2, second)
    columns = {
        f"{PREFIX}_cell_type": named(final, classes), f"{PREFIX}_confidence": confidences.astype(np.float32),
        f"{PREFIX}_second_choice": named(second, classes), f"{PREFIX}_cell_call": named(calls, classes),
        f"{PREFIX}_known": known >= 0,
    }  # fmt: skip
    return columns | extra, table


def named(codes: np.ndarray, classes: np.ndarray) -> pd.Categorical:
    """Types by name: -1 is Unknown, -2 no type at all."""
    codes = np.where(codes == -1, len(classes) - 1, codes)
    return pd.Categorical.from_codes(
        np.where(codes < 0, -1, codes), [str(name) for name in classes]
    ).remove_unused_categories()


def suggest_cells(work: Work, found: Found, n: int, say) -> pd.DataFrame:
    """The cells to label next, from among those that were learnt from."""
    model = work.labeller
    free = int((work.known[model.rows] < 0).sum())
    if n > free:
        say(f"only {free:,} cells have no label: that many are suggested, not {n:,}")
    if not min(n, free):
        return pd.DataFrame(columns=["cell", "group"])
    probabilities = model.probabilities if model.classes else None
    rows, groups = suggest.suggest(model.averaged, work.known[model.rows], min(n, free), probabilities, work.seed)
    table = pd.DataFrame({"cell": [work.query.rows.cells[row] for row in model.rows[rows]], "group": groups})
    for name in ("cell_type", "confidence", "second_choice", "cluster"):
        if f"{PREFIX}_{name}" in found.columns:
            table[name] = np.asarray(found.columns[f"{PREFIX}_{name}"])[model.rows[rows]]
    return table


def about(work: Work, found: Found) -> dict[str, Any]:
    """What goes into uns['scpretrain']."""
    model = work.labeller
    content = {
        "versions": versions(), "settings": work.settings, "genes": np.array(work.query.genes, dtype=object),
        "classes": np.array(model.classes, dtype=object), "temperature": model.temperature, "ece": model.ece,
        "seed": work.seed, "recipe": work.settings["recipe"], "warnings": np.array(work.warnings, dtype=object),
        "overlap": pd.DataFrame(work.overlap), "cells_learnt_from": len(model.rows), "command": "",
    }  # fmt: skip
    if found.clusters is not None:
        content["clusters"] = found.clusters.set_index(found.clusters["cluster"].astype(str).to_numpy())
    if found.suggested is not None:
        content["suggested"] = found.suggested["cell"].to_numpy(dtype=object)
    return content


def versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("torch", "numpy", "scipy", "scikit-learn", "pandas", "anndata", "h5py", "umap-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def progress(cells: Source, what: str) -> Iterator[tuple[int, Any]]:
    """The query's row blocks under a bar that tells the time left; the next is read while this one is worked on."""
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    starts = range(0, len(cells), BLOCK)
    with tqdm(total=len(cells), unit=" cells", unit_scale=True, desc=what, dynamic_ncols=True, mininterval=0.5) as bar:
        with ThreadPoolExecutor(1) as pool:
            read = lambda a: pool.submit(cells.rows.rows, a, min(a + BLOCK, len(cells)))  # noqa: E731
            waiting = read(0)
            for start in starts:
                counts = waiting.result()
                if start + BLOCK < len(cells):
                    waiting = read(start + BLOCK)
                yield start, counts
                bar.update(counts.shape[0])


# -- telling ----------------------------------------------------------------
def table_of(found: Found, names: Sequence[str]) -> pd.DataFrame:
    """The .csv: a row a cell, the columns of obs without the prefix, and the map."""
    table = pd.DataFrame(found.columns, index=pd.Index(names, dtype=object))
    table.columns = [name.removeprefix(f"{PREFIX}_") for name in table.columns]
    if found.umap is not None:
        table["umap_1"], table["umap_2"] = found.umap[:, 0], found.umap[:, 1]
    return table


def page_of(work: Work, found: Found, title: str) -> report.Annotation:
    """What the report says."""
    model, n = work.labeller, len(work.query)
    rows = model.rows if n > DRAWN else np.arange(n)
    cells = [work.query.rows.cells[row] for row in rows]
    of = {name.removeprefix(f"{PREFIX}_"): values for name, values in found.columns.items()}
    page = report.Annotation(
        title, cells, np.full(len(rows), "not labelled", dtype=object), np.full(len(rows), np.nan),
        umap=found.umap[rows] if found.umap is not None else None, overlap=work.overlap, warnings=work.warnings,
        notes=found.notes, settings=work.settings, versions=versions(), command=found.uns["command"], unknown=UNKNOWN,
    )  # fmt: skip
    if not of:
        return page
    types = np.asarray(of["cell_type"]).astype(object)
    page.cell_type, page.confidence = types[rows], np.asarray(of["confidence"])[rows]
    page.second_choice = np.asarray(pd.Series(of["second_choice"]).astype(object).fillna(""))[rows]
    page.counts = pd.Series(types).value_counts().to_dict()
    if work.existing is not None:
        page.known = work.existing[rows]
        page.confusion = pd.crosstab(pd.Series(work.existing, name="existing"), pd.Series(types, name="predicted"))
        page.confusion = page.confusion.drop(index="", errors="ignore")
    elif (work.known >= 0).any():
        page.known = np.array([*model.classes, ""], dtype=object)[work.known][rows]
        page.confusion_note = "Known labels were kept, so they agree by construction; the per-cell call is in the .csv."
    of_fitted = types[model.rows]
    page.markers = report.marker_genes(model.log, work.query.spelled(), of_fitted)
    wanted = page.markers.groupby("type", sort=False).head(3)["gene"]
    page.dots = report.marker_dots(model.log, work.query.spelled(), of_fitted, list(dict.fromkeys(wanted)))
    page.clusters = found.clusters
    if np.isfinite(model.ece):
        page.ece = model.ece
        bins = pd.DataFrame(model.held_out, columns=["confidence", "accuracy"])
        bins = bins.groupby(np.minimum((bins["confidence"] * 10).astype(int), 9))
        page.reliability = bins.mean().assign(n=bins.size()).reset_index(drop=True)
    return page


def tell(work: Work, found: Found, say: Callable[[str], None] = print) -> None:
    """The counts per type, most first, and how fast it went."""
    rate = len(work.query) / max(found.seconds, 1e-9)
    say(f"{len(work.query):,} cells in {found.seconds:.1f} s ({rate:,.0f} cells/s)")
    if found.columns:
        counts = pd.Series(np.asarray(found.columns[f"{PREFIX}_cell_type"])).value_counts()
        say("; ".join(f"{name} {count:,}" for name, count in counts.items()))
    if found.suggested is not None and len(found.suggested):
        say("label next: " + ", ".join(found.suggested["cell"].astype(str)))


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
    say = print if verbose else (lambda sentence: None)
    others = [reference] if hasattr(reference, "obs_names") else list(reference)
    unlabeled = [unlabeled] if isinstance(unlabeled, str) else list(unlabeled)
    table = data.orthologs(Path(data_dir), offline=offline)
    utils.seed_everything(seed)
    cells = of_adata(adata, "adata", table, species=species, values=values, force=force, say=say)
    q.refuse_cells(cells)
    sources = [of_adata(one, f"reference {i}", table, force=force, say=say) for i, one in enumerate(others, 1)]
    work = learn_from(
        cells, sources, None if pretrained_model is None else Path(pretrained_model), label_key=label_key,
        unlabeled=unlabeled, embed_only=embed_only, unknown=unknown, seed=seed, force=force, say=say,
    )  # fmt: skip
    out = adata.copy()
    sink = np.empty((len(cells), work.labeller.hidden), np.float32)
    found = label(work, sink, use_consensus=consensus, umap=umap, suggestions=suggest, say=say)
    for name, column in found.columns.items():
        out.obs[name] = column
    out.obsm[f"X_{PREFIX}"] = sink
    if found.umap is not None:
        out.obsm[f"X_umap_{PREFIX}"] = found.umap
    out.uns[PREFIX] = found.uns
    tell(work, found, say)
    return out


def of_adata(adata, name: str, table, *, values: str | None = None, **how) -> Source:
    """An AnnData as a dataset to annotate or to learn from."""
    cells = q.matrices_of(adata, name)
    words, found = q.choose({words: one.counts[:500] for words, one in cells.items()}, values, name)
    return q.in_memory(cells[words], table, words, found, **how)


if __name__ == "__main__":
    sys.exit(main())
