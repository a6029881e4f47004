"""The scores: importance of every weight, linear layer and block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class LinearScore:
    """Summary of one linear layer's per-weight scores.

    Attributes:
        load: mean score of its weights, relative to the mean over the model (1 is average).
        outliers: fraction of its weights that score over five times the layer's mean (OWL,
            https://arxiv.org/abs/2310.05175); a high value means that pruning it costs more.
        num_weights: number of weights.
    """

    load: float
    outliers: float
    num_weights: int


@dataclass(frozen=True)
class Scores:
    """The result of the score link.

    Attributes:
        method: ``magnitude``, ``wanda``, ``sparsegpt`` or ``taylor``.
        linears: by name.
        blocks: load of each block: the mean over its linear layers, weighted by their size.
        weights: per-weight scores, float32 ``[out_features, in_features]`` by linear name; empty
            unless the link was asked to keep them.
    """

    method: str
    linears: Mapping[str, LinearScore] = field(repr=False)
    blocks: tuple[float, ...]
    weights: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
