"""CellTypist and scANVI in the few-label benchmark, faked: run with `python -m pytest tests/test_others.py`."""

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from benchmarks import few_labels, others, splits


@pytest.fixture
def package(monkeypatch):
    """A CellTypist that has learnt types 2 and 0 and is sure that every cell is of type 2; the clusters say 0."""
    calls = SimpleNamespace(train={}, logger=SimpleNamespace(set_level=lambda level: None))

    def annotate(query, model, majority_voting):
        calls.query = query
        found = pd.DataFrame({"predicted_labels": ["2"] * query.n_obs})
        if majority_voting and query.n_obs > 3:
            found["majority_voting"] = "0"
        likely = pd.DataFrame({"0": [0.1] * query.n_obs, "2": [0.9] * query.n_obs})
        return SimpleNamespace(predicted_labels=found, probability_matrix=likely)

    package = SimpleNamespace(
        logger=calls.logger, annotate=annotate, train=lambda known, **flags: calls.train.update(flags)
    )
    monkeypatch.setitem(sys.modules, "celltypist", package)
    return calls


def ask(cells: int, voting: bool, genes: int = 3) -> np.ndarray:
    x = csr_matrix(np.ones((cells + 2, genes)))
    names = [f"G{i}" for i in range(genes)]
    return others.celltypist(x[:2], np.array([2, 0]), x[2:], names, 4, 7, voting)


def test_the_types_of_celltypist_come_back_in_our_columns(package):
    assert np.allclose(ask(5, False), [0.1, 0, 0.9, 0])
    assert ask(5, True).tolist() == [[1, 0, 0, 0]] * 5
    assert ask(3, True).tolist() == [[0, 0, 1, 0]] * 3  # too few to vote
    assert package.train["labels"].tolist() == ["2", "0"] and package.train["random_state"] == 7
    assert list(package.query.var_names) == ["G0", "G1", "G2"]


def test_genes_are_selected_where_there_are_enough(package):
    ask(5, False)
    assert not package.train["feature_selection"]
    ask(5, False, genes=301)
    assert package.train["feature_selection"]


def test_scanvi_takes_counts_only():
    assert splits.are_counts(csr_matrix([[0.0, 3.0], [1.0, 0.0]]))
    assert not splits.are_counts(csr_matrix([[0.0, 0.7]])) and not splits.are_counts(csr_matrix([[-1.0, 2.0]]))


def test_what_is_not_installed_is_refused_by_name(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(others.importlib.util, "find_spec", lambda name: None)
    assert others.missing(["LR", "scANVI"]) == ["scANVI"]
    with pytest.raises(SystemExit):
        few_labels.main(["--data_dir", str(tmp_path), "--methods", "LR;scANVI"])
    assert "pip install -r benchmarks/requirements.txt" in capsys.readouterr().err
