"""Choosing the units of a block to keep, and refitting linears around what was removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...contexts.plan import LinearPlan
from ...errors import SolverError
from ...models.blocks.linears import named
from ...models.units.narrowing import Narrowing
from ...models.units.remove_units import Kept
from ...models.units.residuals import Fed
from ...solvers.column_removal import keep_columns, keep_groups, refit_columns
from ...solvers.factor import Factor, factorize
from ...solvers.output_error import relative_output_error
from ...solvers.target import compensated_weight
from .plans import Planning


@dataclass(frozen=True)
class Removal(Planning):
    """Chooses the units to keep and refits the output linear; called by the block pass.

    Attributes:
        matching: fraction of the upstream error that the kept columns correct.
        losses: what the loss loses with each unit of an output linear, float32 [units], by name;
            of other linears, units stay whose outputs the others can replace least.
        plans: the record of each output linear, filled as they are done.
    """

    change: Narrowing
    damping: float
    matching: float
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    plans: dict[str, LinearPlan] = field(default_factory=dict)

    def __call__(self, fed: Fed) -> Kept:
        """The units to keep, and the weight of the output linear refitted to them."""
        try:
            return self._solve(fed)
        except SolverError as error:
            raise named(fed.linear, error) from error

    def _solve(self, fed: Fed) -> Kept:
        factor = factorize(fed.gram, damping=self.damping)
        target = fed.weight
        if fed.missing is not None:
            target = compensated_weight(
                target, fed.missing, fed.gram, factor, matching=self.matching
            )
        size = self.change.output.size // self.change.before
        units = self._units(fed, target, factor, size)
        within = torch.arange(size, device=units.device)
        columns = (units.unsqueeze(1) * size + within).flatten()
        fitted = refit_columns(target, fed.gram, factor, columns)
        self.plans[fed.linear.name] = LinearPlan(
            sparsity=1 - self.change.after / self.change.before,
            relative_error=relative_output_error(fed.weight, fitted.weight, fed.gram),
            damping=fitted.damping,
            borrowed_tokens=fed.gram.num_borrowed,
        )
        return Kept(units, fitted.weight)

    def _units(self, fed: Fed, target: Tensor, factor: Factor, size: int) -> Tensor:
        """The units to keep, int64 ascending; ``size`` columns each."""
        losses, keep = self.losses.get(fed.linear.name), self.change.after
        if losses is not None:
            return losses.to(target.device).topk(keep).indices.sort().values
        if size == 1:
            return keep_columns(target, factor, keep=keep)
        return keep_groups(target, factor, size=size, keep=keep)


@dataclass(frozen=True)
class Bridging(Planning):
    """Refits a linear so that its output compensates for what was removed elsewhere.

    Attributes:
        matching: fraction of the missing output that it compensates (0 = none, 1 = all).
        plans: the record of each linear, filled as they are done.
    """

    damping: float
    matching: float
    plans: dict[str, LinearPlan] = field(default_factory=dict)

    def __call__(self, fed: Fed) -> Tensor:
        """The linear's new weight ``[out_features, in_features]``."""
        if fed.missing is None:
            return fed.weight
        try:
            factor = factorize(fed.gram, damping=self.damping)
            bridged = compensated_weight(
                fed.weight, fed.missing, fed.gram, factor, matching=self.matching
            )
            moved = relative_output_error(fed.weight, bridged, fed.gram)
        except SolverError as error:
            raise named(fed.linear, error) from error
        self.plans[fed.linear.name] = LinearPlan(0.0, moved, factor.damping)
        return bridged
