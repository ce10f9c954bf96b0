"""Damage small valid files of every format and read them: each loads, or ends in our own error that names the file.

Run: python tests/faults/campaign.py --cases 10000   (prints a table by format; exit 1 where a case was unclean)
"""

from __future__ import annotations

import argparse
import gzip
import queue
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from reading import align, catalogue, cells  # noqa: E402

LIMIT_SECONDS = 10  # a case
LIMIT_BYTES = 4 << 30  # of address space for the child: 2 GB of data beside what the libraries map
GENES = ["ACTB", "CD3E", "CD19", "MS4A1", "RPL3", "RPS6", "IL7R", "KRT18"]
CELLS = [f"AACGTACGTTAC{i:02d}-1" for i in range(20)]
CRASHES = ("h5ad", "h5ad gzip", "10x h5", "loom", "cellblast", "h5mu", "mtx folder", "mtx.gz folder")


def counts() -> np.ndarray:  # (20, 8) float32
    """A small table of counts."""
    return np.random.default_rng(0).poisson(1.0, (len(CELLS), len(GENES))).astype(np.float32)


# -- one small valid file a format: each maker returns what is read and the files that may be damaged


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
    "ortholog table": (orthologs, align.read_orthologs),
    "catalogue": (datasets, catalogue.read_catalogue),
    "result table": (results, read_results),
}


# -- damage


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The bytes with some bits turned, a stretch set to zero, overwritten, cut out or doubled, or the end cut off."""
    at, kind = chance.randrange(len(data)), chance.randrange(7)
    length = chance.choice((1, 2, 4, 8, 64, 512))
    if kind < 2:
        changed = bytearray(data)
        for _ in range(1 if kind == 0 else 8):
            changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(changed)
    middle = {2: b"\0" * length, 3: chance.randbytes(length), 4: data[at : at + length] * 2, 5: b"", 6: b""}[kind]
    return data[:at] + middle + (b"" if kind == 6 else data[at + length :])


def cases(kind: str, folder: Path, numbers: range) -> Iterator[tuple[int, str]]:
    """(number, verdict) of each case: "loads", "refused", or what was unclean; the same for the same number."""
    make, read = FORMATS[kind]
    path, parts = make(folder)
    whole = {part: part.read_bytes() for part in parts}
    read(path)  # as it is, it must load
    for number in numbers:
        chance = random.Random(f"{kind} {number}")
        part = chance.choice(parts)
        part.unlink()
        part.write_bytes(damaged(whole[part], chance))
        yield number, verdict(read, path)
        part.write_bytes(whole[part])


def verdict(read: Callable, path: Path) -> str:
    """What became of one file."""
    start = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
        found = "loads"
    except (ValueError, OSError) as error:
        ours = type(error).__module__ in ("reading.matrix", "builtins")
        found = "refused" if ours and path.stem in str(error) else f"not ours: {type(error).__name__}: {error}"
    except Exception as error:
        found = f"escaped: {type(error).__name__}: {error}"
    slow = time.monotonic() - start > LIMIT_SECONDS
    return "slow" if slow else " ".join(found.split())[:300]


# -- many cases in children, each of which may die


def in_child(kind: str, numbers: range, folder: Path) -> Iterator[tuple[int, str]]:
    """As `cases`, in child processes: where one dies or hangs, that case is told and the next child goes on."""
    at = numbers.start
    while at < numbers.stop:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        words = [sys.executable, __file__, "--child", kind, str(at), str(numbers.stop), str(folder)]
        child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_lines_of, args=(child, lines), daemon=True).start()
        wait = 60.0  # the first line waits for the imports
        while at < numbers.stop:
            try:
                line = lines.get(timeout=wait)
            except queue.Empty:
                line = "hangs"
            number, _, said = line.partition(" ")
            if number.isdigit():
                yield int(number), said
                at, wait = int(number) + 1, LIMIT_SECONDS + 5.0
                continue
            child.kill()
            yield at, "hangs" if line == "hangs" else f"crash: the process ended with {child.wait()}"
            at += 1
            break
        child.kill()
        child.wait()


def _lines_of(child: subprocess.Popen, lines: queue.Queue) -> None:
    for line in child.stdout or ():
        lines.put(line.rstrip("\n"))
    lines.put("")


def _child(kind: str, first: str, stop: str, folder: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number, said in cases(kind, Path(folder), range(int(first), int(stop))):
        print(number, said, flush=True)


def clean(said: str) -> bool:
    return said in ("loads", "refused")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000, help="of all formats together")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each format")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.child:
        _child(*words.child)
        return 0
    each, unclean = -(-words.cases // len(words.formats)), 0
    print("| format | cases | load | refused | unclean |\n|---|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for kind in words.formats:
            found = list(in_child(kind, range(words.first, words.first + each), Path(folder) / "cases"))
            bad = [(number, said) for number, said in found if not clean(said)]
            tally = Counter(said for _, said in found)
            print(f"| {kind} | {len(found)} | {tally['loads']} | {tally['refused']} | {len(bad)} |", flush=True)
            for number, said in bad:
                print(f"{kind} {number}: {said}", file=sys.stderr, flush=True)
            unclean += len(bad)
    return 1 if unclean else 0


if __name__ == "__main__":
    sys.exit(main())
