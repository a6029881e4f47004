"""How many weights go, and the masks that say which: one count for each layer that is stacked.

Layers on one input are solved as one, their rows stacked; each still loses its own share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SettingError
from .masks import Pattern, drop_smallest, keep_mask_n_of_m, require_groups_of, require_sparsity

# Values looked at to guess a threshold; the share removed is then right to about 0.4 %.
_SAMPLE = 1 << 14


@dataclass(frozen=True)
class Budget:
    """What may stay of a weight whose rows are those of one or more layers.

    Attributes:
        heights: rows of each layer, from the top.
        width: in_features.
        pattern: unstructured or n:m.
        sparsity: share of each layer's weights to remove.
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
        """Check what was asked against the weight; SettingError where it does not fit."""
        rows, width = weight.shape
        fraction = require_sparsity(sparsity, pattern)
        if pattern.n_of_m is not None:
            require_groups_of(pattern.n_of_m[1], width)
        stacked = (rows,) if heights is None else tuple(heights)
        if sum(stacked) != rows or min(stacked) < 1:
            raise SettingError(
                f"heights {stacked} do not add up to the weight's {rows} rows; give the "
                "out_features of each layer that is stacked"
            )
        return cls(stacked, width, pattern, fraction)

    def keep(self, scores: Tensor) -> Tensor:
        """Return the mask [rows, cols] of the highest scores, exact to the count."""
        if self.pattern.n_of_m is not None:
            n, m = self.pattern.n_of_m
            return keep_mask_n_of_m(scores, n=n, m=m)
        masks = [
            drop_smallest(part.reshape(1, -1), count=self.num_removed(height)).view(part.shape)
            for part, height in zip(scores.split(self.heights), self.heights, strict=True)
        ]
        return torch.cat(masks)

    def keep_roughly(self, scores: Tensor) -> Tensor:
        """Return a mask of about the highest scores, for steps on the way to a mask.

        Exact for n:m, which costs no sort. Unstructured, the threshold is `rough_threshold`.
        """
        if self.pattern.n_of_m is not None:
            return self.keep(scores)
        parts = scores.split(self.heights)
        return torch.cat([part > rough_threshold(part, self.sparsity) for part in parts])

    def num_removed(self, height: int) -> int:
        """Weights a layer of so many rows loses."""
        return round(self.sparsity * height * self.width)


def rough_threshold(values: Tensor, fraction: float) -> float:
    """Return the size that about ``fraction`` of a matrix does not exceed, told by a sample.

    -1 where that is none of them.
    """
    cols = values.shape[1]
    step = max(values.numel() // _SAMPLE, 1)
    while math.gcd(step, cols) > 1:  # so that the walk comes through all columns
        step += 1
    places = torch.arange(0, values.numel(), step, device=values.device)
    sample = values[places // cols, places % cols].abs()
    count = round(fraction * sample.numel())
    return float(sample.kthvalue(count).values) if count else -1.0
