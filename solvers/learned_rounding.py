"""Codes and scales of one weight that can be trained by gradients, starting from a given solution.

SignRound (https://arxiv.org/abs/2309.05516) learns the scales and an offset V for each weight, W^ =
scale * clip(round(W / scale + V)), with a straight-through gradient for the rounding. This module
learns the argument of the rounding itself: the position u of a weight on its grid, in steps of the
grid, with W^ = scale * factor * round(u) and one factor per group.

Differences from the paper: SignRound starts from round to nearest. Codes of GPTQ are often further
than half a step from the weight, so u starts at the given code, moved towards the weight by at most
a quarter of a step. The codes then start as given, and a code that was nearly the neighbouring one
has the shortest way to it. A change of the scale does not move u. Steps are those of Adam instead
of the sign of the gradient, which is mostly noise on small batches. Both changes gave a lower error
in our trials.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SettingError
from .checks import require_weight
from .grid import Grid

# How far u starts from the code, as a fraction of the distance to the weight (at most half a step).
_LEAN = 0.5
# Learning rate of the scale factors relative to that of u, times the number of codes. A small
# change of the scale moves a large code's value by many steps of the grid.
_FACTOR_RATE = 8.0
_SMALLEST_FACTOR, _LARGEST_FACTOR = 0.5, 1.5


class LearnedRounding:
    """Codes and scales of one weight during training.

    Codes stay on the grid and scales in their storage dtype, so `values` is always what would be
    stored. A weight of zero whose code decodes to zero stays exactly zero.

    Args:
        weight: the weight to approximate, [out_features, in_features].
        codes: int8, same shape, where to start.
        scales: [out_features, groups] in the dtype they are stored in; their signs do not change.
        zero_points: int8 [out_features, groups]; None for a symmetric grid.
        bits: bits of a code.

    Raises:
        SettingError: shapes do not fit.
        SolverError: a weight is not finite.
    """

    def __init__(
        self,
        weight: Tensor,
        codes: Tensor,
        scales: Tensor,
        zero_points: Tensor | None = None,
        *,
        bits: int,
    ) -> None:
        require_weight(weight)
        _require_fit(weight, codes, scales)
        self._grid, self._scales = Grid(bits, group_size=None), scales
        dtype = torch.promote_types(scales.dtype, torch.float32)
        shape = (*scales.shape, -1)  # [out, groups, group_size]
        self._zero_points = None if zero_points is None else zero_points.unsqueeze(-1).to(dtype)
        self._factor = torch.ones_like(scales, dtype=dtype)
        self._factor_rate = min(1.0, _FACTOR_RATE / (1 << bits))
        start = codes.view(shape).to(dtype)
        # The weight in steps of the grid; u starts between its code and the weight.
        target = weight.detach().view(shape).to(dtype) / scales.to(dtype).unsqueeze(-1)
        self._trainable = (target != 0) | (self._less_zero_points(start) != 0)
        offset = (target - self._less_zero_points(start)).clamp_(-0.5, 0.5)
        self._position = self._clip(start.add_(offset, alpha=_LEAN))  # u
        self._position_adam, self._factor_adam = _Adam(self._position), _Adam(self._factor)

    @property
    def codes(self) -> Tensor:
        """The current codes, int8 [out_features, in_features]."""
        return self._position.round().to(torch.int8).flatten(1)

    @property
    def scales(self) -> Tensor:
        """The current scales in their storage dtype, [out_features, groups]."""
        stored = (self._scales.to(self._factor.dtype) * self._factor).to(self._scales.dtype)
        # A scale that left the range of its dtype keeps its initial value.
        return torch.where((stored == 0) | ~torch.isfinite(stored), self._scales, stored)

    def values(self, dtype: torch.dtype) -> Tensor:
        """The dequantised weight [out_features, in_features], computed in ``dtype``."""
        steps = self._less_zero_points(self._position.round()).to(dtype)
        return steps.mul_(self.scales.unsqueeze(-1).to(dtype)).flatten(1)

    def step(self, gradient: Tensor, *, rate: float) -> None:
        """Take one optimiser step.

        Args:
            gradient: of the loss with respect to `values`, [out_features, in_features].
            rate: learning rate: how far a position moves per step, in steps of the grid, if its
                gradient is steady.
        """
        dtype = self._position.dtype
        # d loss / d u = gradient * scale, straight through the rounding, [out, groups, group_size]
        slope = gradient.detach().view(self._position.shape).to(dtype) * self._trainable
        slope *= self._scales.unsqueeze(-1).to(dtype)
        # d loss / d factor = sum over the group of slope * (code - zero point), [out, groups]
        factor_slope = (slope * self._less_zero_points(self._position.round())).sum(-1)
        self._factor.sub_(self._factor_adam.direction(factor_slope), alpha=rate * self._factor_rate)
        self._factor.clamp_(_SMALLEST_FACTOR, _LARGEST_FACTOR)
        self._clip(self._position.sub_(self._position_adam.direction(slope), alpha=rate))

    def _less_zero_points(self, codes: Tensor) -> Tensor:
        return codes if self._zero_points is None else codes - self._zero_points

    def _clip(self, position: Tensor) -> Tensor:
        """Limit u to the range of codes, in place: from further out it would return only slowly."""
        return position.clamp_(self._grid.smallest, self._grid.largest)


class _Adam:
    """The update direction of Adam (https://arxiv.org/abs/1412.6980) for one parameter."""

    _BETA1, _BETA2 = 0.9, 0.95

    def __init__(self, parameter: Tensor) -> None:
        self._mean, self._square = torch.zeros_like(parameter), torch.zeros_like(parameter)
        self._num_steps = 0

    def direction(self, gradient: Tensor) -> Tensor:
        """Return mean gradient over root mean square, -1 to 1; 0 where all gradients were 0."""
        self._num_steps += 1
        self._mean.lerp_(gradient, 1 - self._BETA1)
        self._square.lerp_(gradient.square(), 1 - self._BETA2)
        mean_correction = 1 - self._BETA1**self._num_steps  # bias corrections
        square_correction = 1 - self._BETA2**self._num_steps
        root = self._square.sqrt().clamp_(min=torch.finfo(self._square.dtype).tiny)
        direction = root.reciprocal_().mul_(self._mean)
        direction.mul_(square_correction**0.5 / mean_correction)
        return direction.clamp_(-1, 1)  # the square of a tiny gradient may underflow to 0


def _require_fit(weight: Tensor, codes: Tensor, scales: Tensor) -> None:
    fits = codes.shape == weight.shape and scales.ndim == 2 and len(scales) == len(weight)
    if not fits or weight.shape[1] % scales.shape[1]:
        raise SettingError(
            f"weight {tuple(weight.shape)}, codes {tuple(codes.shape)} and scales "
            f"{tuple(scales.shape)} do not fit: one code for each weight, and the groups of scales "
            "must divide its columns"
        )
