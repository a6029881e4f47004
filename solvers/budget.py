"""How many weights to remove from each of several stacked layers, and the masks that do it.

Layers with the same input are solved together, their rows stacked into one weight. Each layer still
loses its own fraction of weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SettingError
from .masks import Pattern, drop_smallest, keep_mask_n_of_m, require_groups_of, require_sparsity

# Values sampled to estimate a threshold; the fraction removed is then right to about 0.4 %.
_SAMPLE = 1 << 14


@dataclass(frozen=True)
class Budget:
    """How many weights to keep in a weight whose rows belong to one or more layers.

    Attributes:
        heights: number of rows (out_features) of each stacked layer, from the top.
        width: in_features.
        pattern: unstructured or n:m.
        sparsity: fraction of each layer's weights to remove.
    """

    heights: tuple[int, ...]
    width: int
    pattern: Pattern
    sparsity: float

    @classmethod
    def of(
        cls,
        weight: Tensor,
        *,
        sparsity: float | None,
        pattern: Pattern,
        heights: Sequence[int] | None,
    ) -> Budget:
        """Check the settings against ``weight`` [out_features, in_features] and return the budget.

        ``heights`` is None for a single layer.

        Raises:
            SettingError: the sparsity or pattern is invalid or does not fit the width, or
                ``heights`` do not add up to the number of rows.
        """
        rows, width = weight.shape
        fraction = require_sparsity(sparsity, pattern)
        if pattern.n_of_m is not None:
            require_groups_of(pattern.n_of_m[1], width)
        stacked = (rows,) if heights is None else tuple(heights)
        if sum(stacked) != rows or min(stacked) < 1:
            raise SettingError(
                f"heights {stacked} do not add up to the weight's {rows} rows; give the "
                "out_features of each stacked layer"
            )
        return cls(stacked, width, pattern, fraction)

    def keep(self, scores: Tensor) -> Tensor:
        """Return a mask [rows, cols] of the highest scores, exact to the count."""
        if self.pattern.n_of_m is not None:
            n, m = self.pattern.n_of_m
            return keep_mask_n_of_m(scores, n=n, m=m)
        masks = [
            drop_smallest(part.reshape(1, -1), count=self.num_removed(height)).view(part.shape)
            for part, height in zip(scores.split(self.heights), self.heights, strict=True)
        ]
        return torch.cat(masks)

    def keep_roughly(self, scores: Tensor) -> Tensor:
        """Return a mask of approximately the highest scores, for intermediate iterations.

        For n:m it is exact, since that needs no sort. For unstructured pruning the threshold is
        estimated by `rough_threshold`.
        """
        if self.pattern.n_of_m is not None:
            return self.keep(scores)
        parts = scores.split(self.heights)
        return torch.cat([part > rough_threshold(part, self.sparsity) for part in parts])

    def num_removed(self, height: int) -> int:
        """Number of weights removed from a layer with ``height`` rows."""
        return round(self.sparsity * height * self.width)


def rough_threshold(values: Tensor, fraction: float) -> float:
    """Estimate from a sample the magnitude that a ``fraction`` of the values does not exceed.

    Returns -1 if the fraction rounds to no value of the sample.
    """
    cols = values.shape[1]
    step = max(values.numel() // _SAMPLE, 1)
    while math.gcd(step, cols) > 1:  # coprime, so that the sample covers all columns
        step += 1
    places = torch.arange(0, values.numel(), step, device=values.device)
    sample = values[places // cols, places % cols].abs()
    count = round(fraction * sample.numel())
    return float(sample.kthvalue(count).values) if count else -1.0
