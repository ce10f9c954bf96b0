"""The built-in corpus: run with `python -m pytest tests/test_simulate.py`."""

import csv
import os

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

import simulate


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quick")
    return folder, simulate.simulate_corpus(folder, quick=True, seed=3)


def read(path):
    """The file read in the slow obvious way: counts, genes, cells, obs columns."""
    with h5py.File(path) as file:
        exprs = file["exprs"]
        parts = (exprs["data"][:], exprs["indices"][:], exprs["indptr"][:])
        counts = sp.csr_matrix(parts, shape=tuple(exprs["shape"][:]))
        obs = {name: column[:].astype(str) for name, column in file["obs"].items()}
        assert file["var_names"].dtype.kind == file["obs_names"].dtype.kind == "S"
        return counts, file["var_names"][:].astype(str), file["obs_names"][:].astype(str), obs


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_has_the_published_layout(quick):
    folder, entries = quick
    for entry in entries:
        counts, genes, cells, obs = read(folder / f"{entry['name']}.h5")
        counts.check_format(full_check=True)
        assert counts.shape == (len(cells), len(genes))
        assert 120 <= len(cells) <= 400
        assert counts.data.min() >= 1 and np.issubdtype(counts.dtype, np.integer)
        assert len(set(genes)) == len(genes) and len(set(cells)) == len(cells)
        assert ("cell_ontology_class" in obs) == (entry["labelled"] == "yes")
        assert all(len(column) == len(cells) for column in obs.values())


def test_the_catalogue_lists_what_is_there(quick):
    folder, entries = quick
    assert rows_of(folder / "datasets.csv") == entries
    assert sorted(path.stem for path in folder.glob("*.h5")) == sorted(entry["name"] for entry in entries)
    assert {entry["species"] for entry in entries} == {"human", "mouse"}
    assert {entry["labelled"] for entry in entries} == {"yes", "no"}
    assert not list(folder.glob("*.part"))


def test_symbols_are_spelt_as_their_species_spells_them(quick):
    folder, entries = quick
    for entry in entries:
        genes = read(folder / f"{entry['name']}.h5")[1]
        assert all(gene == (gene.upper() if entry["species"] == "human" else gene.capitalize()) for gene in genes)


def test_the_ortholog_table_joins_genes_that_case_alone_does_not(quick):
    folder, entries = quick
    table = rows_of(folder / simulate.ORTHOLOG_FILE)
    header = (folder / simulate.ORTHOLOG_FILE).read_text().splitlines()[0]
    assert header == ",mouse_lemur__gene_name,human__gene_name,mouse__gene_name,"
    pairs = {row["human__gene_name"]: row["mouse__gene_name"].upper() for row in table}
    assert len(set(pairs.values())) == len(pairs) == len(table)  # one to one
    genes = {"human": set(), "mouse": set()}
    for entry in entries:
        genes[entry["species"]] |= {g.upper() for g in read(folder / f"{entry['name']}.h5")[1]}
    by_case = genes["human"] & genes["mouse"]
    by_table = {pairs.get(gene, gene) for gene in genes["human"]} & genes["mouse"]
    assert by_case < by_table
    assert 0.02 < 1 - len(by_case) / len(by_table) < 0.2
    for species in genes:  # each has genes of its own
        assert len(genes[species]) > 1.05 * len(by_table)


def test_types_are_shared_private_uneven_and_one_is_rare(quick):
    folder, entries = quick
    types = {entry["name"]: read(folder / f"{entry['name']}.h5")[3]["simulated_type"] for entry in entries}
    sets = [set(kinds) for kinds in types.values()]
    assert any(a & b and a - b for a in sets for b in sets if a is not b)
    sizes = np.unique(types["Sim_human_blood"], return_counts=True)[1]
    assert 3 <= sizes.min() <= 6
    assert sizes.max() > 5 * sizes.min()


def test_the_labels_are_the_truth(quick):
    folder, entries = quick
    for entry in entries:
        obs = read(folder / f"{entry['name']}.h5")[3]
        if entry["labelled"] == "yes":
            assert list(obs["cell_ontology_class"]) == list(obs["simulated_type"])


