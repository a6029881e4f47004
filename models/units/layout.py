"""Which rows and columns of a block's tensors belong to which unit, measured rather than known.

One block with random weights is run on a few random tokens, and gradients tell which rows feed a
unit: those of the sum of its outputs are zero everywhere else. Units are told apart by the binary
digits of their numbers, so two backward passes a digit are enough. Fused gate and up projections,
interleaved ones, query, key and value in one tensor: each is found as it is, and a tensor that
couples units (a norm over all heads) is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from ...errors import ModelError
from ..blocks.linears import Linear, find_linears
from ..blocks.observing import Observer
from ..blocks.replay import Call, capture
from ..blocks.skeleton import Skeleton
from .narrowing import Narrowing, Part, narrowing, units_of

_TOKENS = 64


@dataclass(frozen=True)
class Units:
    """The units of a block, the same in every block.

    Attributes:
        members: for each part's tensor, the unit that each index along its axis belongs to, int64.
        adds_plainly: whether what the output linear gives is added to the block's output as it is,
            no norm or router in between.
    """

    members: Mapping[str, Tensor]
    adds_plainly: bool

    def kept(self, part: Part, units: Tensor) -> Tensor:
        """The indices along a part's axis that stay with ``units``, int64, ascending."""
        return torch.isin(self.members[part.tensor], units.cpu()).nonzero().flatten()


@torch.enable_grad()
def measure_units(skeleton: Skeleton, change: Narrowing) -> Units:
    """Find the units of a skeleton's blocks by running one with random weights.

    Raises:
        ModelError: a tensor couples units, or a row of it feeds none.
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
    """The tensor, by its name in a block, of the one linear whose output is added as it is.

    None where there is no one linear behind the neurons, or a norm or a router behind that.
    """
    checkpoint = skeleton.checkpoint
    try:
        change = narrowing(checkpoint, "neurons", units_of(checkpoint, "neurons") // 2)
    except ModelError:
        return None  # no size says which linear it is
    return change.output.tensor if _Probe(skeleton, change).adds_plainly() else None


def _of_columns(change: Narrowing) -> Tensor:
    """The output's columns, consecutive ones to a unit; the rows that feed them must agree."""
    return torch.arange(change.output.size) // (change.output.size // change.before)


def _check_apart(part: Part, one: Tensor, other: Tensor, change: Narrowing) -> None:
    if bool((one & other).any()):
        raise ModelError(
            f"'{part.tensor}' couples the {change.kind} of a block, so none can go by itself"
        )
    if not bool((one | other).all()):
        raise ModelError(
            f"some of '{part.tensor}' feeds none of the {change.kind} of a block; its layout is "
            f"not understood"
        )


def _check_shares(part: Part, members: Tensor, change: Narrowing) -> None:
    sizes = members.bincount(minlength=change.before)
    if len(sizes) != change.before or bool((sizes != part.size // change.before).any()):
        raise ModelError(f"'{part.tensor}' is not made of equal shares of {change.kind}")


class _Probe:
    """A block of random weights, and what flows into its output linear on random tokens."""

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
        """Which indices of each part feed the columns of the output that are ``chosen``."""
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
        """Whether the block's output moves by just what the one output linear gives."""
        if len(self._outputs) > 1:
            return False
        (linear,) = self._outputs
        stored = self._parameters[linear.tensor].detach()
        _, whole = self._run(self._parameters)
        inputs, without = self._run({**self._parameters, linear.tensor: torch.zeros_like(stored)})
        expected = inputs[linear] @ linear.view(stored).T
        return torch.allclose(whole - without, expected, rtol=1e-2, atol=1e-2)

    def _run(self, parameters: Mapping[str, Tensor]) -> tuple[dict[Linear, Tensor], Tensor]:
        """What flows into each output linear, and the block's output."""
        seen: dict[Linear, Tensor] = {}
        with Observer(parameters, self._outputs, seen.__setitem__):
            output = functional_call(
                self._block, dict(parameters), (self._hidden, *self._call.args), self._call.kwargs
            )
        states: Tensor = output[0] if isinstance(output, tuple) else output
        return seen, states


def _random(name: str, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Weights that keep activations near unit size; norms near one, biases near zero.

    A bias away from zero could keep a rectified neuron off for every token.
    """
    noise = torch.randn(tuple(shape), generator=generator)
    if len(shape) > 1:
        return noise / math.sqrt(shape[-1])
    return 0.1 * noise if name.endswith("bias") else 1 + 0.1 * noise


def _positions(skeleton: Skeleton) -> int:
    config = skeleton.model.config.get_text_config(decoder=True)
    return int(getattr(config, "max_position_embeddings", None) or _TOKENS)
