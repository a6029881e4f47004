"""How much a wave takes: its share of what remains, the last one cut to hit the target."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SettingError
from ..models.footprint import Footprint, Measure

# A model this near above its target is at it: linears lose whole weights.
_NEAR = 1e-3
# Halvings of an interval within (0, 1): finer than one weight of any model.
_HALVINGS = 50


@dataclass(frozen=True)
class Course:
    """From the dense model to the target.

    Attributes:
        dense: what shares are shares of.
        measure: what the target is a share of.
        target: share of the dense model's that is to remain; None for as little as holds.
    """

    dense: Footprint
    measure: Measure
    target: float | None

    def left(self, weight: Footprint) -> float:
        """Share of the dense model's that remains."""
        return weight.share_of(self.dense)[self.measure]

    def reached(self, weight: Footprint) -> bool:
        """Whether there is a target and the model is at it."""
        return self.target is not None and self.left(weight) <= self.target + _NEAR

    def cut(self, weight: Footprint, share: float) -> float:
        """The share a wave takes: the one given, or less if that would overshoot the target."""
        if self.target is None or self.forecast(weight, share) >= self.target:
            return share
        low, high = 0.0, share
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self.forecast(weight, middle) < self.target:
                high = middle
            else:
                low = middle
        return high

    def forecast(self, weight: Footprint, share: float) -> float:
        """What would remain if masks took ``share`` of the weights that are not zero yet."""
        if self.measure != "parameters":
            return self.left(weight)
        masked = weight.linear_weights * mask_sparsity(weight, share)
        return (weight.parameters - masked) / self.dense.of("parameters")

    def require_reachable(self, weight: Footprint) -> None:
        """Refuse a target that no wave leads to.

        Raises:
            SettingError: with the nearest share that can be reached.
        """
        if self.target is None:
            return
        least = self.forecast(weight, 1.0)
        if self.target >= least:
            return
        if self.measure != "parameters":
            raise SettingError(
                f"waves(target={self.target}, of='{self.measure}') cannot be reached by masks, "
                f"which leave every value stored and multiplied: {least:.1%} remain whatever is "
                f"pruned; take of='parameters', or a prune pattern that removes whole parts"
            )
        raise SettingError(
            f"waves(target={self.target}) cannot be reached: prune thins the linears of the "
            f"blocks, and without them {least:.1%} of the parameters remain; set target above "
            f"{least:.4f}"
        )


def mask_sparsity(weight: Footprint, share: float) -> float:
    """Share of the linears' weights that is zero once ``share`` of the others went too."""
    return 1 - (1 - weight.zero_share) * (1 - share)