def test_a_type_is_nearer_to_itself_than_to_others(quick):
    """Nearest centroid on half of the cells beats chance by far and is not perfect."""
    folder, _ = quick
    counts, _, _, obs = read(folder / "Sim_mouse_pancreas.h5")
    x = np.log1p(counts.toarray() / counts.sum(1).reshape(-1, 1) * 1e4)
    x = np.asarray(x) / np.linalg.norm(x, axis=1, keepdims=True)
    kinds, labels = np.unique(obs["simulated_type"], return_inverse=True)
    half = np.arange(len(x)) % 2 == 0
    centroids = np.stack([x[half & (labels == k)].mean(0) for k in range(len(kinds))])
    right = (x[~half] @ centroids.T).argmax(1) == labels[~half]
    assert 0.5 < right.mean() < 1.0


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path, quick):
    folder, entries = quick
    assert simulate.simulate_corpus(tmp_path / "again", quick=True, seed=3) == entries
    for path in sorted(folder.iterdir()):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    simulate.simulate_corpus(tmp_path / "other", quick=True, seed=4)
    name = f"{entries[0]['name']}.h5"
    assert (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()


def test_the_default_corpus_has_ten_datasets_of_the_promised_size(tmp_path):
    entries = simulate.simulate_corpus(tmp_path)
    assert len(entries) == 10
    for entry in entries:
        counts = read(tmp_path / f"{entry['name']}.h5")[0]
        assert 120 <= counts.shape[0] <= 1500 and 2000 <= counts.shape[1] <= 3000


def test_the_large_corpus_keeps_its_totals_and_density(tmp_path):
    entries = simulate.simulate_large(tmp_path, cells=400, genes=3000, datasets=4)
    read_in = [read(tmp_path / f"{entry['name']}.h5") for entry in entries]
    assert sum(counts.shape[0] for counts, *_ in read_in) == 400
    assert [entry["species"] for entry in entries] == ["human", "mouse", "human", "mouse"]
    pairs = {r["human__gene_name"]: r["mouse__gene_name"].upper() for r in rows_of(tmp_path / simulate.ORTHOLOG_FILE)}
    human, mouse = ({pairs.get(g.upper(), g.upper()) for g in read_in[i][1]} for i in (0, 1))
    assert len(human & mouse) == 3000
    assert all(0.08 < counts.nnz / np.prod(counts.shape) < 0.17 for counts, *_ in read_in)


def test_a_write_that_fails_leaves_the_earlier_file_and_no_half(tmp_path, monkeypatch):
    target = tmp_path / "datasets.csv"
    target.write_text("earlier")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        simulate.simulate_corpus(tmp_path, quick=True)
    assert [path.name for path in tmp_path.iterdir()] == ["datasets.csv"]
    assert target.read_text() == "earlier"


def test_the_command_writes_the_corpus_and_says_so(tmp_path, capsys):
    simulate.main([str(tmp_path), "--quick", "--seed", "1"])
    assert "6 datasets simulated, 4 of them labelled; seed 1" in capsys.readouterr().out
    assert (tmp_path / "datasets.csv").exists()


def test_a_folder_that_cannot_be_made_is_one_line_and_exit_code_2(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as exit:
        simulate.main([str(tmp_path / "file" / "folder"), "--quick"])
    assert exit.value.code == 2
    assert "cannot write the corpus" in capsys.readouterr().err


def test_one_tissue_comes_by_two_technologies_and_one_set_is_small_and_one_shallow(quick):
    folder, entries = quick
    plans = {plan.name: plan for plan in simulate.CORPUS}
    blood = {plans[entry["name"]].technology for entry in entries if plans[entry["name"]].organ == "Blood"}
    assert len(blood) == 2
    counts = [read(folder / f"{entry['name']}.h5")[0] for entry in entries]
    depths = [np.median(np.asarray(one.sum(axis=1))) for one in counts]
    assert min(one.shape[0] for one in counts) < 0.7 * np.median([one.shape[0] for one in counts])
    assert min(depths) < 0.7 * np.median(depths)


def test_a_technology_shifts_the_same_genes_in_every_dataset():
    world = simulate.make_world(400, 10, np.random.default_rng(0))
    shifts = []
    for technology in ("10x", "Smart-seq2"):
        of_one = []
        for seed in (1, 2):
            plan = simulate.Plan("x", "mouse", True, "Blood", simulate.BLOOD, 300, 3000, 1.0, technology, 1.1)
            counts, genes, _ = simulate._draw(world, plan, np.random.default_rng(seed))
            mean = np.log1p(np.asarray(counts.mean(axis=0)).ravel())
            of_one.append(mean[np.argsort(genes)])
        shifts.append(of_one)
    same = np.corrcoef(shifts[0][0], shifts[0][1])[0, 1]
    assert same > np.corrcoef(shifts[0][0], shifts[1][1])[0, 1]


def test_groups_are_named_by_their_commonest_simulated_type(quick, tmp_path):
    folder, _ = quick
    _, _, cells, obs = read(folder / "Sim_human_blood.h5")
    explored = tmp_path / "explored.csv"
    explored.write_text("cell,group\n" + "".join(f"{cell},{1 + i % 2}\n" for i, cell in enumerate(cells)))
    simulate.main([str(folder), "--name", str(explored)])
    lines = (tmp_path / "explored.labels.csv").read_text().splitlines()
    kinds = obs["simulated_type"]
    common = [max(sorted(set(kinds[i::2])), key=list(kinds[i::2]).count) for i in (0, 1)]
    assert lines[:2] == ["# groups: explored.csv", "group,cell_type"]
    counts = [list(kinds[i::2]).count(lines[2 + i].split(",")[1]) for i in (0, 1)]
    assert counts == [list(kinds[i::2]).count(kind) for i, kind in enumerate(common)]
