"""The loop and the marker lists of the benchmark: run with `python -m pytest tests/test_explore_benchmark.py`."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
from conftest import MOUSE, write_catalogue, write_dataset, write_orthologs

from benchmarks import explore


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """One labelled set of 60 cells; marker lists of its tissue."""
    write_dataset(tmp_path / "Mouse_A.h5", 1, MOUSE, cells=60)
    write_catalogue(tmp_path, [("Mouse_A", "mouse", "yes")])
    write_orthologs(tmp_path, {gene.upper(): gene for gene in MOUSE})
    lists = tmp_path / "markers"
    lists.mkdir()
    genes = {"b": "Actb Cd19 Cd3e Gapdh", "t": "Il7r Krt18 Ms4a1 Rpl3", "e": "Rps6 Slc2a1 Trp53 Znf10"}
    rows = [(kind, gene, "+") for kind, listed in genes.items() for gene in listed.split()]
    write(lists / "blood.csv", [("type", "gene", "sign"), *rows])
    names = [("B", "B cell", "b"), ("T", "T cell", "t"), ("E", "epithelial cell", "e")]
    head = ("dataset", "tissue", "name", "labels", "types")
    write(lists / "sets.csv", [head, *[("Mouse_A", "blood", *row) for row in names]])
    monkeypatch.setattr(explore, "LISTS", lists)
    return tmp_path


def write(path, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_the_loop_names_groups_and_cells_of_hidden_labels(folder, capsys):
    words = ["--data_dir", str(folder), "--draws", "1", "--out", str(folder / "loop.csv")]
    assert explore.main(["loop", *words]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert row["cells"] == 60 and row["types"] == 3
    assert row["20 groups"] > 0.9 and row["4/5 labels"] > 0.9 and row["enough"] in explore.GROUPS
    explore.main(["loop", *words])  # goes on from the table: nothing is measured again
    assert not capsys.readouterr().out.startswith("{")


def test_markers_are_scored_under_the_names_that_list_and_labels_share(folder, capsys):
    assert explore.main(["markers", "--data_dir", str(folder)]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert row["argmax"] > 0.8 and row["--markers"] > 0.8 and row["missed"] == ""
    assert row["gain"] == pytest.approx(row["--markers"] - row["argmax"])


def test_a_group_gets_the_type_that_most_of_its_cells_are_of():
    truth = np.array(["a", "a", "b", "b", "b"])
    assert explore.named_groups(np.array([1, 1, 1, 2, 2]), truth) == {1: "a", 2: "b"}


def test_the_fewest_groups_that_are_enough_are_found_or_none():
    assert explore.enough({5: 0.5, 10: 0.82, 20: 0.9}, 0.9) == 10
    assert np.isnan(explore.enough({5: 0.5, 10: 0.6}, 0.9))


def test_every_list_has_the_types_that_its_sets_name():
    table = pd.read_csv(explore.LISTS / "sets.csv")
    for tissue, part in table.groupby("tissue"):
        listed = set(pd.read_csv(explore.LISTS / f"{tissue}.csv")["type"])
        named = {kind for words in part["types"] for kind in words.split(";")}
        assert named <= listed, tissue
    assert not table.duplicated(["dataset", "name"]).any() and table["tissue"].nunique() >= 4
