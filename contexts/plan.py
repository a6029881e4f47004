"""The plan: what pruning did to every linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LinearPlan:
    """One linear layer after pruning.

    Attributes:
        sparsity: fraction of its weights that are zero or were removed.
        relative_error: squared output error on the calibration inputs over the squared output.
        damping: damping of the Hessian used, relative to its mean diagonal; None if the method used
            no Hessian.
        borrowed_tokens: how many tokens' worth of other experts' inputs its Hessian includes, for
            an expert that received fewer tokens than it has input features; otherwise 0.
        zeros_before: number of zeros before pruning; only counted by pruning with a mask.
        regrown: how many of these zeros became weights again.
    """

    sparsity: float
    relative_error: float
    damping: float | None = None
    borrowed_tokens: int = 0
    zeros_before: int = 0
    regrown: int = 0


@dataclass(frozen=True)
class Plan:
    """All pruned linear layers, and how they were pruned.

    Attributes:
        method: the pruning method.
        pattern: ``unstructured``, n:m such as ``2:4``, or the kind of unit that was removed.
        linears: by name.
        units: number of neurons, key/value groups, layers or experts before and after, the same in
            every block; None for pruning with a mask.
        kept_layers: indices of the original model's blocks that are left; None if all are.
    """

    method: str
    pattern: str
    linears: Mapping[str, LinearPlan] = field(repr=False)
    units: tuple[int, int] | None = None
    kept_layers: tuple[int, ...] | None = None
