"""Training of the scales of quantised weights, toward the dense model's predictions; codes stay.

The second phase of EfficientQAT (https://arxiv.org/abs/2407.11062): all scales of all blocks are
trained together, so that they correct what rounding costs the model as a whole, and the format does
not change. Unlike the paper, what is trained is how far a scale moves the largest code's value, in
steps of the grid: scale * (1 + move / 2^(bits-1)). One learning rate then serves scales of every
magnitude and grids of every width. The loss is that of `distillation`, and scales are rounded to
the dtype they are stored in while they are trained, so that what is judged is what is saved.

Needs one float32 value per weight and few more, where training of all weights needs five.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from ...checkpoints import Quantized, TensorRef
from ..blocks.announcing import AnnounceStep
from ..blocks.skeleton import Skeleton
from ..passes.resuming import ProgressStore
from .distillation import Lesson
from .optimiser import Healed
from .trainer import Training, train

_SMALLEST, _LARGEST = 0.5, 2.0  # factors of a scale, whose sign stays


def heal_scales(
    light: Skeleton,
    lesson: Lesson,
    training: Training,
    *,
    unfinished: ProgressStore | None = None,
    announce: AnnounceStep = lambda done, total, loss: None,
) -> Healed:
    """Train the scales of the quantised weights of all blocks; fills ``light``.

    Embeddings, norms, biases and weights that are not quantised stay as they are.

    Raises:
        NumericsError: a loss that is NaN or infinite.
    """
    quantized = {
        name: ref
        for name, ref in light.checkpoint.refs.items()
        if isinstance(ref, Quantized) and ref.has_integer_groups
    }
    learned: dict[str, LearnedScales] = {}

    def settle(path: str, block: nn.Module) -> None:
        for name, ref in quantized.items():
            if name.startswith(f"{path}."):
                learned[name] = _attached(block, name.removeprefix(f"{path}."), ref, light.device)

    model = light.fill(settle)
    moves = {name: _moves(model, name) for name in learned}
    trained = train(
        model,
        light.blocks,
        list(moves.values()),
        lesson,
        training,
        keep_zeros=False,
        unfinished=unfinished,
        announce=announce,
    )
    weights: Mapping[str, TensorRef] = {
        name: quantized[name].with_values(
            quantized[name].codes, each.stored(moves[name].detach()).cpu()
        )
        for name, each in learned.items()
    }
    size = sum(each.numel() for each in moves.values())
    return Healed(weights, trained.steps, size, trained.curves)


class LearnedScales(nn.Module):
    """A quantised weight as a function of the moves of its scales, which are the parameter.

    Args:
        ref: the weight, ``[out_features, in_features]``, experts first.
        device: of its codes and scales.
    """

    codes: Tensor
    scales: Tensor
    zero_points: Tensor | None

    def __init__(self, ref: Quantized, device: torch.device) -> None:
        super().__init__()
        points = ref.zero_points
        self.reach = 1 << ref.bits - 1  # the largest code, without its sign
        self.register_buffer("codes", ref.codes.to(device))
        self.register_buffer("scales", ref.scales.to(device))
        self.register_buffer("zero_points", None if points is None else points.to(device))

    def forward(self, moves: Tensor) -> Tensor:
        """The weight for moves ``[out_features, groups]``, experts first, in their dtype."""
        value: Tensor = _Value.apply(  # type: ignore[no-untyped-call]
            moves, self.codes, self.scales, self.zero_points, self.reach
        )
        return value

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The moves to start from: 0, in the dtype of the weight."""
        return torch.zeros(self.scales.shape, dtype=weight.dtype, device=self.scales.device)

    def stored(self, moves: Tensor) -> Tensor:
        """The scales after their moves, in the dtype they are stored in."""
        return _stored(moves, self.scales, self.reach)


def _stored(moves: Tensor, scales: Tensor, reach: int) -> Tensor:
    factors = (1 + moves / reach).clamp(_SMALLEST, _LARGEST)
    found = (scales.to(moves.dtype) * factors).to(scales.dtype)
    # A scale that left the range of its dtype keeps its first value.
    return torch.where((found == 0) | ~torch.isfinite(found), scales, found)


class _Value(torch.autograd.Function):
    """``(code - zero_point) * stored scale``; keeps the codes for the backward pass, not values.

    The derivative of the rounding of scales to their dtype is taken to be 1.
    """

    @staticmethod
    def forward(
        ctx: Any,
        moves: Tensor,
        codes: Tensor,
        scales: Tensor,
        zero_points: Tensor | None,
        reach: int,
    ) -> Tensor:
        ctx.save_for_backward(codes, scales, zero_points)
        ctx.reach = reach
        steps = _steps(codes, zero_points, scales, moves.dtype)
        stored = _stored(moves, scales, reach).to(moves.dtype)
        return steps.mul_(stored.unsqueeze(-1)).flatten(-2)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None, None]:
        codes, scales, zero_points = ctx.saved_tensors
        slope: Tensor = gradients[0]
        steps = _steps(codes, zero_points, scales, slope.dtype)
        by_scale = steps.mul_(slope.view(steps.shape)).sum(-1)
        return by_scale * scales.to(slope.dtype) / ctx.reach, None, None, None, None


def _steps(codes: Tensor, zero_points: Tensor | None, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight in steps of its grid, ``[out_features, groups, group_size]``, experts first."""
    steps = codes.reshape(*scales.shape, -1).to(dtype)
    return steps if zero_points is None else steps - zero_points.to(dtype).unsqueeze(-1)


def _attached(block: nn.Module, name: str, ref: Quantized, device: torch.device) -> LearnedScales:
    """Make a weight of a block a function of the moves of its scales, in place."""
    place, _, leaf = name.rpartition(".")
    learned = LearnedScales(ref, device)
    register_parametrization(block.get_submodule(place), leaf, learned, unsafe=True)
    return learned


def _moves(model: nn.Module, name: str) -> nn.Parameter:
    place, _, leaf = name.rpartition(".")
    return model.get_parameter(f"{place}.parametrizations.{leaf}.original")
