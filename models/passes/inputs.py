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

from ...errors import DataError, SolverError
from ..blocks.linears import Linear, expert_kind, named
from ..blocks.observing import Observer, stored_tensors
from ..blocks.replay import Call, check_finite, replay


class Sum(Protocol):
    """Anything that sums over batches of inputs ``[..., in_features]``."""

    def add(self, inputs: Tensor, given: Tensor | None = None) -> None:
        """Take one batch in, and what the model as given had in its place where that is known."""


S = TypeVar("S", bound=Sum)


class SquareSum:
    """Sums x_j^2 per channel in float32: a Gram's diagonal at a row's price."""

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self.squares = torch.zeros(width, dtype=torch.float32, device=device)
        self.num_tokens = 0

    def add(self, inputs: Tensor, given: Tensor | None = None) -> None:
        """Add inputs ``[..., in_features]``; leading axes are all tokens; ``given`` is not used."""
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
        self.given: dict[Linear, tuple[Tensor, int]] = {}

    def see(self, linear: Linear, inputs: Tensor) -> None:
        if inputs.numel() == 0:  # an expert that was called with no tokens has seen none
            return
        for earlier, version, group in self._seen:
            if version == inputs._version and _same(earlier, inputs):
                self._join(linear, group)
                return
        group = self._group_of.get(linear) or self._found(linear, inputs)
        try:
            group.sum.add(inputs, self._given(linear))
        except SolverError as error:
            raise named(linear, error) from error
        self._seen.append((inputs, inputs._version, group))

    def _given(self, linear: Linear) -> Tensor | None:
        """What the model as given fed this linear, unless it was changed in place since."""
        inputs, version = self.given.get(linear, (None, 0))
        return inputs if inputs is not None and inputs._version == version else None

    def forget_inputs(self) -> None:
        """Let go of the tensors of the forward that ended; their memory will be used again."""
        self._seen.clear()
        self.given.clear()

    def _found(self, linear: Linear, inputs: Tensor) -> Group[S]:
        group = Group([linear], self._start(inputs.shape[-1], inputs.device))
        self.groups.append(group)
        self._group_of[linear] = group
        return group

    def _join(self, linear: Linear, group: Group[S]) -> None:
        if linear not in self._group_of:
            group.linears.append(linear)
            self._group_of[linear] = group


class _Keeping:
    """Keeps the inputs of linears that see every token, with their version, for one forward."""

    def __init__(self, kept: dict[Linear, tuple[Tensor, int]], num_tokens: int) -> None:
        self._kept = kept
        self._num_tokens = num_tokens

    def __call__(self, linear: Linear, inputs: Tensor) -> None:
        if inputs[..., 0].numel() == self._num_tokens:
            self._kept[linear] = inputs, inputs._version


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
    given: list[Tensor] | None = None,
) -> tuple[list[Group[S]], list[Tensor]]:
    """Run a block on every batch and sum what flows into its linears.

    Args:
        prefix: the block's path in the model, with its last dot.
        hidden, calls: per batch, what enters the block ``[batch, length, hidden_size]`` and how
            it is called.
        start: makes an empty sum for inputs of some width on some device.
        given: per batch, what enters the block in the model as given; overwritten by what leaves
            it. The sums are then told its inputs beside the others, but for those of experts that
            see only some of the tokens, which need not be the same ones.

    Returns:
        The groups of linears on one input each, and the block's output per batch.

    Raises:
        DataError: a linear saw no tokens. An expert that saw none has a sum of nothing.
        NumericsError: NaN or infinity in the block's output.
    """
    grouping = _Grouping(start)
    outputs = []
    stored = stored_tensors(block, prefix)
    for index, (states, call) in enumerate(zip(hidden, calls, strict=True)):
        if given is not None:
            with Observer(stored, linears, _Keeping(grouping.given, states[..., 0].numel())):
                given[index] = replay(block, given[index], call)
        with Observer(stored, linears, grouping.see):
            outputs.append(replay(block, states, call))
        grouping.forget_inputs()
    check_finite(outputs, prefix.removesuffix("."))
    seen = {linear for group in grouping.groups for linear in group.linears}
    for linear in linears:
        if linear not in seen:
            if expert_kind(linear) is None:
                raise DataError(
                    f"layer '{linear.name}' saw no tokens of the calibration text; calibrate on "
                    f"more windows"
                )
            grouping.groups.append(Group([linear], start(linear.shape[1], hidden[0].device)))
    return grouping.groups, outputs
