"""A small valid file of every format: each maker gives what is read, and the files of it that may be damaged."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from reading import align, catalogue, cells  # noqa: E402

GENES = ["ACTB", "CD3E", "CD19", "MS4A1", "RPL3", "RPS6", "IL7R", "KRT18"]
CELLS = [f"AACGTACGTTAC{i:02d}-1" for i in range(20)]


def counts() -> np.ndarray:  # (20, 8) float32
    """A small table of counts."""
    return np.random.default_rng(0).poisson(1.0, (len(CELLS), len(GENES))).astype(np.float32)


def h5ad(folder: Path, packed: str | None = None) -> tuple[Path, list[Path]]:
    import anndata
    import pandas as pd
    from scipy.sparse import csr_matrix

    kinds = pd.Categorical(["B cell", "T cell"] * (len(CELLS) // 2))
    obs = pd.DataFrame({"cell_type": kinds, "n": np.arange(len(CELLS))}, index=CELLS)
    adata = anndata.AnnData(csr_matrix(counts()), obs=obs, var=pd.DataFrame(index=GENES))
    adata.layers["counts"] = counts()
    adata.write_h5ad(folder / "small.h5ad", compression=packed)
    return folder / "small.h5ad", [folder / "small.h5ad"]


def h5ad_gzip(folder: Path) -> tuple[Path, list[Path]]:
    return h5ad(folder, "gzip")


def h5mu(folder: Path) -> tuple[Path, list[Path]]:
    import h5py

    inner, _ = h5ad(folder)
    with h5py.File(folder / "small.h5mu", "w") as file, h5py.File(inner) as part:
        part.copy(part, file.create_group("mod"), name="rna")
    inner.unlink()
    return folder / "small.h5mu", [folder / "small.h5mu"]


def tenx(folder: Path) -> tuple[Path, list[Path]]:
    import h5py
    from scipy.sparse import csr_matrix

    matrix = csr_matrix(counts())
    with h5py.File(folder / "small.h5", "w") as file:
        group = file.create_group("matrix")
        for part in ("data", "indices", "indptr"):
            group.create_dataset(part, data=getattr(matrix, part).astype("i8"), compression="gzip")
        group["shape"] = np.array(matrix.shape[::-1])
        group["barcodes"] = np.array(CELLS, "S")
        for part, values in {"id": [f"ENSG{i:011d}" for i in range(len(GENES))], "name": GENES}.items():
            group[f"features/{part}"] = np.array(values, "S")
        group["features/feature_type"] = np.array(["Gene Expression"] * len(GENES), "S")
    return folder / "small.h5", [folder / "small.h5"]


def loom(folder: Path) -> tuple[Path, list[Path]]:
    import h5py

    with h5py.File(folder / "small.loom", "w") as file:
        file.create_dataset("matrix", data=counts().T, compression="gzip")
        file["row_attrs/Gene"] = np.array(GENES, "S")
        file["col_attrs/CellID"] = np.array(CELLS, "S")
        file["col_attrs/cell_type"] = np.array(["B", "T"] * (len(CELLS) // 2), "S")
    return folder / "small.loom", [folder / "small.loom"]


def cellblast(folder: Path) -> tuple[Path, list[Path]]:
    from scipy.sparse import csr_matrix

    from simulate import write_cellblast

    types = {"cell_ontology_class": np.array(["B", "T"] * (len(CELLS) // 2))}
    write_cellblast(folder / "small.h5", csr_matrix(counts()), GENES, CELLS, types)
    return folder / "small.h5", [folder / "small.h5"]


def table(folder: Path) -> tuple[Path, list[Path]]:
    lines = [",".join(["", *GENES])]
    lines += [",".join([cell, *(f"{value:g}" for value in row)]) for cell, row in zip(CELLS, counts(), strict=True)]
    (folder / "small.csv").write_text("\n".join(lines) + "\n")
    return folder / "small.csv", [folder / "small.csv"]


def table_gz(folder: Path) -> tuple[Path, list[Path]]:
    plain, _ = table(folder)
    path = folder / "small.csv.gz"
    path.write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    plain.unlink()
    return path, [path]


def mtx(folder: Path) -> tuple[Path, list[Path]]:
    from scipy.io import mmwrite
    from scipy.sparse import csc_matrix

    inside = folder / "small"
    inside.mkdir()
    mmwrite(inside / "matrix.mtx", csc_matrix(counts().T.astype(int)))
    rows = [f"ENSG{i:011d}\t{gene}\tGene Expression\n" for i, gene in enumerate(GENES)]
    (inside / "features.tsv").write_text("".join(rows))
    (inside / "barcodes.tsv").write_text("".join(f"{cell}\n" for cell in CELLS))
    parts = [inside / "matrix.mtx", inside / "features.tsv", inside / "barcodes.tsv"]
    return inside, [parts[0], *parts]  # the matrix twice as often


def mtx_gz(folder: Path) -> tuple[Path, list[Path]]:
    inside, parts = mtx(folder)
    for path in parts[1:]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        path.unlink()
    return inside, [path.with_name(f"{path.name}.gz") for path in parts]


def npy(folder: Path) -> tuple[Path, list[Path]]:
    inside = folder / "small"
    inside.mkdir()
    np.save(inside / "feature.npy", counts())
    np.save(inside / "gene_list.npy", np.array(GENES))
    np.save(inside / "label.npy", np.array(["B", "T"] * (len(CELLS) // 2)))
    return inside, [inside / f"{part}.npy" for part in ("feature", "gene_list", "label")]


def orthologs(folder: Path) -> tuple[Path, list[Path]]:
    path = folder / "small.csv"
    rows = "".join(f"{i},{gene},{gene.title()}\n" for i, gene in enumerate(GENES))
    path.write_text(f",{align.HUMAN_COLUMN},{align.MOUSE_COLUMN}\n{rows}")
    return path, [path]


def datasets(folder: Path) -> tuple[Path, list[Path]]:
    inside = folder / "small"
    inside.mkdir()
    path = inside / "datasets.csv"
    path.write_text("name,species,labelled\nMouse_A,mouse,yes\nHuman_B,human,no\nMouse_C,mouse,yes\n")
    return inside, [path]


def results(folder: Path) -> tuple[Path, list[Path]]:
    import utils

    for seed in range(4):
        row = {"dataset": "a", "arm": "scratch", "seed": seed, "accuracy": 0.5, "run": "x"}
        utils.write_result(folder / "small.csv", row)
    return folder / "small.csv", [folder / "small.csv"]


def zarr(folder: Path, version: int = 2) -> tuple[Path, list[Path]]:
    import warnings

    import anndata

    path, _ = h5ad(folder)
    adata = anndata.read_h5ad(path)
    path.unlink()
    with warnings.catch_warnings(), anndata.settings.override(zarr_write_format=version):
        warnings.simplefilter("ignore")
        adata.write_zarr(folder / "small.zarr")
    parts = (part for part in (folder / "small.zarr").rglob("*") if part.is_file())
    return folder / "small.zarr", sorted(part for part in parts if part.stat().st_size > 2)


def checkpoint(folder: Path) -> tuple[Path, list[Path]]:
    import utils

    utils.save_checkpoint(folder / "small.out", _made())
    return folder / "small.out", [folder / "small.out"]


def _made():
    import torch

    import utils
    from model import Encoder

    torch.manual_seed(0)
    return utils.Checkpoint(Encoder(40, 8), [f"G{i}" for i in range(40)], settings={"hid": 8}, history=[0.5], run="a")


def read_checkpoint(path: Path) -> None:
    """What loads must be what was saved."""
    import utils

    found, right = utils.load_checkpoint(path), _made()
    assert found.identity() == right.identity(), "other weights or genes"
    assert (found.settings, found.history, found.run) == (right.settings, right.history, right.run), "another story"


def state(folder: Path) -> tuple[Path, list[Path]]:
    import utils

    utils.save_state(folder / "small.state", {"identity": "a", "model": _made().encoder.state_dict(), "epoch": 2})
    return folder / "small.state", [folder / "small.state"]


def read_state(path: Path) -> None:
    import utils

    found, right = utils.load_state(path, "a"), _made().encoder.state_dict()
    assert found and found["epoch"] == 2, "another epoch"
    assert all((found["model"][name] == value).all() for name, value in right.items()), "other weights"


KEY = ("cache", "small", (1,))


def entry(folder: Path) -> tuple[Path, list[Path]]:
    from files import Cache

    made = folder / "small"
    Cache(made).arrays(*KEY, lambda: {"counts": counts()})
    return made, sorted(path for path in made.rglob("*") if path.is_file() and path.stat().st_size)


def read_entry(path: Path) -> None:
    """A damaged entry is made again."""
    from files import Cache

    found = Cache(path).arrays(*KEY, lambda: {"counts": counts()})
    assert (found["counts"] == counts()).all(), "other numbers"


def labels(folder: Path) -> tuple[Path, list[Path]]:
    rows = "".join(f"{cell},{'T cell' if i % 2 else 'B cell'}\n" for i, cell in enumerate(CELLS))
    (folder / "small.csv").write_text(f"# groups of a.h5ad\ncell,cell_type\n{rows}")
    return folder / "small.csv", [folder / "small.csv"]


def read_labels(path: Path) -> None:
    from annotation import given_labels

    given_labels.read(path)


def markers(folder: Path) -> tuple[Path, list[Path]]:
    (folder / "small.csv").write_text("type,gene,sign\nT cell,CD3E,1\nT cell,CD19,-1\nB cell,CD19,1\nB cell,MS4A1,1\n")
    return folder / "small.csv", [folder / "small.csv"]


def read_markers(path: Path) -> None:
    from annotation import marker_labels

    marker_labels.read(path, {"CD3E": "Cd3e"})


def read_results(path: Path) -> None:
    import utils

    utils.read_results(path)


def read_cells(path: Path) -> None:
    """Everything that a run reads of a dataset: whole, its matrices, its rows, its columns."""
    cells.read(path)
    for which in cells.matrices(path).values():
        with cells.open_rows(path, **which) as rows:
            rows.sample(10)
            for _ in rows.blocks(7):
                pass
            for key in rows.columns:
                rows.column(key)
            rows.labels()


FORMATS: dict[str, tuple[Callable, Callable]] = {
    "h5ad": (h5ad, read_cells),
    "h5ad gzip": (h5ad_gzip, read_cells),
    "10x h5": (tenx, read_cells),
    "loom": (loom, read_cells),
    "cellblast": (cellblast, read_cells),
    "h5mu": (h5mu, read_cells),
    "csv": (table, read_cells),
    "csv.gz": (table_gz, read_cells),
    "mtx folder": (mtx, read_cells),
    "mtx.gz folder": (mtx_gz, read_cells),
    "npy folder": (npy, read_cells),
    "zarr": (zarr, read_cells),
    "checkpoint": (checkpoint, read_checkpoint),
    "state": (state, read_state),
    "cache": (entry, read_entry),
    "labels": (labels, read_labels),
    "markers": (markers, read_markers),
    "ortholog table": (orthologs, align.read_orthologs),
    "catalogue": (datasets, catalogue.read_catalogue),
    "result table": (results, read_results),
}
