"""What flows into the linears of a block on calibration text, one sum per distinct input.

Query, key and value projections are given the very same tensor, as are gate and up; such linears
share one sum, so a llama-like block costs four Grams instead of seven.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..errors import DataError, SolverError
from .linears import Linear, named
from .observing import Observer, stored_tensors
from .replay import Call, check_finite, replay


class Sum(Protocol):
    """Anything that sums over batches of inputs ``[..., in_features]``."""

    def add(self, inputs: Tensor) -> None:
        """Take one batch in."""


S = TypeVar("S", bound=Sum)


class SquareSum:
    """Sums x_j^2 per channel in float32: a Gram's diagonal at a row's price."""

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self.squares = torch.zeros(width, dtype=torch.float32, device=device)
        self.num_tokens = 0

    def add(self, inputs: Tensor) -> None:
        """Add inputs ``[..., in_features]``; leading axes are all tokens."""
        rows = inputs.detach().reshape(-1, self.squares.numel()).to(torch.float32)
        self.squares += rows.square().sum(0)
        self.num_tokens += rows.shape[0]


@dataclass
class Group(Generic[S]):
    """Linears given the very same input, and the sum over it."""

    linears: list[Linear]
    sum: S


class _Grouping(Generic[S]):
    """Sorts what an observer sees into groups while a block runs."""

    def __init__(self, start: Callable[[int, torch.device], S]) -> None:
        self.groups: list[Group[S]] = []
        self._start = start
        self._group_of: dict[Linear, Group[S]] = {}
        self._seen: list[tuple[Tensor, int, Group[S]]] = []

    def see(self, linear: Linear, inputs: Tensor) -> None:
        if inputs.numel() == 0:  # an expert that was called with no tokens has seen none
            return
        for earlier, version, group in self._seen:
            if version == inputs._version and _same(earlier, inputs):
                self._join(linear, group)
                return
        group = self._group_of.get(linear) or self._found(linear, inputs)
        try:
            group.sum.add(inputs)
        except SolverError as error:
            raise named(linear, error) from error
        self._seen.append((inputs, inputs._version, group))

    def forget_inputs(self) -> None:
        """Let go of the tensors of the forward that ended; their memory will be used again."""
        self._seen.clear()

    def _found(self, linear: Linear, inputs: Tensor) -> Group[S]:
        group = Group([linear], self._start(inputs.shape[-1], inputs.device))
        self.groups.append(group)
        self._group_of[linear] = group
        return group

    def _join(self, linear: Linear, group: Group[S]) -> None:
        if linear not in self._group_of:
            group.linears.append(linear)
            self._group_of[linear] = group


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether both are the same rows of the same memory, however their leading axes are cut."""
    return a is b or (
        a.data_ptr() == b.data_ptr()
        and a.numel() == b.numel()
        and a.shape[-1] == b.shape[-1]
        and a.is_contiguous()
        and b.is_contiguous()
    )


@torch.no_grad()
def sum_inputs(
    block: nn.Module,
    prefix: str,
    linears: Sequence[Linear],
    hidden: Sequence[Tensor],
    calls: Sequence[Call],
    start: Callable[[int, torch.device], S],
) -> tuple[list[Group[S]], list[Tensor]]:
    """Run a block on every batch and sum what flows into its linears.

    Args:
        prefix: the block's path in the model, with its last dot.
        hidden, calls: per batch, what enters the block ``[batch, length, hidden_size]`` and how
            it is called.
        start: makes an empty sum for inputs of some width on some device.

    Returns:
        The groups of linears on one input each, and the block's output per batch.

    Raises:
        DataError: a linear saw no tokens.
        NumericsError: NaN or infinity in the block's output.
    """
    grouping = _Grouping(start)
    outputs = []
    with Observer(stored_tensors(block, prefix), linears, grouping.see):
        for states, call in zip(hidden, calls, strict=True):
            outputs.append(replay(block, states, call))
            grouping.forget_inputs()
    check_finite(outputs, prefix.removesuffix("."))
    seen = {linear for group in grouping.groups for linear in group.linears}
    for linear in linears:
        if linear not in seen:
            raise DataError(
                f"layer '{linear.name}' saw no tokens of the calibration text; calibrate on more "
                f"windows"
            )
    return grouping.groups, outputs
