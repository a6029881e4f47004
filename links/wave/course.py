"""How much a wave removes: a fraction of the remaining model, less in the last one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import SettingError
from ...models.evaluation.footprint import Footprint, Measure
from .cuts import Cut, Cutter

# A model this little above its target has reached it: linears lose whole weights.
_NEAR = 1e-3
# Halvings of an interval within (0, 1): finer than one weight of any model.
_HALVINGS = 50
_ALL = 1 - 1e-12
# A fraction so small that units lose one step in size.
_LEAST = 1e-9


@dataclass(frozen=True)
class Course:
    """The way from the original model to the target.

    Attributes:
        dense: footprint of the original model.
        measure: what the target is a fraction of.
        target: fraction of the original model to keep; None for as small as possible.
    """

    dense: Footprint
    measure: Measure
    target: float | None

    def left(self, weight: Footprint) -> float:
        """The fraction of the original model that remains."""
        return weight.share_of(self.dense)[self.measure]

    def reached(self, cutter: Cutter) -> bool:
        """Whether there is a target and no smaller size of this model is nearer to it."""
        if self.target is None:
            return False
        if self.left(cutter.weight) <= self.target + _NEAR:
            return True
        smaller = cutter.cut(_LEAST)
        return smaller is not None and self._off(smaller.weight) > self._off(cutter.weight)

    def _off(self, weight: Footprint) -> float:
        """The distance of a model from the target."""
        return 0.0 if self.target is None else abs(self.left(weight) - self.target)

    def cut(self, cutter: Cutter, fraction: float) -> Cut | None:
        """The next wave's cut: the fraction given, or less if that is nearer to the target.

        Masks reach the target exactly, units with the nearest size. None if the target is reached
        or there is no smaller size.
        """
        cut = None if self.reached(cutter) else cutter.cut(fraction)
        if cut is None or self.target is None or self.left(cut.weight) >= self.target:
            return cut
        low, high = 0.0, fraction
        above: Cut | None = None
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            tried = cutter.cut(middle)
            if tried is not None and self.left(tried.weight) <= self.target:
                high, cut = middle, tried
            else:
                low, above = middle, tried
        both = (cut,) if above is None else (cut, above)
        return min(both, key=lambda each: self._off(each.weight))

    def require_reachable(self, cutter: Cutter) -> None:
        """Refuse a target that cannot be reached.

        Raises:
            SettingError: with the nearest fraction that can be reached.
        """
        if self.target is None:
            return
        least_cut = cutter.cut(_ALL)
        least = self.left(cutter.weight if least_cut is None else least_cut.weight)
        if self.target >= least - _NEAR:
            self._require_nearer(cutter)
            return
        raise SettingError(
            f"waves(target={self.target}, of='{self.measure}') cannot be reached in sizes the "
            f"model can have: when the body's prune links remove all they can, {least:.1%} of the "
            f"{self.measure} remain (a mask saves neither bytes nor flops); set target to "
            f"{math.ceil(least * 1e4) / 1e4:.4f} or more, or prune by another pattern"
        )

    def _require_nearer(self, cutter: Cutter) -> None:
        """Refuse a target that the input model is nearest to, although it is above it."""
        smaller = cutter.cut(_LEAST)
        above = self.left(cutter.weight) - (self.target or 0.0) > _NEAR
        if smaller is None or not above or not self.reached(cutter):
            return
        raise SettingError(
            f"waves(target={self.target}, of='{self.measure}') is nearer to the model as it is, at "
            f"{self.left(cutter.weight):.1%} of the {self.measure}, than to the next smaller size "
            f"it can have: set target to {self.left(smaller.weight):.4f} or less"
            + (", or a smaller multiple in prune" if cutter.in_steps else "")
        )
