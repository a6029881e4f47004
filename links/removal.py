"""How prune chooses the neurons and groups of a block that stay, and refits what they feed."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ..contexts.plan import LinearPlan
from ..errors import SettingError, SolverError
from ..models.hollowing import Fed, Kept
from ..models.linears import named
from ..models.narrowing import Narrowing
from ..models.sizes import Kind
from ..solvers.column_refit import refit_columns
from ..solvers.column_removal import keep_columns
from ..solvers.factor import factorize
from ..solvers.group_removal import keep_groups
from ..solvers.output_error import relative_output_error
from ..solvers.target import shifted_weight

# Quantize's own group size, so that its default still divides what is left.
_MULTIPLE = 64
_FEWEST_STEPS = 8


@dataclass(frozen=True)
class Removal:
    """What was asked of prune; called by the pass over the blocks.

    Attributes:
        matching: share of what earlier blocks changed that the survivors make up for.
        plans: filled as output linears are done.
    """

    change: Narrowing
    damping: float
    matching: float
    plans: dict[str, LinearPlan] = field(default_factory=dict)

    def __call__(self, fed: Fed) -> Kept:
        """The units that stay, and the output linear's weight refitted to them."""
        try:
            return self._solve(fed)
        except SolverError as error:
            raise named(fed.linear, error) from error

    def _solve(self, fed: Fed) -> Kept:
        factor = factorize(fed.gram, damping=self.damping)
        target = fed.weight
        if fed.missing is not None:
            target = shifted_weight(target, fed.missing, fed.gram, factor, share=self.matching)
        size = self.change.output.size // self.change.before
        if size == 1:
            units = keep_columns(target, factor, keep=self.change.after)
        else:
            units = keep_groups(target, factor, size=size, keep=self.change.after)
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


def units_left(kind: Kind, before: int, sparsity: float, multiple: int | None) -> int:
    """How many of ``before`` units stay: the multiple nearest to the share asked for.

    Raises:
        SettingError: that is none of them or all; with the nearest sizes that can be had.
    """
    step = multiple or default_multiple(kind, before)
    after = round((1 - sparsity) * before / step) * step
    if 1 <= after < before:
        return after
    legal = range(step, before, step)
    if not legal:
        raise SettingError(
            f"prune(pattern='{kind}', multiple={step}): every block has {before} {kind}, so no "
            f"smaller multiple of {step} is left; set multiple to less"
        )
    nearest = min(legal, key=lambda size: abs(size - (1 - sparsity) * before))
    raise SettingError(
        f"prune(pattern='{kind}', sparsity={sparsity:g}): of {before} {kind} in every block "
        f"{after} would stay; sizes are multiples of {step}, the nearest is {nearest}: set "
        f"sparsity to {1 - nearest / before:.4g}, or another multiple"
    )


def default_multiple(kind: Kind, before: int) -> int:
    """64 neurons, fewer where a block has few: the greatest power of two up to an eighth."""
    if kind == "groups":
        return 1
    step = _MULTIPLE
    while step > 1 and step * _FEWEST_STEPS > before:
        step //= 2
    return step
