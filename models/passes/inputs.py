"""Statistics of the inputs of a block's linears on calibration text, one per distinct input.

Query, key and value projections receive the same tensor, and so do gate and up projections. Such
linears share one statistic, so a Llama-like block needs four Gram matrices instead of seven.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ...checkpoints import ranks
from ...errors import DataError, SolverError
from ..blocks.linears import Linear, expert_kind, named
from ..blocks.observing import ProductObserver, stored_tensors
from ..blocks.products import in_pass
from ..blocks.replay import Call, check_finite, replay


class Sum(Protocol):
    """A statistic that accumulates batches of inputs ``[..., in_features]``."""

    @property
    def num_tokens(self) -> int:
        """Number of inputs so far."""

    def add(self, inputs: Tensor, given: Tensor | None = None) -> None:
        """Add one batch, and the same batch's inputs in the original model where they are known."""

    def join(self, total: Callable[[Tensor], Tensor]) -> None:
        """Become the sum over all ranks; ``total`` returns that of a tensor."""


S = TypeVar("S", bound=Sum)


class SquareSum:
    """Sum of x_j^2 per input channel, float32 ``[in_features]``: the Gram matrix's diagonal."""

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self.squares = torch.zeros(width, dtype=torch.float32, device=device)
        self.num_tokens = 0

    def add(self, inputs: Tensor, given: Tensor | None = None) -> None:
        """Add inputs ``[..., in_features]``, every leading index a token; ``given`` is ignored."""
        rows = inputs.detach().reshape(-1, self.squares.numel()).to(torch.float32)
        self.squares += rows.square().sum(0)
        self.num_tokens += rows.shape[0]

    def join(self, total: Callable[[Tensor], Tensor]) -> None:
        """Become the sum over all ranks; ``total`` returns that of a tensor."""
        self.squares = total(self.squares)
        self.num_tokens = int(total(torch.tensor(self.num_tokens)))


@dataclass
class Group(Generic[S]):
    """Linears that receive the same input tensor, and the statistic of that input."""

    linears: list[Linear]
    sum: S


class _Grouping(Generic[S]):
    """Assigns observed inputs to groups while a block runs."""

    def __init__(self, start: Callable[[int, torch.device], S]) -> None:
        self.groups: list[Group[S]] = []
        self._start = start
        self._group_of: dict[Linear, Group[S]] = {}
        self._seen: list[tuple[Tensor, int, Group[S]]] = []
        self.given: dict[Linear, tuple[Tensor, int]] = {}

    def see(self, linear: Linear, inputs: Tensor) -> None:
        if inputs.numel() == 0:  # an expert called with no tokens
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
        """The input of this linear in the original model, unless it was changed in place since."""
        inputs, version = self.given.get(linear, (None, 0))
        return inputs if inputs is not None and inputs._version == version else None

    def forget_inputs(self) -> None:
        """Drop the tensors of the finished forward pass: their memory will be reused."""
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
    """Keeps the inputs of linears that see every token, with their version, for one pass."""

    def __init__(self, kept: dict[Linear, tuple[Tensor, int]], num_tokens: int) -> None:
        self._kept = kept
        self._num_tokens = num_tokens

    def __call__(self, linear: Linear, inputs: Tensor) -> None:
        if inputs[..., 0].numel() == self._num_tokens:
            self._kept[linear] = inputs, inputs._version


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether both are the same memory, whatever the shape of their leading axes."""
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
    """Run a block on every batch and accumulate statistics of the inputs of its linears.

    On several ranks the batches are this rank's, and the statistics those of all ranks.

    Args:
        prefix: path of the block in the model, with a trailing dot.
        hidden, calls: per batch, the block's input ``[batch, length, hidden_size]`` and its other
            arguments.
        start: creates an empty statistic for a width and a device.
        given: per batch, the block's input in the original model; overwritten by its output there.
            Statistics then receive the original inputs too, except for experts: these see only
            some of the tokens, which may differ between the two models.

    Returns:
        The groups of linears, and the block's output per batch.

    Raises:
        DataError: a linear received no tokens. An expert that received none has an empty statistic.
        NumericsError: NaN or infinity in the block's output.
    """
    grouping = _Grouping(start)
    outputs = []
    stored = stored_tensors(block, prefix)
    for index, (states, call) in enumerate(zip(hidden, calls, strict=True)):
        if given is not None:
            keeping = _Keeping(grouping.given, states[..., 0].numel())
            with ProductObserver(stored, linears, keeping), in_pass(call.device):
                given[index] = replay(block, given[index], call)
        with ProductObserver(stored, linears, grouping.see), in_pass(call.device):
            outputs.append(replay(block, states, call))
        grouping.forget_inputs()
    check_finite(outputs, prefix.removesuffix("."))
    groups = _of_all_ranks(grouping.groups, linears, start, calls[0].device)
    seen = {linear for group in groups for linear in group.linears}
    for linear in linears:
        if linear not in seen:
            if expert_kind(linear) is None:
                raise DataError(
                    f"layer '{linear.name}' received no tokens of the calibration text; calibrate "
                    f"on more windows"
                )
            groups.append(Group([linear], start(linear.shape[1], hidden[0].device)))
    return groups, outputs


def _of_all_ranks(
    groups: list[Group[S]],
    linears: Sequence[Linear],
    start: Callable[[int, torch.device], S],
    device: torch.device,
) -> list[Group[S]]:
    """The groups of all ranks with their sums; an expert may have no tokens on some of them."""
    if ranks.size() == 1:
        return groups
    known = {linear.name: linear for linear in linears}
    own = {linear: group.sum for group in groups for linear in group.linears}
    found: list[Group[S]] = []
    placed: set[str] = set()
    every = ranks.exchanged([[linear.name for linear in group.linears] for group in groups])
    for names in chain.from_iterable(every):
        if placed.isdisjoint(names):
            placed.update(names)
            here = [known[name] for name in names]
            total = own.get(here[0]) or start(here[0].shape[1], device)
            total.join(ranks.total)
            found.append(Group(here, total))
    return found
