"""Labels from a file of their own: run with `python -m pytest tests/annotation/test_given_labels.py`."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from annotation import given_labels

CELLS = ["a", "b", "c", "d"]


def source(cells=CELLS, groups=None):
    """A dataset of which only the names of cells, and perhaps their groups, are asked for."""
    columns = {} if groups is None else {given_labels.GROUP: np.array(groups)}
    rows = SimpleNamespace(cells=list(cells), columns=list(columns), column=columns.get)
    return SimpleNamespace(rows=rows, name="query", where="query (q.h5ad)", warnings=[])


def written(folder: Path, text: str, name: str = "labels.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    "text, name",
    [
        ("cell,cell_type\na,T\nc,B\n", "labels.csv"),
        ("# made by cellxgene 1.2\n# by, hand\nindex,my_types\na,T\nc,B\nb,unassigned\n", "labels.csv"),
        (",cell_type,other\na,T,1\nc,B,2\n", "labels.csv"),
        ("cell\tcell_type\na\tT\nc\tB\n", "labels.tsv"),
        ("barcode\tlabel\r\na\tT\r\nc\tB\r\n", "labels.txt"),
        ("\ufeffcell_type,cell\nT,a\n\nB,c\n", "labels.csv"),
    ],
)
def test_labels_of_cells_are_read_however_the_table_is_written(tmp_path, text, name):
    given = given_labels.read(written(tmp_path, text, name))
    assert not given.by_group and given.names == ["B", "T"]
    assert [label or "" for label in given_labels.labels_of(given, source())] == ["T", "", "B", ""]


def test_a_file_may_tell_the_group_of_each_cell_too(tmp_path):
    given = given_labels.read(written(tmp_path, "cell,cell_type,group\na,T,1\nb,,1\nc,B,2\n"))
    assert given.types == {"a": "T", "b": "", "c": "B"} and given.groups == {"a": "1", "c": "2"} and not given.by_group


def test_hostile_names_stay_as_they_are(tmp_path):
    hostile = '"T, ""naive""",<script>alert(1)</script>'
    given = given_labels.read(written(tmp_path, f"cell_type,cell\n{hostile}\n{'x' * 1_000_000},b\n"))
    assert given.types["<script>alert(1)</script>"] == 'T, "naive"' and len(given.types["b"]) == 1_000_000


def test_a_later_line_wins_and_is_said(tmp_path):
    given = given_labels.read(written(tmp_path, "cell,cell_type\na,T\na,T\nb,T\nb,B\n"))
    assert given.types == {"a": "T", "b": "B"}
    query = source()
    given_labels.labels_of(given, query)
    assert len(query.warnings) == 1 and "1 cell is named twice (b)" in query.warnings[0]


def test_cells_that_match_nothing_are_counted_and_named(tmp_path):
    query = source()
    given_labels.labels_of(given_labels.read(written(tmp_path, "cell,cell_type\na,T\nx9,B\n")), query)
    assert "of its 2 cells 1 is not in query (x9)" in query.warnings[0]


def test_the_file_goes_before_the_column_and_differences_are_counted(tmp_path):
    given, query = given_labels.read(written(tmp_path, "cell,cell_type\na,T\nb,B\nc,\n")), source()
    column = np.array(["B", "B", "T", "T"], dtype=object)
    labels = given_labels.merged(given_labels.labels_of(given, query), column, given, query)
    assert labels.tolist() == ["T", "B", "", "T"] and "differ in 2 cells" in query.warnings[-1]


def test_labels_of_groups_go_to_all_cells_of_the_querys_own_column(tmp_path):
    given = given_labels.read(written(tmp_path, "group,cell_type\n1,T\n2,B\n3,\n"))
    labels = given_labels.labels_of(given, source(groups=["1", "2", "1", "3"]))
    assert given.by_group and labels.tolist() == ["T", "B", "T", ""]


@pytest.mark.parametrize("line, table", [("# groups: explored.csv\n", "explored.csv"), ("", "mine.csv")])
def test_or_of_the_table_that_the_file_names_or_lies_beside(tmp_path, line, table):
    written(tmp_path, "cell,group,umap_1\na,1,0\nb,2,0\nc,1,0\nd,2,0\n", table)
    given = given_labels.read(written(tmp_path, f"{line}group,cell_type\n1,T\n2,B\n", "mine.labels.csv"))
    assert given_labels.labels_of(given, source()).tolist() == ["T", "B", "T", "B"]


def test_the_table_of_groups_is_looked_for_in_other_places_too(tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "work").mkdir()
    written(tmp_path / "work", "cell,group\na,1\nb,2\nc,1\n", "explored.csv")
    text = "# groups: explored.csv\ngroup,cell_type\n1,T\n2,B\n"
    given, query = given_labels.read(written(tmp_path / "downloads", text, "explored.labels (1).csv")), source()
    assert given_labels.labels_of(given, query, [tmp_path / "work"]).tolist() == ["T", "B", "T", None]
    assert "1 cell is missing there of the 4 of query (d)" in query.warnings[0]


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "it is empty"),
        ("# only a comment\n", "it is empty"),
        ("cell,cell_type\n", "none of its 0 rows has a type"),
        ("cell,cell_type\na,\nb,nan\n", "none of its 2 rows has a type"),
        ("name,kind\na,T\n", "its columns are name, kind"),
        ("cell,one,two\na,T,U\n", "none is called cell_type"),
        ("cell\na\n", "no column beside 'cell'"),
        ("cell,cell_type\na,T cell, naive\n", "must stand in quotes"),
    ],
)
def test_a_table_that_cannot_be_understood_is_refused_with_its_sentence(tmp_path, text, words):
    with pytest.raises(ValueError, match="labels.csv") as error:
        given_labels.read(written(tmp_path, text))
    assert words in str(error.value)


def test_what_is_no_text_or_not_there_is_refused(tmp_path):
    (tmp_path / "labels.xlsx").write_bytes(b"PK\x03\x04\xff\xfe\x00")
    with pytest.raises(ValueError, match="not plain text"):
        given_labels.read(tmp_path / "labels.xlsx")
    with pytest.raises(FileNotFoundError, match="there is no .*none.csv, a table of labels"):
        given_labels.read(tmp_path / "none.csv")


@pytest.mark.parametrize(
    "text, query, words",
    [
        ("group,cell_type\n1,T\n47,B\n", source(groups=["1", "2", "1", "2"]), "no group 47 among"),
        ("group,cell_type\n1,T\n2,B\n", source(), "no table tells which cells they are"),
        ("cell,cell_type\nx,T\ny,B\n", source(), "none of its 2 cells"),
    ],
)
def test_labels_that_are_not_of_these_cells_are_refused(tmp_path, text, query, words):
    given = given_labels.read(written(tmp_path, text))
    with pytest.raises(ValueError, match=words):
        given_labels.labels_of(given, query)


def test_a_name_in_quotes_may_begin_like_a_comment(tmp_path):
    text = '# made by "hand\ncell,cell_type\n"#1",T\n# a note\n"a\n#b",B\n'
    assert given_labels.read(written(tmp_path, text)).types == {"#1": "T", "a\n#b": "B"}
