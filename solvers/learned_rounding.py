"""Codes and scales of one weight that gradients can nudge, starting at exactly those given.

SignRound (https://arxiv.org/abs/2309.05516) learns, beside the scales, an offset V for each weight:
W^ = scale * clip(round(W / scale + V)), and the gradient passes through the rounding as if it were
not there. What is learned here is the rounding's argument itself, the position u of a weight on its
grid: W^ = scale * factor * round(u), in parts of a step, with one factor for each group.

Where we differ from the paper: it starts at round to nearest, but codes of GPTQ are often further
than half a step from the weight. So u starts at the given code, moved up to a quarter of a step
toward the weight: codes come out as given, and those that could as well have been the next one have
the shortest way to it. A scale's change does not move u, and steps are Adam's rather than signs,
which on small batches are mostly noise; both cost less error in our trials.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SettingError
from .checks import require_weight
from .grid import Grid

# A weight half a step or more from its code starts half way to the code's edge.
_LEAN = 0.5
# Steps of a scale's factor relative to those of u, times the number of codes: a scale moves a large
# code by many steps of the grid.
_FACTOR_RATE = 8.0
_SMALLEST_FACTOR, _LARGEST_FACTOR = 0.5, 1.5


class LearnedRounding:
    """The codes and scales of one weight while they are learned.

    Codes stay on the grid, scales in the dtype they came in: what `values` gives at any time is
    what could be stored. A weight of zero whose code stands for zero stays exactly zero.

    Args:
        weight: [out_features, in_features] the codes are to stand for.
        codes: int8, same shape.
        scales: [out_features, groups] in the dtype they are stored in; their signs are kept.
        zero_points: int8 like ``scales``; None for a symmetric grid.
        bits: width of a code.

    Raises:
        SettingError: shapes that do not fit.
        SolverError: weights that are not finite.
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
        shape = (*scales.shape, -1)
        self._points = None if zero_points is None else zero_points.unsqueeze(-1).to(dtype)
        self._factor = torch.ones_like(scales, dtype=dtype)
        self._factor_rate = min(1.0, _FACTOR_RATE / (1 << bits))
        start = codes.view(shape).to(dtype)
        wanted = weight.detach().view(shape).to(dtype) / scales.to(dtype).unsqueeze(-1)
        self._kept = (wanted != 0) | (self._less_points(start) != 0)
        leaning = (wanted - self._less_points(start)).clamp_(-0.5, 0.5)
        self._position = self._clipped(start.add_(leaning, alpha=_LEAN))
        self._codes, self._factors = _Adam(self._position), _Adam(self._factor)

    @property
    def codes(self) -> Tensor:
        """The codes as they now are, int8 [out_features, in_features]."""
        return self._position.round().to(torch.int8).flatten(1)

    @property
    def scales(self) -> Tensor:
        """The scales as they would be stored, [out_features, groups]."""
        stored = (self._scales.to(self._factor.dtype) * self._factor).to(self._scales.dtype)
        # One that left the range of its dtype stays as it was given.
        return torch.where((stored == 0) | ~torch.isfinite(stored), self._scales, stored)

    def values(self, dtype: torch.dtype) -> Tensor:
        """The weight [out_features, in_features], multiplied out in ``dtype`` as a reader does."""
        steps = self._less_points(self._position.round()).to(dtype)
        return steps.mul_(self.scales.unsqueeze(-1).to(dtype)).flatten(1)

    def step(self, gradient: Tensor, *, rate: float) -> None:
        """Go one step against the ``gradient`` of `values`.

        ``rate`` is how far a position goes where its gradient is steady, in steps of the grid.
        """
        dtype = self._position.dtype
        slope = gradient.detach().view(self._position.shape).to(dtype) * self._kept
        slope *= self._scales.unsqueeze(-1).to(dtype)
        along = (slope * self._less_points(self._position.round())).sum(-1)
        self._factor.sub_(self._factors.direction(along), alpha=rate * self._factor_rate)
        self._factor.clamp_(_SMALLEST_FACTOR, _LARGEST_FACTOR)
        self._clipped(self._position.sub_(self._codes.direction(slope), alpha=rate))

    def _less_points(self, codes: Tensor) -> Tensor:
        return codes if self._points is None else codes - self._points

    def _clipped(self, position: Tensor) -> Tensor:
        """In place; no further than the last code, or a way back would take many steps."""
        return position.clamp_(self._grid.smallest, self._grid.largest)


class _Adam:
    """Running means of a gradient and of its square, as in https://arxiv.org/abs/1412.6980."""

    _KEPT, _SQUARE_KEPT = 0.9, 0.95

    def __init__(self, parameter: Tensor) -> None:
        self._mean, self._square = torch.zeros_like(parameter), torch.zeros_like(parameter)
        self._num_steps = 0

    def direction(self, gradient: Tensor) -> Tensor:
        """The mean over the root of the mean square, from -1 to 1; 0 where no gradient was seen."""
        self._num_steps += 1
        self._mean.lerp_(gradient, 1 - self._KEPT)
        self._square.lerp_(gradient.square(), 1 - self._SQUARE_KEPT)
        mean_share = 1 - self._KEPT**self._num_steps
        square_share = 1 - self._SQUARE_KEPT**self._num_steps
        root = self._square.sqrt().clamp_(min=torch.finfo(self._square.dtype).tiny)
        direction = root.reciprocal_().mul_(self._mean).mul_(square_share**0.5 / mean_share)
        return direction.clamp_(-1, 1)  # the square of a tiny gradient may vanish


def _require_fit(weight: Tensor, codes: Tensor, scales: Tensor) -> None:
    fits = codes.shape == weight.shape and scales.ndim == 2 and len(scales) == len(weight)
    if not fits or weight.shape[1] % scales.shape[1]:
        raise SettingError(
            f"weight {tuple(weight.shape)}, codes {tuple(codes.shape)} and scales "
            f"{tuple(scales.shape)} do not fit: one code for each weight, and the groups of scales "
            "must divide its columns"
        )
