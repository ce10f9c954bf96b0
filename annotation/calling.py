"""How what a cell is measured by becomes probabilities of types: plain arrays, so that it can be saved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from annotation import road
from stages import classify


@dataclass(frozen=True)
class Calling:
    """From a cell's features, or from the logits that its genes gave already, to probabilities of all L types."""

    bias: np.ndarray  # (L',)
    present: np.ndarray  # (L',) the types that have a logit
    types: int  # L
    slopes: np.ndarray | None = None  # (D, L') from features to logits; None: the logits are there

    @staticmethod
    def of(model: classify.PointClassifier) -> Calling:
        """The regression that labels of the query itself were learnt with; of two types it has one column."""
        slopes, bias = model.model.coef_.T, model.model.intercept_
        if slopes.shape[1] == 1:
            slopes, bias = np.hstack([-slopes, slopes]) / 2, np.concatenate([-bias, bias]) / 2
        return Calling(bias, model.model.classes_, model.types, slopes)

    def __call__(self, features: np.ndarray, logits: np.ndarray | None = None) -> np.ndarray:
        """Features (B, D), or logits without bias (B, L') -> probabilities (B, L)."""
        logits = logits if self.slopes is None else features @ self.slopes
        return road.of_logits(logits + self.bias, self.present, self.types)
