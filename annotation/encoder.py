"""What embeds the cells: a named checkpoint, or an encoder made of the very cells on the spot."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_matrix

import recipes
import utils
from annotation import labeller as learn
from annotation import road
from annotation.labeller import Embedder, Labeller
from annotation.wishes import Wishes
from model import Encoder
from reading import align
from reading import source as q
from reading.source import Source
from stages import embedding
from voice import log

ON_THE_SPOT = "made of these cells"  # said of an encoder that is no checkpoint


def encoder_for(
    everything: Sequence[Source], shared: list[str], model: Path | None, wishes: Wishes
) -> tuple[utils.Checkpoint, list[dict], str, utils.Checkpoint | None]:
    """What embeds, the genes each dataset has of it, how it came about; and the corpus that may be a prior.

    The named checkpoint embeds where there are several datasets, or where it does not know the genes' signal shares.
    One dataset of cells enough has a map of its own all the same, for which the shares are a prior where that helps.
    """
    corpus = None
    if model is not None:
        checkpoint = utils.load_checkpoint(model, gene_list=wishes.gene_list)
        overlap = [q.check_overlap(source, checkpoint.genes, wishes.force) for source in everything]
        corpus = checkpoint if checkpoint.shares is not None else None
        if corpus is None or len(everything) > 1 or len(everything[0]) < road.FEW:
            return checkpoint, overlap, f"{model}, {checkpoint.recipe}", corpus
        encoder = pretrain_here(everything, shared, wishes.seed, corpus)
        prior = f"with {model} as a prior" if encoder.settings["prior"] else f"{model} would not help such cells"
        return encoder, overlap, f"{ON_THE_SPOT}, {prior}", corpus
    least = min(len(source.genes) for source in everything)
    overlap = [q.own_overlap(source, shared, least) for source in everything]
    return pretrain_here(everything, shared, wishes.seed), overlap, ON_THE_SPOT, corpus


def embedder_of(checkpoint: utils.Checkpoint, own: bool) -> Embedder:
    """The checkpoint's encoder as arrays; own: it was made of the query's cells and of no others."""
    linear = checkpoint.encoder.linear
    return Embedder(
        genes=checkpoint.genes,
        weight=linear.weight.detach().cpu().numpy().T.copy(),
        bias=linear.bias.detach().cpu().numpy(),
        plain=recipes.sees_raw_counts(checkpoint.recipe),
        own=own,
    )


def with_own_map(labeller: Labeller, cells: Source, seed: int, corpus: utils.Checkpoint | None = None) -> Labeller:
    """A labeller that tells types across datasets, but stores the map of the query's own cells, where they are enough.

    What separates the clusters of several datasets tells types best, and shows islands that are not there.
    """
    if len(cells) < road.FEW:
        return labeller
    shown = pretrain_here([cells], q.shared_genes([cells]), seed, corpus, f"a map of {cells.name} alone")
    return replace(labeller, shown=embedder_of(shown, own=True))


def pretrain_here(
    sources: Sequence[Source], genes: list[str], seed: int, corpus: utils.Checkpoint | None = None, what: str = ""
) -> utils.Checkpoint:
    """An encoder made of the very cells, on the genes they share; `corpus`: a checkpoint that is a prior for it.

    Of one dataset it is the map that invents nothing. Of several, what separates their clusters: this tells the types
    of the one by the other's better, and is not what is stored. what: it is called so on the screen.
    """
    begin = time.perf_counter()
    matrices = []
    for source in sources:
        rows = learn.choose_rows(np.full(len(source), -1), embedding.SAMPLE, seed)
        values, empty = source.log(source.take(rows))
        matrices.append(align.align(values[~empty], source.genes, genes))
    matrices = [matrix for matrix in matrices if matrix.shape[0] > 1]
    if not matrices:
        raise ValueError(
            "no dataset has two cells to pre-train an encoder on; name a checkpoint with --pretrained_model"
        )
    cells = sum(matrix.shape[0] for matrix in matrices)
    doing = f"making {what}" if what else "pre-training an encoder"
    prior = corpus.prior(genes) if corpus and len(sources) == 1 and embedding.corpus_helps(matrices[0]) else None
    known = "" if what else "no checkpoint named"
    if corpus is not None:
        helps = "is a prior" if prior is not None else "would not help so many cells of this depth"
        known = f"what the checkpoint knows of genes {helps}"
    doing = f"{known}: {doing}" if known else doing
    log.info(f"{doing} on {cells:,} cells x {len(genes):,} genes (up to a minute)")
    if len(sources) == 1:
        encoder = own_map(matrices[0], seed, prior)
    else:
        encoder = recipes.closed_form(matrices, genes, seed)
    log.info(f"{'made' if what else 'pre-trained'} in {time.perf_counter() - begin:.1f} s")
    return utils.Checkpoint(
        encoder,
        genes,
        recipe="scpretrain2, on the spot",
        datasets=[source.name for source in sources],
        settings={"prior": prior is not None},
    )


def own_map(x: csr_matrix, seed: int, prior: np.ndarray | None = None) -> Encoder:
    """`stages.embedding` of one dataset's cells (N, G) as an encoder; `prior` (G,) is what a corpus knows of genes."""
    weight, bias = embedding.own(x, prior=prior, seed=seed)  # (H, G), (H,)
    encoder = Encoder(x.shape[1], len(weight))
    with torch.no_grad():
        encoder.linear.weight.copy_(torch.from_numpy(weight))
        encoder.linear.bias.copy_(torch.from_numpy(bias))
    return encoder
