"""Training of the scales of quantised weights, toward the dense model's predictions; codes stay.

The second phase of EfficientQAT (https://arxiv.org/abs/2407.11062): all scales of all blocks are
trained together, so that they correct what rounding costs the model as a whole, and the format does
not change. Unlike the paper, what is trained is how far a scale moves the largest code's value, in
steps of the grid: scale * (1 + move / 2^(bits-1)). One learning rate then serves scales of every
magnitude and grids of every width. The loss is that of `distillation`.

Integers with a scale per row or group, whose scales are rounded to the dtype they are stored in
while they are trained, so that what is judged is what is saved; and ggml types, where the float16
scale of each block moves, with that of its minimums, and is rounded at the end.

Needs one float32 value per weight and its codes (ggml types: float16 values), where training of all
weights needs five.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoints import GgmlBlocks, Quantized
from ...checkpoints.coded import grid_steps, has_scales, multiplied
from ..blocks.announcing import AnnounceStep
from ..blocks.skeleton import Skeleton
from ..passes.resuming import ProgressStore
from .distillation import Lesson
from .optimiser import Healed
from .trainer import Training, running_as, train

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
    learned: dict[str, LearnedScales] = {}
    with ExitStack() as stack:

        def settle(path: str, block: nn.Module) -> None:
            inside = {}
            for name, ref in light.checkpoint.refs.items():
                inner = name.removeprefix(f"{path}.")
                if inner != name and has_scales(ref):
                    inside[inner] = learned[name] = LearnedScales(ref, light.device)
            stack.enter_context(_computed(block, inside))

        model = light.fill(settle)
        trained = train(
            model,
            light.blocks,
            [each.moves for each in learned.values()],
            lesson,
            training,
            keep_zeros=False,
            unfinished=unfinished,
            announce=announce,
        )
    weights = {name: each.stored() for name, each in learned.items()}
    size = sum(each.moves.numel() for each in learned.values())
    return Healed(weights, trained.steps, size, trained.curves)


class LearnedScales:
    """A quantised weight whose scales are trained.

    Attributes:
        moves: of the scales, the parameter: float32 ``[out_features, groups]``, experts first.

    Args:
        ref: a weight that `has_scales`, ``[out_features, in_features]``, experts first.
        device: to compute on.
    """

    def __init__(self, ref: Quantized | GgmlBlocks, device: torch.device) -> None:
        codes, scales, points, bits = _parts(ref)
        self._ref, self._reach = ref, 1 << bits - 1  # the largest code, without its sign
        self._codes, self._scales = codes.to(device), scales.to(device)
        self._zero_points = None if points is None else points.to(device)
        self.moves = nn.Parameter(torch.zeros(scales.shape, device=device))

    def value(self) -> Tensor:
        """The weight as it would be stored now, but for the rounding of ggml's scales; float32."""
        value: Tensor = _Value.apply(  # type: ignore[no-untyped-call]
            self.moves, self._codes, self._scales, self._zero_points, self._reach
        )
        return value.T if isinstance(self._ref, GgmlBlocks) and self._ref.transposed else value

    def stored(self) -> Quantized | GgmlBlocks:
        """The weight with its present scales, on the CPU."""
        scales = _stored(self.moves.detach(), self._scales, self._reach).cpu()
        if isinstance(self._ref, GgmlBlocks):
            return self._ref.scaled(scales)
        return self._ref.with_values(self._ref.codes, scales)


def _parts(ref: Quantized | GgmlBlocks) -> tuple[Tensor, Tensor, Tensor | None, int]:
    """Codes, scales, zero points and bits; of ggml types values, and ones in place of scales."""
    if isinstance(ref, Quantized):
        return ref.codes, ref.scales, ref.zero_points, ref.bits
    values = ref.load().T if ref.transposed else ref.load()
    bits = next(int(each) for each in ref.kind if each.isdigit())  # q4_k has 4
    return values.half(), torch.ones(ref.scales_shape), None, bits


@contextmanager
def _computed(block: nn.Module, learned: Mapping[str, LearnedScales]) -> Iterator[None]:
    """Let the named weights of a block be computed anew each time it runs, inside the context."""
    places = []
    for name, each in learned.items():
        owner, _, leaf = name.rpartition(".")
        places.append((block.get_submodule(owner), leaf, each))
    for module, leaf, _ in places:
        delattr(module, leaf)
    plain = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        for module, leaf, each in places:
            setattr(module, leaf, each.value())
        try:
            return plain(*args, **kwargs)
        finally:
            for module, leaf, _ in places:
                delattr(module, leaf)

    with running_as(block, forward):
        yield


def _stored(moves: Tensor, scales: Tensor, reach: int) -> Tensor:
    return multiplied(scales, (1 + moves / reach).clamp(_SMALLEST, _LARGEST))


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
        steps = grid_steps(codes, zero_points, scales.shape, moves.dtype)
        stored = _stored(moves, scales, reach).to(moves.dtype)
        return steps.mul_(stored.unsqueeze(-1)).flatten(-2)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None, None]:
        codes, scales, zero_points = ctx.saved_tensors
        slope: Tensor = gradients[0]
        steps = grid_steps(codes, zero_points, scales.shape, slope.dtype)
        by_scale = steps.mul_(slope.view(steps.shape)).sum(-1)
        return by_scale * scales.to(slope.dtype) / ctx.reach, None, None, None, None
