"""CellTypist and scANVI as their tutorials use them, for few_labels.py; they need benchmarks/requirements.txt."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

if TYPE_CHECKING:
    from scvi.model import SCVI

# method: the package it needs
OTHERS = {"CellTypist": "celltypist", "CellTypist, no voting": "celltypist", "scANVI": "scvi"}
TOP_GENES = 300  # CellTypist's default: the genes it selects for each type
VARIABLE_GENES = 2000  # that scVI sees
UNLABELLED = "unlabelled"


def missing(methods: Sequence[str]) -> list[str]:
    """Those of `methods` whose package is not installed."""
    return [method for method in methods if method in OTHERS and importlib.util.find_spec(OTHERS[method]) is None]


def celltypist(
    known: csr_matrix,
    labels: np.ndarray,
    query: csr_matrix,
    genes: Sequence[str],
    types: int,
    seed: int,
    voting: bool,
) -> np.ndarray:
    """CellTypist's custom model on cells known (M, G) with labels (M,): what it says of query (N, G), (N, L).

    Both are log1p of 10,000 counts a cell. With `voting` a one for the type that won the vote of the cell's small
    cluster (fewer than 51 cells do not vote), without it the probabilities of the types.
    """
    import anndata
    import celltypist as package

    package.logger.set_level(logging.ERROR)
    # check_expression asks that the first cell sums to 10,000, which one with no count does not
    model = package.train(
        known,
        labels=labels.astype(str),
        genes=np.asarray(genes),
        feature_selection=len(genes) > TOP_GENES,
        n_jobs=1,
        check_expression=False,
        random_state=seed,
    )
    found = package.annotate(anndata.AnnData(query, var=pd.DataFrame(index=genes)), model=model, majority_voting=voting)
    out = np.zeros((query.shape[0], types))
    if voting:
        out[np.arange(len(out)), found.predicted_labels.iloc[:, -1].astype(int)] = 1  # majority_voting, if they voted
    else:
        out[:, found.probability_matrix.columns.astype(int)] = found.probability_matrix
    return out


def scvi(counts: csr_matrix, seed: int) -> SCVI:
    """scVI on the 2,000 most variable genes of all cells, (N, G) counts; it sees no labels."""
    import anndata
    import scanpy
    import scvi as package

    _quiet(seed)
    adata = anndata.AnnData(counts.astype(np.float32))
    most = min(VARIABLE_GENES, counts.shape[1])
    choose = partial(scanpy.pp.highly_variable_genes, adata, flavor="seurat_v3", n_top_genes=most, subset=True)
    try:
        choose()
    except ValueError:  # its loess is singular where many genes share a mean: then over all of them
        choose(span=1.0)
    package.model.SCVI.setup_anndata(adata)
    model = package.model.SCVI(adata, n_layers=2, n_latent=30, gene_likelihood="nb")
    model.train(accelerator="cpu", enable_progress_bar=False, logger=False)
    return model


def scanvi(model: SCVI, labels: np.ndarray, rows: np.ndarray, types: int, seed: int) -> np.ndarray:
    """scANVI from a trained scVI and the labels (N,), -1 for unlabelled: probabilities (n, L) of the cells `rows`."""
    from scvi.model import SCANVI

    _quiet(seed)
    adata = model.adata.copy()
    adata.obs["type"] = pd.Categorical(np.where(labels < 0, UNLABELLED, labels.astype(str)))
    with_labels = SCANVI.from_scvi_model(model, UNLABELLED, labels_key="type", adata=adata)
    with_labels.train(
        max_epochs=20, n_samples_per_label=100, accelerator="cpu", enable_progress_bar=False, logger=False
    )
    found = with_labels.predict(indices=rows, soft=True)
    out = np.zeros((len(rows), types))
    out[:, found.columns.astype(int)] = found
    return out


def _quiet(seed: int) -> None:
    import scvi as package

    package.settings.seed = seed
    package.settings.verbosity = logging.ERROR
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
