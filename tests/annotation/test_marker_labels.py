"""From marker genes to sure cells: run with `python -m pytest tests/annotation/test_marker_labels.py`."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from annotation import marker_labels
from annotation.road import neighbours


def written(folder: Path, text: str) -> Path:
    (folder / "markers.csv").write_text(text)
    return folder / "markers.csv"


@pytest.mark.parametrize(
    "text",
    [
        "type,gene,sign\nT,CD3D,+\nT,MS4A1,-\nB,MS4A1,\n",
        "cell_type,marker,sign\nT,CD3D,1\nT,MS4A1,-1\nB,MS4A1,1\n",
        "gene,T,B\nCD3D,1,0\nMS4A1,-1,1\n",
        "tissueType,cellName,geneSymbolmore1,geneSymbolmore2,shortName\nBlood,T,CD3D,MS4A1,t\nBlood,B,MS4A1,,b\n",
    ],
)
def test_the_usual_tables_of_marker_genes_are_understood(tmp_path, text):
    found = marker_labels.read(written(tmp_path, text), {})
    assert found.types == ["B", "T"] and found.genes == {"T": {"CD3D": 1, "MS4A1": -1}, "B": {"MS4A1": 1}}


def test_several_genes_may_stand_in_one_value(tmp_path):
    found = marker_labels.read(written(tmp_path, 'type,gene\nT,"CD3D, CD3E"\nB,MS4A1\n'), {})
    assert set(found.genes["T"]) == {"CD3D", "CD3E"}


@pytest.mark.parametrize(
    "text, words",
    [
        ("type,gene\nT,CD3D\n", "only one type, 'T',"),
        ("type,gene\n", "no type with marker genes"),
        ("type,sign\nT,+\n", "no column of genes"),
        ("type,gene,sign\nT,CD3D,maybe\nB,MS4A1,+\n", "must be \\+ or -"),
        ("gene,T,B\nCD3D,high,low\n", "not 0 or 1"),
        ("", "it is empty"),
    ],
)
def test_tables_that_say_too_little_are_refused_with_their_sentence(tmp_path, text, words):
    with pytest.raises(ValueError, match=words) as error:
        marker_labels.read(written(tmp_path, text), {})
    assert "markers.csv" in str(error.value)


def source(genes):
    return SimpleNamespace(genes=[gene.upper() for gene in genes], spelled=lambda: list(genes), where="query (q.h5ad)")


@pytest.mark.parametrize("genes", [["Cd3d", "Fcgr4", "Ms4a1"], ["CD3D", "FCGR3A", "MS4A1"]])
def test_symbols_of_either_species_are_found(tmp_path, genes):
    orthologs = {"FCGR3A": "FCGR4", "CD3D": "CD3D"}
    for text in ("type,gene\nM,FCGR3A\nT,CD3D\n", "type,gene\nM,Fcgr4\nT,Cd3d\n"):
        columns, signs = marker_labels.measured(marker_labels.read(written(tmp_path, text), orthologs), source(genes))
        assert columns.tolist() == [0, 1] and signs.tolist() == [[0, 1], [1, 0]]


def test_genes_that_are_not_measured_are_named_and_none_at_all_is_refused(tmp_path, caplog):
    caplog.set_level("INFO", "scpretrain")
    markers = marker_labels.read(written(tmp_path, "type,gene\nM,LYZ\nT,CD3D\n"), {})
    marker_labels.measured(markers, source(["CD3D", "MS4A1"]))
    assert "1 of its 2 genes are not measured: LYZ" in caplog.text
    with pytest.raises(ValueError, match="none of its 2 genes"):
        marker_labels.measured(markers, source(["ENSG1", "ENSG2"]))


def world(seed=0, each=60, genes=2):
    """Values of `genes` markers for each of three types of which the last is not there; features, and the truth."""
    rng = np.random.default_rng(seed)
    truth = np.repeat([0, 1], each)
    x = rng.poisson(0.1, (2 * each, 3 * genes)).astype(np.float32)
    for k in (0, 1):
        x[np.ix_(truth == k, range(genes * k, genes * (k + 1)))] += rng.poisson(2, (each, genes))
    features = np.eye(2)[truth] * 10 + rng.normal(0, 1, (2 * each, 2))
    signs = np.kron(np.eye(3), np.ones((1, genes)))
    return csr_matrix(np.log1p(x)), signs, features, truth


@pytest.mark.parametrize("genes", [1, 2, 6])
def test_seeds_are_of_their_type_and_a_type_without_evidence_has_none(genes):
    values, signs, features, truth = world(genes=genes)
    labels = marker_labels.seeds(values, signs, neighbours(features, 10), 0)
    for k in (0, 1):
        assert (labels == k).sum() > 30 and (truth[labels == k] == k).all()
    assert not (labels == 2).any()


@pytest.mark.parametrize("genes", [2, 6])
def test_genes_that_say_nothing_give_no_seeds(genes):
    rng = np.random.default_rng(0)
    values = csr_matrix(np.log1p(rng.poisson(1.0, (200, 3 * genes)).astype(np.float32)))
    near = neighbours(rng.normal(size=(200, 5)), 10)
    labels = marker_labels.seeds(values, np.kron(np.eye(3), np.ones((1, genes))), near, 0)
    assert (labels >= 0).mean() < 0.03


def test_a_gene_that_is_not_in_the_cells_changes_nothing():
    values, signs, features, _ = world(genes=4)
    near = neighbours(features, 10)
    more = np.hstack([signs, np.array([[1.0], [0], [0]])])
    found = marker_labels.seeds(csr_matrix(np.hstack([values.toarray(), np.zeros((120, 1))])), more, near, 0)
    assert (found == marker_labels.seeds(values, signs, near, 0)).mean() > 0.95


def test_groups_are_proposed_the_type_whose_markers_they_express():
    values, signs, features, truth = world()
    score = marker_labels.scores(values, signs, neighbours(features, 10))
    found = marker_labels.proposals(score, truth, ["B", "T", "ghost"])
    assert found["proposed"].tolist() == ["B", "T"] and (found["score"] > 0.3).all()
