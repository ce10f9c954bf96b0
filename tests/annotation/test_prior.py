"""A checkpoint as a prior for the map of own cells: run with `python -m pytest tests/annotation/test_prior.py`."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

import annotate
import utils
from model import Encoder
from stages import embedding as stage

GENES = [f"GENE{i}" for i in range(200)]


@pytest.fixture
def files(tmp_path):
    """Ninety cells of three types, forty of them in a file of their own; checkpoints with and without signal shares."""
    rng = np.random.default_rng(0)
    means = rng.gamma(0.5, 1.0, 200) * np.exp(rng.normal(0, 1.0, (3, 200)))
    counts = csr_matrix(rng.poisson(means[np.arange(90) % 3]).astype(np.float32))
    obs = pd.DataFrame({"cell_type": np.array(["a", "b", "c"])[np.arange(90) % 3]}, index=[f"c{i}" for i in range(90)])
    cells = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=GENES))
    cells.write_h5ad(tmp_path / "cells.h5ad")
    cells[:20].write_h5ad(tmp_path / "few.h5ad")
    torch.manual_seed(0)
    for name, shares in (("with", torch.linspace(0, 1, 200)), ("without", None)):
        made = utils.Checkpoint(Encoder(200, 7), GENES, recipe="scpretrain2", shares=shares)
        utils.save_checkpoint(tmp_path / f"{name}.out", made)
    return tmp_path


def embedding(files, query: str, *words) -> np.ndarray:
    line = ["--query", files / f"{query}.h5ad", "--out", files / "out.h5ad", "--no-umap", "--no-report", "--offline"]
    assert annotate.main([str(word) for word in [*line, *words]]) == 0
    return ad.read_h5ad(files / "out.h5ad").obsm["X_scpretrain"]


def test_a_checkpoint_with_signal_shares_is_a_prior_and_embeds_no_cell_itself(files):
    alone = embedding(files, "cells", "--embed_only")
    beside = embedding(files, "cells", "--embed_only", "--pretrained_model", files / "with.out")
    assert beside.shape == alone.shape and not np.allclose(alone, beside, atol=0.1)
    assert ad.read_h5ad(files / "out.h5ad").uns["scpretrain"]["settings"]["checkpoint"].endswith("with.out as a prior")


def test_of_many_deep_cells_the_prior_is_left_out_and_that_is_said(files, monkeypatch):
    monkeypatch.setattr(stage, "FEW", 50)
    monkeypatch.setattr(stage, "SHALLOW", 10)
    alone = embedding(files, "cells", "--embed_only")
    beside = embedding(files, "cells", "--embed_only", "--pretrained_model", files / "with.out")
    np.testing.assert_allclose(alone, beside, atol=1e-4)
    assert "would not help such cells" in ad.read_h5ad(files / "out.h5ad").uns["scpretrain"]["settings"]["checkpoint"]


@pytest.mark.parametrize(("query", "model"), [("cells", "without"), ("few", "with")])
def test_without_signal_shares_or_for_a_handful_of_cells_the_encoder_embeds(files, query, model):
    found = embedding(files, query, "--embed_only", "--pretrained_model", files / f"{model}.out")
    assert found.shape[1] == 7  # the encoder's outputs


def test_beside_references_the_prior_makes_what_is_stored(files):
    line = ["--reference", files / "few.h5ad", "--label_key", "cell_type", "--pretrained_model", files / "with.out"]
    stored = embedding(files, "cells", *line)
    alone = embedding(files, "cells", "--embed_only", "--pretrained_model", files / "with.out")
    np.testing.assert_allclose(stored, alone, atol=1e-4)
