"""The labelled cells that labels are learnt from, as few as are needed: read from references, or kept of a query."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_matrix

from annotation import road
from reading import align
from reading.source import Source, shared_genes

CELLS = 6_000  # labelled cells that are learnt from, evenly over types: more take time and change little


@dataclass(frozen=True)
class Lessons:
    """Labelled cells by the dataset they are of, R in each; a dataset is centred on itself on its way to a query."""

    genes: list[str]  # S, in the order of the query they were read for
    parts: list[csr_matrix]  # (R, S) log1p each
    embeddings: list[np.ndarray]  # (R, H) each
    labels: list[np.ndarray]  # (R,) each
    truth: list[np.ndarray]  # (R,) each: what they are, as far as it is known, by which confidence is measured
    batch: np.ndarray  # (all R,) text: which dataset, and which batch or donor of it

    def of(self, genes: Sequence[str]) -> Lessons:
        """The same cells on those of their genes that another query has, in its order."""
        own = set(self.genes)
        shared = [gene for gene in genes if gene in own]
        if shared == self.genes:
            return self
        parts = [align.align(part, self.genes, shared) for part in self.parts]
        return replace(self, genes=shared, parts=parts)


def read(
    query: Source,
    references: Sequence[tuple[Source, np.ndarray]],
    batches: Sequence[np.ndarray] | None,
    embedder: Callable[[Source, csr_matrix, csr_matrix], np.ndarray],
    types: int,
    rng: np.random.Generator,
) -> Lessons:
    """At most so many labelled cells of each reference (dataset, labels (R,)), on the genes that all of them share.

    batches: of each reference what batch or donor its cells are of (R,), any values.
    """
    genes = shared_genes([query, *(source for source, _ in references)])
    most = max(types, CELLS // len(references))
    parts, embeddings, labels, batch = [], [], [], []
    for i, (source, known) in enumerate(references):
        rows = road.evenly(known, most, rng)
        counts = source.take(rows)
        log, empty = source.log(counts)
        parts.append(align.align(log[~empty], source.genes, genes))
        embeddings.append(embedder(source, counts[~empty], log[~empty]))
        labels.append(known[rows[~empty]])
        batch += [f"{i} {one}" for one in (batches[i][rows[~empty]] if batches else np.zeros(len(labels[-1])))]
    return Lessons(genes, parts, embeddings, labels, labels, np.array(batch))
