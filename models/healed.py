"""What a training of a light model leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Healed:
    """What training led to.

    Attributes:
        weights: what was trained, by checkpoint name, each laid out and in the dtype as stored.
        steps: of the optimiser.
        trained_parameters: values that could move.
        curves: losses in the order they came, by name.
    """

    weights: Mapping[str, Tensor]
    steps: int
    trained_parameters: int
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
