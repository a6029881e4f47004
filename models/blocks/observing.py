"""Observe the inputs of every linear of a block, without hooks on modules.

A torch function mode intercepts the matrix products of a forward pass and recognises a linear by
the memory address of its weight. The same mechanism covers ``nn.Linear``, ``Conv1D`` and single
experts of a 3-D parameter, and detects which linears receive the same input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .linears import Linear

_INPUT_AND_WEIGHT = {
    torch.nn.functional.linear: (0, 1),
    torch.matmul: (0, 1),
    torch.mm: (0, 1),
    torch.addmm: (1, 2),
    Tensor.matmul: (0, 1),
    Tensor.mm: (0, 1),
    Tensor.__matmul__: (0, 1),
}

See = Callable[[Linear, Tensor], None]


class ProductObserver(TorchFunctionMode):
    """Call ``see(linear, inputs)`` for each product with a weight of ``linears``.

    Args:
        stored: the tensors the block computes with, by checkpoint name.
        linears: the linears to observe.
        see: receives the inputs ``[..., in_features]`` without a copy; must not change them.
    """

    def __init__(self, stored: Mapping[str, Tensor], linears: Sequence[Linear], see: See) -> None:
        super().__init__()
        self._known = {each.view(stored[each.tensor]).data_ptr(): each for each in linears}
        self._see = see

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        places = _INPUT_AND_WEIGHT.get(func)
        if places is not None and len(args) > max(places):
            linear = self._recognised(args[places[1]])
            if linear is not None:
                self._see(linear, args[places[0]])
        return func(*args, **(kwargs or {}))

    def _recognised(self, weight: Tensor) -> Linear | None:
        linear = self._known.get(weight.data_ptr())
        # Part of a weight, or the stack of all experts, begins at the same address.
        whole = linear is not None and sorted(weight.shape) == sorted(linear.shape)
        return linear if whole else None


def stored_tensors(block: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The parameters a materialised block computes with, by checkpoint name."""
    return {f"{prefix}{name}": tensor for name, tensor in block.named_parameters()}
