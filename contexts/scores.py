"""How much load each weight, linear and block carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class LinearScore:
    """One linear's per-weight scores, reduced.

    Attributes:
        load: the mean score of a weight, over the model's mean (1 is average).
        outliers: share of weights scoring over five times their linear's mean (OWL,
            https://arxiv.org/abs/2310.05175); high where pruning hurts most.
        num_weights: how many weights the linear has.
    """

    load: float
    outliers: float
    num_weights: int


@dataclass(frozen=True)
class Scores:
    """What the score link found.

    Attributes:
        method: ``magnitude``, ``wanda``, ``sparsegpt`` or ``taylor``.
        linears: by name.
        blocks: the load of each block, mean of its linears' weighted by their size.
        weights: per-weight scores ``[out_features, in_features]`` float32 by linear name; empty
            unless the link was told to keep them.
    """

    method: str
    linears: Mapping[str, LinearScore] = field(repr=False)
    blocks: tuple[float, ...]
    weights: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
