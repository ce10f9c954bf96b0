"""Gene symbols of two species, and columns in a given order: pytest tests/reading/test_align.py."""

import numpy as np
import pytest
from conftest import write_orthologs
from scipy.sparse import random

from reading import align


def slow(counts, names, wanted):
    """Column by column into a dense array; of a gene listed twice, the first."""
    dense, out = counts.toarray(), np.zeros((counts.shape[0], len(wanted)), np.float32)
    for place, gene in enumerate(wanted):
        if gene in names:
            out[:, place] = dense[:, list(names).index(gene)]
    return out


@pytest.mark.parametrize("seed", range(10))
def test_alignment_is_that_of_the_slow_loop(seed):
    rng = np.random.default_rng(seed)
    pool = [f"G{number}" for number in range(20)]
    names = align.shared_names(rng.choice(pool, 12), "mouse", {})  # some twice, so some unused
    wanted = sorted(rng.choice(pool, 9, replace=False))
    counts = random(40, 12, density=0.4, format="csr", dtype=np.float32, random_state=seed)
    aligned = align.align(counts, names, wanted)
    np.testing.assert_array_equal(aligned.toarray(), slow(counts, names, wanted))
    assert aligned.format == "csr" and aligned.dtype == np.float32
    aligned.check_format(full_check=True)


def test_a_missing_gene_becomes_a_zero_column_and_an_unwanted_one_vanishes():
    counts = random(40, 3, density=1, format="csr", dtype=np.float32, random_state=0)
    aligned = align.align(counts, ["A", "B", "C"], ["C", "X", "A"]).toarray()
    np.testing.assert_array_equal(aligned, counts.toarray()[:, [2, 0, 0]] * [1, 0, 1])
    assert align.align(counts, ["A", "B", "C"], ["X"]).nnz == 0


def test_of_a_symbol_listed_twice_the_first_column_counts():
    counts = random(40, 3, density=1, format="csr", dtype=np.float32, random_state=0)
    names = align.shared_names(["Actb", "ACTB", "Cd19"], "mouse", {})
    assert names == ["ACTB", "", "CD19"]
    np.testing.assert_array_equal(align.align(counts, names, ["ACTB"]).toarray()[:, 0], counts.toarray()[:, 0])


def test_orthologs_come_from_the_human_and_the_mouse_column(tmp_path):
    path = write_orthologs(tmp_path, {"TP53": "Trp53", "CD3E": "Cd3e"})
    assert align.read_orthologs(path) == {"TP53": "TRP53", "CD3E": "CD3E"}


def test_a_table_without_the_columns_or_without_pairs_says_so(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("mouse_lemur__gene_name,human__gene_name\nA,B\n")
    with pytest.raises(ValueError, match="table.csv.*no column mouse__gene_name; delete"):
        align.read_orthologs(path)
    with pytest.raises(ValueError, match="empty; delete"):
        align.read_orthologs(write_orthologs(tmp_path, {}))


def test_human_genes_take_the_names_of_their_mouse_orthologs_and_mouse_genes_keep_theirs():
    table = {"TP53": "TRP53"}
    assert align.shared_names(["TP53", "cd19"], "human", table) == ["TRP53", "CD19"]
    assert align.shared_names(["Tp53", "Cd19"], "mouse", table) == ["TP53", "CD19"]


def test_the_table_knows_better_than_the_spelling():
    table = {"TP53": "TRP53", "ACTB": "ACTB"}
    assert align.shared_names(["TRP53", "TP53"], "human", table) == ["", "TRP53"]
    assert align.shared_names(["TRP53", "CD19"], "human", table) == ["TRP53", "CD19"]  # no TP53: nothing gives way
    assert align.shared_names(["ACTB", "TP53"], "human", table) == ["ACTB", "TRP53"]


def test_the_vocabulary_is_any_mouse_dataset_and_any_human_dataset_sorted():
    names = [["B", "A", ""], ["C"], ["C", "A", "Z"], ["B", ""]]
    assert align.vocabulary(names, ["mouse", "mouse", "human", "human"]) == ["A", "B", "C"]


def test_with_one_species_a_gene_needs_two_datasets_and_one_dataset_is_its_own():
    assert align.vocabulary([["A", "B"], ["B", "C"], ["C", ""]], ["mouse"] * 3) == ["B", "C"]
    assert align.vocabulary([["B", "A", ""]], ["human"]) == ["A", "B"]
    assert align.vocabulary([["A"], ["B"]], ["mouse", "human"]) == []


def test_overlap_counts_the_wanted_genes():
    assert align.overlap(["A", "", "B", "C"], ["C", "A", "X"]) == 2
