"""Small worlds for the tests: 12 genes, 40 cells a dataset, two species. Everything runs without a network."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and PyTorch are there: small worlds need no threads

import csv
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

import main
import utils
from reading.align import ORTHOLOG_FILE
from simulate import write_cellblast

torch.set_num_threads(1)

MOUSE = ["Actb", "Cd19", "Cd3e", "Gapdh", "Il7r", "Krt18", "Ms4a1", "Rpl3", "Rps6", "Slc2a1", "Trp53", "Znf10"]
HUMAN = [gene.upper() if gene != "Trp53" else "TP53" for gene in MOUSE]  # one ortholog has another name
SHARED = sorted(gene.upper() for gene in MOUSE)  # the vocabulary: mouse symbols, upper-cased
TYPES = ["B cell", "T cell", "epithelial cell"]
CELLS = 40

# Small runs: every flag a run of seconds needs, with the published meaning.
QUICK = "--recipe paper --offline --avg_cluster_num 10 --pt_epoch 3 --batch_num 4 --hid 8 --ft_epoch 4 --pca_dim 4"
QUICK = QUICK.split()


def draw(seed: int, cells: int = CELLS) -> tuple[csr_matrix, np.ndarray]:
    """Counts (N, 12) of three types that differ in four genes each, and the types (N,)."""
    rng = np.random.default_rng(seed)
    kinds = np.resize([0, 1, 2], cells)
    rate = np.full((3, 12), 0.6)
    for kind in range(3):
        rate[kind, 4 * kind : 4 * kind + 4] = 6.0
    counts = rng.poisson(rate[kinds] * rng.uniform(0.7, 1.4, (cells, 1)))
    return csr_matrix(counts.astype(np.float32)), np.array(TYPES)[kinds]


def write_dataset(path: Path, seed: int, genes: list[str], *, labelled: bool = True, cells: int = CELLS) -> Path:
    counts, types = draw(seed, cells)
    columns = {"cell_ontology_class": types} if labelled else {"batch": np.full(cells, "one")}
    write_cellblast(path, counts, genes, [f"cell{i}" for i in range(cells)], columns)
    return path


def write_catalogue(folder: Path, rows: list[tuple[str, str, str]]) -> None:
    with open(folder / "datasets.csv", "w", newline="") as file:
        csv.writer(file).writerows([("name", "species", "labelled"), *rows])


def write_orthologs(folder: Path, pairs: dict[str, str]) -> Path:
    """The published table's columns: a nameless index, lemur, human, mouse, a nameless last one."""
    path = folder / ORTHOLOG_FILE
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "mouse_lemur__gene_name", "human__gene_name", "mouse__gene_name", ""])
        for number, (human, mouse) in enumerate(pairs.items()):
            writer.writerow([number, f"LEMUR{number}", human, mouse, ""])
    return path


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "data"
    folder.mkdir()
    rng = np.random.default_rng(9)
    shuffled = [HUMAN[place] for place in rng.permutation(12)]
    write_dataset(folder / "Mouse_A.h5", 1, MOUSE)
    write_dataset(folder / "Mouse_B.h5", 2, MOUSE[::-1])
    write_dataset(folder / "Human_C.h5", 3, shuffled)
    write_dataset(folder / "Human_D.h5", 4, HUMAN, labelled=False)
    rows = [("Mouse_A", "mouse", "yes"), ("Mouse_B", "mouse", "yes")]
    write_catalogue(folder, [*rows, ("Human_C", "human", "yes"), ("Human_D", "human", "no")])
    write_orthologs(folder, dict(zip(HUMAN, MOUSE, strict=True)))
    return folder


@pytest.fixture
def corpus(template, tmp_path) -> Path:
    """A data folder with its catalogue, four datasets (one without labels) and the ortholog table."""
    return Path(shutil.copytree(template, tmp_path / "data"))


@pytest.fixture
def run(corpus, tmp_path):
    """Run main.py on the corpus with small settings; later flags override. Returns the exit code."""

    def run(*flags: object) -> int:
        places = ["--data_dir", corpus, "--save_model", tmp_path / "model.out"]
        places += ["--pretrained_model", tmp_path / "model.out", "--save_result", tmp_path / "result.out"]
        return main.main([str(flag) for flag in [*QUICK, *places, *flags]])

    return run


def cut_off(write, rows: int):
    """`write` of a table as a method that is interrupted after so many rows."""
    left = iter(range(rows))

    def written(table, row):
        if next(left, None) is None:
            raise KeyboardInterrupt
        write(table, row)

    return written


@contextmanager
def killed_after(monkeypatch, function: str):
    """Runs in the block end once utils.`function` (path, content) has written its file."""
    write = getattr(utils, function)

    def written(path, content):
        write(path, content)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(utils, function, written)
        yield
