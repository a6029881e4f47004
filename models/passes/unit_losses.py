"""What the loss loses with each unit: the Fisher information of a factor on its output.

A factor m, 1 for all tokens, on the activations of unit u before the output linear: dL/dm of one
token is the sum over the unit's columns of activation times gradient. The loss rises by about
1/2 E[(dL/dm)^2] if the unit is removed: the diagonal of the empirical Fisher matrix, per token.
Kwon et al. 2022 (https://arxiv.org/abs/2204.09656) take it per sequence.

One forward and one backward pass of the whole model per window; no gradient of a weight is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoints import Checkpoint, ranks
from ..blocks.skeleton import Skeleton
from .fisher import take_gradients


def unit_losses(
    checkpoint: Checkpoint,
    windows: Tensor,
    sizes: Mapping[str, int],
    announce: Callable[[int, int], None],
) -> dict[str, Tensor]:
    """E[(dL/dm)^2] of the units of some linears, float32 [units] on the CPU, by name.

    Args:
        windows: int64 ``[num_windows, length]``.
        sizes: consecutive input columns of a unit, by the name of the linear that they feed; it
            must be a module of its own.

    Raises:
        NumericsError: the loss of a window is not finite.
    """
    skeleton = Skeleton(checkpoint)
    model = skeleton.fill()
    sums = {name: _Units(size) for name, size in sizes.items()}
    with ExitStack() as hooks:
        for name, total in sums.items():
            hooks.callback(model.get_submodule(name).register_forward_pre_hook(total).remove)
        embedding: Any = model.get_input_embeddings()
        hooks.callback(embedding.register_forward_hook(_begin_gradients).remove)
        take_gradients(skeleton, windows, announce)
    scale = (windows.shape[1] - 1) ** 2 / windows.numel()  # the loss of a window is a mean
    return {name: (ranks.total(each.squares) * scale).cpu() for name, each in sums.items()}


def _begin_gradients(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
    output.requires_grad_(True)


class _Units:
    """Sum over tokens of (activation times gradient, summed over a unit's columns) squared."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.squares = torch.zeros(())

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        inputs: Tensor = args[0]
        values = inputs.detach()  # a hook that held `inputs` would be a cycle and keep the graph

        def add(gradient: Tensor) -> None:
            changes = (values.float() * gradient.float()).flatten(0, -2)  # [tokens, in]
            units = changes.unflatten(1, (-1, self._size)).sum(2)
            self.squares = self.squares.to(units.device) + units.square().sum(0)

        inputs.register_hook(add)
