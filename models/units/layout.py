"""Which rows and columns of a block's tensors belong to which unit, found by gradients.

A block with random weights runs on a few random tokens. The gradient of the sum of a unit's outputs
is nonzero exactly in the rows that feed the unit. Units are identified by the binary digits of
their index, so two backward passes per digit are enough. Fused or interleaved gate and up
projections,
and query, key and value in one tensor, are found this way without knowing the architecture. A
tensor
that couples units (a norm over all heads) is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import ModelError
from ..blocks.linears import Linear, find_linears
from ..blocks.observing import ProductObserver
from ..blocks.replay import Call, capture, replay, with_parameters
from ..blocks.skeleton import Skeleton
from .narrowing import Narrowing, Part, narrowing, units_of

_TOKENS = 64


@dataclass(frozen=True)
class Units:
    """The layout of units in a block, the same in every block.

    Attributes:
        members: for each part's tensor, the unit of each index along its axis, int64.
        adds_plainly: whether the output linear's output is added to the residual stream directly,
            with no norm or router in between.
    """

    members: Mapping[str, Tensor]
    adds_plainly: bool

    def kept(self, part: Part, units: Tensor) -> Tensor:
        """The indices along a part's axis that belong to ``units``, int64, ascending."""
        return torch.isin(self.members[part.tensor], units.cpu()).nonzero().flatten()


@torch.enable_grad()
def measure_units(skeleton: Skeleton, change: Narrowing) -> Units:
    """Find the layout of units by running a block with random weights.

    Raises:
        ModelError: a tensor couples units, or one of its rows feeds none.
    """
    probe = _Probe(skeleton, change)
    members = {change.output.tensor: _of_columns(change)}
    feeding = [part for part in change.parts if part != change.output]
    found = {part.tensor: torch.zeros(part.size, dtype=torch.int64) for part in feeding}
    for digit in range(max((change.before - 1).bit_length(), 1)):
        chosen = (members[change.output.tensor] >> digit) & 1
        one, other = probe.fed_by(chosen, feeding), probe.fed_by(1 - chosen, feeding)
        for part in feeding:
            _check_apart(part, one[part.tensor], other[part.tensor], change)
            found[part.tensor] += one[part.tensor].long() << digit
    for part in feeding:
        _check_shares(part, found[part.tensor], change)
    return Units({**members, **found}, probe.adds_plainly())


def plain_output(skeleton: Skeleton) -> str | None:
    """Name within a block of the linear after the neurons whose output is added directly.

    None if there is no single such linear, or if a norm or a router follows it.
    """
    checkpoint = skeleton.checkpoint
    try:
        change = narrowing(checkpoint, "neurons", units_of(checkpoint, "neurons") // 2)
    except ModelError:
        return None  # no config key identifies the linear
    return change.output.tensor if _Probe(skeleton, change).adds_plainly() else None


def _of_columns(change: Narrowing) -> Tensor:
    """The unit of each input column of the output linear: consecutive columns belong together."""
    return torch.arange(change.output.size) // (change.output.size // change.before)


def _check_apart(part: Part, one: Tensor, other: Tensor, change: Narrowing) -> None:
    if bool((one & other).any()):
        raise ModelError(
            f"'{part.tensor}' couples the {change.kind} of a block, so none can be removed alone"
        )
    if not bool((one | other).all()):
        raise ModelError(
            f"some rows of '{part.tensor}' feed none of the {change.kind} of a block; this "
            f"layout is not supported"
        )


def _check_shares(part: Part, members: Tensor, change: Narrowing) -> None:
    sizes = members.bincount(minlength=change.before)
    if len(sizes) != change.before or bool((sizes != part.size // change.before).any()):
        raise ModelError(f"'{part.tensor}' does not divide evenly among the {change.kind}")


class _Probe:
    """A block with random weights, and the inputs of its output linear on random tokens."""

    def __init__(self, skeleton: Skeleton, change: Narrowing) -> None:
        self._block = skeleton.blocks[0]
        self._output = change.output
        generator = torch.Generator().manual_seed(0)
        self._parameters = {
            name: _random(name, parameter.shape, generator).to(skeleton.device, skeleton.dtype)
            for name, parameter in self._block.named_parameters()
        }
        for part in change.parts:
            self._parameters[part.tensor].requires_grad_()
        linears = find_linears(self._block, "")
        self._outputs = [each for each in linears if each.tensor == change.output.tensor]
        length = min(_TOKENS, _positions(skeleton))
        tokens = torch.zeros(1, length, dtype=torch.int64)
        batch = capture(skeleton, [tokens])[0]
        self._call: Call = batch.calls[0]
        hidden = torch.randn(batch.hidden.shape, generator=generator)
        self._hidden = hidden.to(skeleton.device, skeleton.dtype)
        self._inputs, _ = self._run(self._parameters)
        self._weights = [
            torch.randn(each.shape, generator=generator).to(each) for each in self._inputs.values()
        ]

    def fed_by(self, chosen: Tensor, parts: Sequence[Part]) -> dict[str, Tensor]:
        """Which indices of each part feed the columns marked in ``chosen``, bool."""
        mask = chosen.to(self._hidden)
        pairs = zip(self._inputs.values(), self._weights, strict=True)
        total = torch.stack([(inputs * weight * mask).sum() for inputs, weight in pairs]).sum()
        tensors = [self._parameters[part.tensor] for part in parts]
        gradients = torch.autograd.grad(total, tensors, retain_graph=True)
        return {
            part.tensor: (
                (gradient != 0).movedim(part.axis, 0).flatten(1).any(1).cpu()
                if gradient.ndim > 1
                else (gradient != 0).cpu()
            )
            for part, gradient in zip(parts, gradients, strict=True)
        }

    @torch.no_grad()
    def adds_plainly(self) -> bool:
        """Whether the block's output changes by exactly the output linear's output."""
        if len(self._outputs) > 1:
            return False
        (linear,) = self._outputs
        stored = self._parameters[linear.tensor].detach()
        _, whole = self._run(self._parameters)
        inputs, without = self._run({**self._parameters, linear.tensor: torch.zeros_like(stored)})
        expected = inputs[linear] @ linear.view(stored).T
        return torch.allclose(whole - without, expected, rtol=1e-2, atol=1e-2)

    def _run(self, parameters: Mapping[str, Tensor]) -> tuple[dict[Linear, Tensor], Tensor]:
        """The inputs of each output linear, and the block's output."""
        seen: dict[Linear, Tensor] = {}
        with ProductObserver(parameters, self._outputs, seen.__setitem__):
            states = replay(with_parameters(self._block, parameters), self._hidden, self._call)
        return seen, states


def _random(name: str, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Weights that keep activations near unit scale; norms near one, biases near zero.

    A large bias could keep a ReLU neuron at zero for every token.
    """
    noise = torch.randn(tuple(shape), generator=generator)
    if len(shape) > 1:
        return noise / math.sqrt(shape[-1])
    return 0.1 * noise if name.endswith("bias") else 1 + 0.1 * noise


def _positions(skeleton: Skeleton) -> int:
    config = skeleton.model.config.get_text_config(decoder=True)
    return int(getattr(config, "max_position_embeddings", None) or _TOKENS)
