"""What pruning did to every linear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LinearPlan:
    """One linear after pruning.

    Attributes:
        sparsity: share of its weights that are zero, or gone.
        relative_error: squared output error on the calibration text over the squared output.
        damping: what the solver added to the Hessian, relative to its mean diagonal; None if it
            used no Hessian.
        borrowed_tokens: tokens' worth of its fellow experts' inputs it was solved on beside its
            own, because it saw fewer than it has inputs; 0 for all but such experts.
        zeros_before: how many zeros it had; counted where a mask was made.
        regrown: how many of these are weights again.
    """

    sparsity: float
    relative_error: float
    damping: float | None = None
    borrowed_tokens: int = 0
    zeros_before: int = 0
    regrown: int = 0


@dataclass(frozen=True)
class Plan:
    """Every pruned linear by name, and how it was done.

    Attributes:
        units: how many neurons, key/value groups, layers or experts there were and are, in every
            block alike; None for a mask.
        kept_layers: the blocks of the dense model that are left, by their places there; None while
            all of them are.
    """

    method: str
    pattern: str
    linears: Mapping[str, LinearPlan] = field(repr=False)
    units: tuple[int, int] | None = None
    kept_layers: tuple[int, ...] | None = None
