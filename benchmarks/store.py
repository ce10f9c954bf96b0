"""Batches of random cells from disk: our mapped CSR beside AnnData .zarr stores read through annbatch.

    python benchmarks/store.py                 20,000 cells x 17,298 genes, about 1,100 seen in a cell, batches of 512

Needs annbatch, and so Python 3.12, but no torch. Prints cells a second and a processor second, and bytes on disk, each
of one pass over all cells, files warm. Ours takes any cell at any time; annbatch likewise (`in order`), or runs of 64
cells mixed 16,384 at a time (`shuffled`).
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from files import Cache
from reading.collection import Collection

GENES, SEEN, STORES = 17_298, 1_100, 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=512)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        parts = [cells(args.cells // STORES, seed) for seed in range(STORES)]
        mapped = Cache(folder / "cache").matrix("aligned", "store", (), lambda: parts)
        stores = [write(folder / f"{i}.zarr", part) for i, part in enumerate(parts)]
        collection = Collection(stores)
        order = np.random.default_rng(0).permutation(len(collection))
        ours = (mapped[order[start : start + args.batch]] for start in range(0, len(order), args.batch))
        print(f"{'way':<24}{'cells/s':>10}{'per processor s':>17}{'disk MB':>9}")
        tell("mapped CSR, any order", ours, len(order), folder / "cache")
        shuffled = (values for values, _ in collection.shuffled(args.batch, 0))
        tell("annbatch, shuffled", shuffled, len(order), *stores)
        tell("annbatch, in order", collection.in_order(order, args.batch), len(order), *stores)
    finally:
        shutil.rmtree(folder)
    return 0


def cells(count: int, seed: int) -> csr_matrix:
    """Random counts (N, G), as many seen in a cell as usual."""
    rng = np.random.default_rng(seed)
    columns = np.sort(rng.integers(0, GENES // SEEN, (count, SEEN)) + np.arange(SEEN) * (GENES // SEEN), axis=1)
    values = rng.geometric(0.6, columns.size).astype(np.float32)
    return csr_matrix((values, columns.ravel().astype(np.int32), np.arange(count + 1) * SEEN), (count, GENES))


def write(path: Path, values: csr_matrix) -> Path:
    """An AnnData store of these cells."""
    import anndata
    import pandas as pd

    var = pd.DataFrame(index=[f"Gene{gene}" for gene in range(GENES)])
    anndata.AnnData(values, var=var).write_zarr(path)
    return path


def tell(way: str, batches: Iterable[csr_matrix], count: int, *folders: Path) -> None:
    """Run through the batches and print a line of the table."""
    wall, processor = time.perf_counter(), time.process_time()
    seen = sum(batch.shape[0] for batch in batches)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    assert seen == count
    size = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    print(f"{way:<24}{count / wall:>10,.0f}{count / processor:>17,.0f}{size / 2**20:>9,.0f}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
