"""Batches of cells straight from a collection of AnnData .zarr stores, by annbatch; nothing is copied first.

An optional way, for corpora that stay on object storage: annbatch needs Python 3.12 and is no requirement.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from reading.matrix import Unreadable

PRELOADED = 16_384  # cells fetched at once: 130 MB at 1,000 genes seen in a cell
RUN = 64  # cells that follow each other in a store and are fetched together where their order is left to chance


class Collection:
    """The cells of several stores, one after the other, as one matrix (N, G); all stores have the same genes.

    `node`: where in a store the values lie, "X" or "layers/counts". Raises Unreadable for a store without a CSR matrix
    there, or with other genes than the first; ImportError where batches are asked for without annbatch.
    """

    def __init__(self, stores: Sequence[Path], node: str = "X"):
        import zarr
        from anndata.io import read_elem, sparse_dataset

        self.parts, self.genes = [], []
        for path in stores:
            try:
                group = zarr.open(str(path), mode="r")
                part = sparse_dataset(group[node])
                table = group["var"]
                genes = [str(gene) for gene in read_elem(table[table.attrs["_index"]])]
            except (KeyError, ValueError, TypeError, OSError) as error:
                raise Unreadable(f"{path}: no CSR matrix at {node} of an AnnData store ({error})") from error
            if part.format != "csr":
                raise Unreadable(f"{path}: {node} is stored by genes ({part.format}); write it by cells (CSR)")
            if self.parts and genes != self.genes:
                raise Unreadable(f"{path}: its genes are not those of {stores[0]}; write the stores on shared genes")
            self.parts.append(part)
            self.genes = genes
        self.shape = sum(part.shape[0] for part in self.parts), len(self.genes)

    def __len__(self) -> int:
        return self.shape[0]

    def in_order(self, order: np.ndarray, size: int) -> Iterator[csr_matrix]:
        """The cells `order` (M,) as batches (B, G) of `size`, the last one smaller: what `matrix[order]` would hold."""
        yield from (values for values, _ in self._batches(_sampler(np.asarray(order), size)))

    def shuffled(self, size: int, seed: int) -> Iterator[tuple[csr_matrix, np.ndarray]]:
        """Every cell once: batches (B, G) of `size` and which rows they are (B,).

        Runs of 64 cells are drawn by chance and mixed 16,384 at a time: several times faster than single cells, and
        as good as chance where the stores were written in random order.
        """
        how = {"chunk_size": RUN, "preload_nchunks": PRELOADED // RUN, "batch_size": size, "shuffle": True}
        yield from self._batches(None, rng=np.random.default_rng(seed), **how)

    def _batches(self, sampler: Any, **how: Any) -> Iterator[tuple[csr_matrix, np.ndarray]]:
        from annbatch import Loader

        loader = Loader(batch_sampler=sampler, return_index=True, preload_to_gpu=False, to=None, **how)
        for part in self.parts:
            loader.add_dataset(part)
        for batch in loader:
            yield csr_matrix(batch["X"], dtype=np.float32), batch["index"]


def _sampler(order: np.ndarray, size: int) -> Any:
    """What hands annbatch the cells `order` (M,) as they come, in batches of `size`."""
    from annbatch.abc import Sampler

    class InOrder(Sampler):
        batch_size, shuffle = size, False

        def n_batches(self, n_obs: int) -> int:
            return -(-len(order) // size)

        def validate(self, n_obs: int) -> None:
            if len(order) and not 0 <= order.min() <= order.max() < n_obs:
                raise ValueError(f"rows {order.min():,} to {order.max():,} are asked for of {n_obs:,} cells")

        def _sample(self, n_obs: int) -> Iterator[dict[str, Any]]:
            step = max(1, PRELOADED // size) * size
            for start in range(0, len(order), step):
                wanted = order[start : start + step]
                places = np.arange(len(wanted))
                yield {"requests": wanted, "splits": [places[a : a + size] for a in range(0, len(wanted), size)]}

    return InOrder()
