"""Solving the masks of the linears on one input: stacked, with one factorisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ...contexts.plan import LinearPlan
from ...contexts.scores import Scores
from ...errors import SolverError
from ...models.blocks.linears import Linear, named
from ...models.passes.stacking import stacked
from ...solvers.gram import Gram
from ...solvers.least_squares import refit
from ...solvers.masks import Pattern, pattern_mask
from ...solvers.normalized import Normalized, Resolvent, Spectrum
from ...solvers.output_error import relative_output_errors
from ...solvers.regrowth import limit_regrowth, num_regrown
from ...solvers.results import PrunedWeight
from ...solvers.table import PREPARE, PRUNERS
from ...solvers.target import target_shift
from .plans import Planning
from .settings import PruneMethod


@dataclass(frozen=True)
class Thinning(Planning):
    """Solves the masks and values of the linears on one input; called by the block pass.

    Attributes:
        sparsities: sparsity of every linear by name.
        scores: per-weight scores, for method "scores".
        polish: conjugate-gradient steps on the values of the mask.
        matching: fraction of the upstream error each linear corrects.
        regrow: maximum fraction of a linear's zeros that may regrow.
        plans: the record of each linear, filled as linears are done.
    """

    method: PruneMethod
    pattern: Pattern
    sparsities: Mapping[str, float]
    scores: Scores
    damping: float
    polish: int
    matching: float
    regrow: float = 1.0
    plans: dict[str, LinearPlan] = field(default_factory=dict)

    def __call__(
        self, weights: Sequence[tuple[Linear, Tensor]], gram: Gram
    ) -> Mapping[Linear, Tensor]:
        """The pruned weight of each linear, [out_features, in_features]."""
        prepared: Any = None
        solved: dict[Linear, Tensor] = {}
        for stack in self._stacks(weights):
            whole = stacked(stack)
            try:
                if prepared is None and self.method in PREPARE:
                    prepared = PREPARE[self.method](gram, damping=self.damping)
                solved.update(self._solve(stack, whole, gram, prepared))
            except SolverError as error:
                raise named(stack[0][0], error) from error
        return solved

    def _stacks(
        self, weights: Sequence[tuple[Linear, Tensor]]
    ) -> list[list[tuple[Linear, Tensor]]]:
        """Linears solved together: those of equal sparsity, unless each has its own scores."""
        if self.method == "scores":
            return [[each] for each in weights]
        stacks: dict[float, list[tuple[Linear, Tensor]]] = {}
        for linear, weight in weights:
            stacks.setdefault(self.sparsities[linear.name], []).append((linear, weight))
        return list(stacks.values())

    def _solve(
        self, stack: Sequence[tuple[Linear, Tensor]], whole: Tensor, gram: Gram, prepared: Any
    ) -> dict[Linear, Tensor]:
        linears = [linear for linear, _ in stack]
        heights = [weight.shape[0] for _, weight in stack]
        sparsity = self.sparsities[linears[0].name] if self.pattern.n_of_m is None else None
        if self.method == "scores":
            thinned = self._by_scores(linears[0], whole, gram, sparsity)
        else:
            thinned = PRUNERS[self.method](
                whole,
                gram,
                sparsity=sparsity,
                pattern=self.pattern,
                heights=heights,
                factor=prepared,
                matching=self.matching,
            )
        if self.polish:
            thinned = self._polished(whole, thinned, gram, heights, prepared)
        if self.regrow < 1:
            thinned = self._limited(whole, thinned, gram, heights, prepared)
        fresh = dict(zip(linears, thinned.weight.split(heights), strict=True))
        found = zip(stack, thinned.mask.split(heights), thinned.relative_errors, strict=True)
        for (linear, weight), mask, error in found:
            self.plans[linear.name] = LinearPlan(
                sparsity=1 - float(mask.double().mean()),
                relative_error=error,
                damping=thinned.damping,
                borrowed_tokens=gram.num_borrowed,
                zeros_before=int((weight == 0).sum()),
                regrown=num_regrown(weight, fresh[linear]),
            )
        return fresh

    def _by_scores(
        self, linear: Linear, weight: Tensor, gram: Gram, sparsity: float | None
    ) -> PrunedWeight:
        """Remove the weights with the lowest scores; the kept weights are unchanged."""
        values = self.scores.weights[linear.name].to(weight.device)
        mask = pattern_mask(values, sparsity=sparsity, pattern=self.pattern)
        thinned = weight.masked_fill(~mask, 0.0)
        errors = relative_output_errors(weight, thinned, gram, heights=(len(weight),))
        return PrunedWeight(thinned, mask, errors)

    def _polished(
        self,
        weight: Tensor,
        thinned: PrunedWeight,
        gram: Gram,
        heights: Sequence[int],
        prepared: Any,
    ) -> PrunedWeight:
        fitted = refit(
            weight,
            thinned.mask,
            gram,
            start=thinned.weight,
            shift=target_shift(weight, gram, matching=self.matching),
            steps=self.polish,
            normalized=_normalized(prepared),
            damping=self.damping,
        )
        errors = relative_output_errors(weight, fitted, gram, heights=heights)
        return replace(thinned, weight=fitted, relative_errors=errors)

    def _limited(
        self,
        weight: Tensor,
        thinned: PrunedWeight,
        gram: Gram,
        heights: Sequence[int],
        prepared: Any,
    ) -> PrunedWeight:
        return limit_regrowth(
            weight,
            thinned,
            gram,
            limit=self.regrow,
            heights=heights,
            shift=target_shift(weight, gram, matching=self.matching),
            normalized=_normalized(prepared),
            damping=self.damping,
        )


def _normalized(prepared: Any) -> Normalized | None:
    """A method's factorisation in the form that least squares uses, if it has one."""
    return prepared.normalized if isinstance(prepared, Resolvent | Spectrum) else None
