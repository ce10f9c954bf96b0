"""What is asked of one annotation, and which wishes do not go together; light, so that a wrong flag is told at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from annotation.given_labels import Given
    from annotation.marker_labels import Markers

GROUPS = 20  # that --explore makes, unless told otherwise: so many names are given in a quarter of an hour


@dataclass(frozen=True)
class Wishes:
    """What is asked of one annotation; each field is the flag of its name. Raises ValueError for what cannot be."""

    reference: Sequence[Path | str] = ()  # labelled datasets to learn from
    label_key: str | None = None
    batch_key: str | None = None  # of the references: whole batches or donors are held out to set limits
    unlabeled: Sequence[str] = ()  # labels that mean a cell has none
    labels: Given | Path | None = None  # of a file of their own; the path until it is read
    markers: Markers | Path | None = None  # genes by which to find sure cells of each type; likewise
    embed_only: bool = False
    explore: int = 0  # groups to be named; 0: none
    unknown: float | None = None  # share of known cells that may be called Unknown; None: no cell is
    consensus: bool = True
    suggest: int = 0
    umap: bool = True
    probabilities: bool = False
    gene_list: Path | None = None
    force: bool = False
    seed: int = 0
    labeller: Path | None = None  # what was learnt before
    save_labeller: Path | None = None
    shard: tuple[int, int] | None = None  # (i, n): the i-th of n shares, from 1
    merge: Sequence[Path] | None = None  # the parts to join; none named: those beside the .h5ad

    def __post_init__(self) -> None:
        for name, usual in (("explore", GROUPS), ("unknown", 0.05)):
            if getattr(self, name) is True:  # in a notebook, like the flag without a number
                object.__setattr__(self, name, usual)
        if self.unknown is not None and not 0 <= self.unknown < 1:
            raise ValueError(f"--unknown is a share of cells, from 0 to below 1, not {self.unknown}")
        for name in ("suggest", "seed", "explore"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} must not be negative, it is {getattr(self, name)}")
        for name in ("explore", "embed_only"):
            if getattr(self, name) and (self.unknown or self.probabilities):
                other = "--unknown" if self.unknown else "--probabilities"
                raise ValueError(f"--{name} gives no labels: leave it out, or leave {other} out")
        if self.unknown and self.markers is not None:
            raise ValueError(
                "--unknown learns what is strange from ordinary labelled cells; the sure cells that --markers finds "
                "are purer than others: leave --unknown out"
            )
        if self.batch_key and not len(self.reference):
            raise ValueError("--batch_key is a column of the references: name a --reference, or leave it out")
        own = "says what the query's own cells are"
        clashes = {
            "embed_only": "gives no labels" if self.embed_only else "",
            "explore": "gives no labels" if self.explore else "",
            "labels": own if self.labels is not None else "",
            "markers": own if self.markers is not None else "",
        }
        for name, why in clashes.items():
            if why and len(self.reference):
                raise ValueError(f"--{name} {why}: leave it out, or leave --reference out")
        if self.embed_only and self.explore:
            raise ValueError("--embed_only makes no groups, and --explore does: leave one of them out")
        for name in ("labels", "markers"):
            if self.embed_only and getattr(self, name) is not None:
                raise ValueError(f"--embed_only gives no labels: leave it out, or leave --{name} out")
        self._refuse_beside_labeller()
        if self.labels is not None and self.markers is not None and not self.explore:
            raise ValueError("--labels and --markers both say what cells are: leave one of them out")

    def _refuse_beside_labeller(self) -> None:
        """A labeller from a file brings all that it was learnt by; and one can only be saved where types are learnt."""
        brought = ("reference", "labels", "markers", "explore", "embed_only", "unknown", "gene_list", "seed")
        if self.labeller is not None and (asked := [name for name in brought if getattr(self, name)]):
            raise ValueError(f"--labeller says how cells are labelled, --{asked[0]} too: leave one of them out")
        for name in ("explore", "embed_only"):
            if self.save_labeller is not None and getattr(self, name):
                raise ValueError(f"--{name} learns no types: leave it out, or leave --save_labeller out")
        if self.shard is not None and self.merge is not None:
            raise ValueError("--shard labels a part and --merge joins parts: leave one of them out")

    @property
    def typed(self) -> bool:
        """Whether cells get types."""
        return not (self.embed_only or self.explore)

    @property
    def all_types(self) -> bool:
        """Whether the probability of every type is needed to the end: clusters may turn a cell to any of them."""
        return self.consensus or self.probabilities
