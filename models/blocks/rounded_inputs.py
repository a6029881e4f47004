"""Round the inputs of linears while a model computes, as folders of compressed-tensors have it.

Servers multiply int8 or float8 weights with inputs of the same kind. Each token is rounded with a
scale of its own when it reaches the linear (dynamic, per token, symmetric), or with one for every
group of its features where weights have scales per block. transformers computes
the same in floating point: x is replaced by code(x / scale) * scale, with scale = max|x| / 127.5
for int8 and max|x| / 448 for float8_e4m3fn. Here the same operations are done in the same order and
dtype, so that a model in memory gives what its saved folder gives.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from ...checkpoints import Checkpoint, Quantized, TensorRef
from ...checkpoints.coded import InputActivations
from ...errors import ModelError
from .empty_model import empty_model
from .transformers_errors import REFUSED

_TOKENS = 4  # of the run on the meta device


def round_tokens(
    inputs: Tensor, kind: InputActivations, *, group_size: int | None = None
) -> Tensor:
    """Inputs ``[..., in_features]`` on the grid of each token, in their dtype.

    Gradients pass through unchanged.

    Args:
        group_size: features that share a scale, which must divide them; None for a whole token.
    """
    apply: Callable[[Tensor, InputActivations], Tensor] = _Rounded.apply
    if group_size is None:
        return apply(inputs, kind)
    return apply(inputs.unflatten(-1, (-1, group_size)), kind).flatten(-2)


class _Rounded(torch.autograd.Function):
    """Rounding whose derivative is taken to be 1 (straight-through estimator)."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, kind: InputActivations) -> Tensor:
        half, to_codes = _GRIDS[kind]
        # Zero must be on the grid, so a token's least value is at most 0 and its largest at least.
        least = inputs.amin(-1, keepdim=True).clamp(max=0)
        largest = torch.maximum(inputs.amax(-1, keepdim=True).clamp(min=0), -least)
        scale = largest / half
        scale = scale.masked_fill(scale == 0, torch.finfo(inputs.dtype).eps)
        return to_codes(inputs / scale).to(inputs.dtype) * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


def _int8(values: Tensor) -> Tensor:
    return values.clamp(-128, 127).round()


def _float8(values: Tensor) -> Tensor:
    return values.clamp(-448, 448).to(torch.float8_e4m3fn)


_GRIDS: Mapping[InputActivations, tuple[float, Callable[[Tensor], Tensor]]] = MappingProxyType(
    {"int8": (127.5, _int8), "fp8": (448.0, _float8)}
)
"""Half the range of codes, and the nearest codes to values in units of the scale."""


@dataclass(frozen=True)
class _Rounding:
    """The hook of one linear, called before its forward."""

    name: str
    kind: InputActivations
    group_size: int | None

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if args[0].ndim < 3 and self.group_size is None:
            raise ModelError(needs_tokens(self.name))
        return (round_tokens(args[0], self.kind, group_size=self.group_size), *args[1:])


def needs_tokens(name: str) -> str:
    """The error for a linear whose inputs are not ``[batch, length, in_features]``."""
    return (
        f"layer '{name}' receives its tokens without an axis of windows, and transformers would "
        f"round all of them with one scale; leave it out with quantize(ignore=...), leave "
        f"input_activations unset, or read a saved model with load(dequantize=True)"
    )


class RoundedInputs:
    """The linears of a model that round their inputs."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._hooks: dict[str, RemovableHandle] = {}

    def follow(self, name: str, ref: TensorRef) -> None:
        """Round the inputs of a weight's linear if the weight's reference states so."""
        if (before := self._hooks.pop(name, None)) is not None:
            before.remove()
        # transformers dequantises experts, whose weights have three axes, and rounds no inputs.
        if isinstance(ref, Quantized) and ref.input_activations is not None and len(ref.shape) == 2:
            path = name.removesuffix(".weight")
            rounding = _Rounding(path, ref.input_activations, ref.block_size)
            module = self._model.get_submodule(path)
            self._hooks[name] = module.register_forward_pre_hook(rounding)


def without_windows(checkpoint: Checkpoint) -> Collection[str]:
    """Names of the linears that receive inputs with less than three axes.

    Found by a run on the meta device, without values; empty for a model that cannot run there.
    """
    found: dict[str, None] = {}
    try:
        model = empty_model(checkpoint)
        nn.Module.to(model, "meta")
        for path, module in model.named_modules():
            if isinstance(module, nn.Linear):
                module.register_forward_pre_hook(_Recording(path, found))
        answers: TorchDispatchMode = _Answers()  # type: ignore[no-untyped-call]
        with torch.no_grad(), answers:
            model(torch.zeros(1, _TOKENS, dtype=torch.int64, device="meta"), use_cache=False)
    except REFUSED:
        pass  # what was found until then holds; the first forward pass refuses the others
    return found


class _Answers(TorchDispatchMode):
    """Answers what code asks of absent values: every number is 1, and one place is found."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return True if args[0].dtype == torch.bool else 1
        if func is torch.ops.aten.nonzero.default:
            return args[0].new_empty(1, args[0].ndim, dtype=torch.int64)
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class _Recording:
    """A hook that notes the linear if its inputs have less than three axes."""

    path: str
    found: dict[str, None]

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and args[0].ndim < 3:
            self.found[self.path] = None
