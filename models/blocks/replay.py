"""Run a model block by block without tracing it.

The model runs once with the forward of every block replaced by one that records its arguments and
returns its hidden states unchanged. Each block is then replayed with the recorded arguments. Masks,
position embeddings and sliding windows come from the model itself, so no architecture needs special
code. State that blocks pass to later blocks is recorded too (`shared_state`). The layers after the
blocks (norm, head, soft caps) run the same way, from given hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...checkpoints import all_finite
from ...checkpoints.devices import CPU
from ...errors import ModelError, NumericsError
from .activations import moved, resting_device
from .shared_state import Layout, Placeholder, Recorder, Returned, State, placeholders_in
from .skeleton import Skeleton


@dataclass(frozen=True)
class Call:
    """The arguments of a call of a block, without the hidden states.

    Attributes:
        args, kwargs: the recorded arguments, with references in place of state of other blocks.
        block: index of the block.
        passed_on: outputs other than hidden states that later blocks receive.
        shares: whether any block of the model receives a reference.
        device: the device the block runs on.
        axes: which axes of the block's hidden states are the batch and the length.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    block: int = 0
    passed_on: frozenset[Returned] = frozenset()
    shares: bool = False
    device: torch.device = CPU
    axes: tuple[int, int] = (0, 1)


@dataclass(frozen=True)
class Batch:
    """One batch between two blocks.

    Attributes:
        tokens: int64 ``[batch, length]``.
        hidden: ``[batch, length, hidden_size]``, the input of the next block; on the host or the
            device (`activations`). A model with several streams (Gemma 3n) has one more axis.
        calls: one per block.
    """

    tokens: Tensor
    hidden: Tensor
    calls: tuple[Call, ...]


@torch.no_grad()
def capture(skeleton: Skeleton, batches: Sequence[Tensor]) -> list[Batch]:
    """Run the model up to its first block for every batch of tokens ``[batch, length]``.

    Equal tensors among the arguments of different batches (masks, rotary tables) are kept once.
    """
    skeleton.rest = resting_device(skeleton.device, _state_bytes(skeleton, batches))
    pool: list[Tensor] = []
    captured: list[Batch] = []
    layout = _learned_layout(skeleton, batches[0][:1]) if batches else Layout()
    for tokens in batches:
        here = tokens.to(skeleton.device)
        recording = _Recording(skeleton, Recorder(layout), pool, whole=not captured)
        with suppress(_Reached):
            _run_replaced(skeleton, here, recording.forward)
        captured.append(recording.batch(here))
    return captured


def _state_bytes(skeleton: Skeleton, batches: Sequence[Tensor]) -> int:
    """Bytes of all hidden states before and after a block."""
    config = skeleton.model.config.get_text_config(decoder=True)
    width = getattr(config, "hidden_size", None)
    if not isinstance(width, int):  # code that comes with a model may name it otherwise
        width = max(each.shape[-1] for each in skeleton.blocks[0].parameters() if each.ndim > 1)
    return 2 * sum(tokens.numel() for tokens in batches) * width * skeleton.dtype.itemsize


class _Recording:
    """The calls of one run in which no block computes.

    Args:
        pool: tensors of earlier runs; equal tensors are replaced by them.
        whole: continue to the head, to check that no block is called twice.
    """

    def __init__(
        self, skeleton: Skeleton, recorder: Recorder, pool: list[Tensor], *, whole: bool
    ) -> None:
        self._skeleton, self._recorder, self._pool = skeleton, recorder, pool
        self._whole = whole
        self._calls: list[Call] = []
        self._first: Tensor | None = None

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Record the call of the next block and return its hidden states unchanged."""
        place = len(self._calls)
        if self._first is None:
            self._first = hidden
        elif not _same_memory(hidden, self._first):
            raise ModelError(not_a_stack(self._skeleton, f"changes what leaves block {place - 1}"))
        kept = {name: self._kept(value) for name, value in kwargs.items()}
        self._calls.append(Call(self._kept(args), kept, place))
        if not self._whole and len(self._calls) == len(self._skeleton.blocks):
            raise _Reached  # the first batch ran to the end and was checked
        return self._recorder.output(hidden, place)

    def batch(self, tokens: Tensor) -> Batch:
        """The recorded calls.

        Raises:
            ModelError: the number of calls differs from the number of blocks.
            NumericsError: NaN or infinity in the input of the first block.
        """
        if self._first is None or len(self._calls) != len(self._skeleton.blocks):
            raise ModelError(not_a_stack(self._skeleton, f"calls {len(self._calls)} blocks"))
        check_finite([self._first], "what comes before the blocks")
        values = [v for call in self._calls for v in (call.args, *call.kwargs.values())]
        references = {found for value in values for found in placeholders_in(value)}
        passed_on = frozenset(each for each in references if isinstance(each, Returned))
        facts: dict[str, Any] = {
            "passed_on": passed_on,
            "shares": bool(references),
            "device": self._first.device,
            "axes": self._recorder.layout.axes,
        }
        calls = tuple(replace(call, **facts) for call in self._calls)
        hidden = batch_first(self._first, facts["axes"])
        return Batch(tokens, moved(hidden, self._skeleton.rest), calls)

    def _kept(self, value: Any) -> Any:
        """The value with state replaced by references, and equal tensors by one tensor."""
        if isinstance(value, tuple):
            return tuple(self._kept(each) for each in value)
        reference: Placeholder | None = self._recorder.reference(value)
        return _shared(value, self._pool) if reference is None else reference


def not_a_stack(skeleton: Skeleton, why: str) -> str:
    """The error for a model that cannot be run block by block."""
    return (
        f"{type(skeleton.model).__name__} does not simply run '{skeleton.path}' "
        f"({len(skeleton.blocks)} blocks) one after the other: it {why}; such a model cannot be "
        f"taken block by block"
    )


class _Reached(Exception):
    """Raised when the last block was called, to end the run before the head."""


def _learned_layout(skeleton: Skeleton, tokens: Tensor) -> Layout:
    """How the blocks return their output, determined once from the first block."""
    if skeleton.layout is None:
        found: list[Layout] = []

        def ask(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            with skeleton.block(0) as block:
                found.append(Layout.of(type(block).forward(block, hidden, *args, **kwargs)))
            raise _Reached

        with suppress(_Reached):
            _run_replaced(skeleton, tokens.to(skeleton.device), ask)
        layout = found[0] if found else Layout()
        skeleton.layout = replace(layout, axes=_learned_axes(skeleton, tokens))
    return skeleton.layout


def _learned_axes(skeleton: Skeleton, tokens: Tensor) -> tuple[int, int]:
    """The axes of hidden states that grow with the number of windows and with their length.

    Raises:
        ModelError: there are no such axes.
    """
    shorter = tokens[:, :-1] if tokens.shape[1] > 1 else tokens.repeat(1, 2)
    shape = _first_shape(skeleton, tokens)
    others = _first_shape(skeleton, tokens.repeat(2, 1)), _first_shape(skeleton, shorter)
    grown = [
        [axis for axis, size in enumerate(other) if shape[axis : axis + 1] != (size,)]
        for other in others
    ]
    if [len(axes) for axes in grown] != [1, 1] or grown[0] == grown[1]:
        why = f"passes on hidden states of shape {shape} for {tuple(tokens.shape)} tokens"
        raise ModelError(not_a_stack(skeleton, why))
    return grown[0][0], grown[1][0]


def _first_shape(skeleton: Skeleton, tokens: Tensor) -> tuple[int, ...]:
    """Shape of the hidden states that the first block receives."""
    found: list[tuple[int, ...]] = []

    def ask(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        found.append(tuple(hidden.shape))
        raise _Reached

    with suppress(_Reached):
        _run_replaced(skeleton, tokens.to(skeleton.device), ask)
    return found[0] if found else (1, 1)


def require_independent(skeleton: Skeleton, batches: Sequence[Batch]) -> None:
    """Refuse to remove blocks of a model whose blocks share state other than hidden states.

    Raises:
        ModelError: they share such state.
    """
    if any(call.shares for batch in batches for call in batch.calls):
        raise ModelError(
            f"the blocks of {type(skeleton.model).__name__} pass on more than hidden states to "
            f"later blocks, so none of them can be left out; prune other units"
        )


def replay(block: Callable[..., Any], hidden: Tensor, call: Call, *, stay: bool = False) -> Tensor:
    """The output of a block for hidden states ``[batch, length, hidden_size]``, same shape.

    Args:
        block: the module, or a function that runs it with other parameters.
        stay: leave the output on the device that computed it; by default it goes to the device of
            ``hidden``.

    Raises:
        ModelError: it needs the output of an earlier block that was not run.
    """
    states = _replayed(block, moved(hidden, call.device), call)
    return states if stay else moved(states, hidden.device)


def _replayed(block: Callable[..., Any], hidden: Tensor, call: Call) -> Tensor:
    given = as_in_model(hidden, call.axes)
    if not call.shares:
        return batch_first(_states(block(given, *call.args, **call.kwargs)), call.axes)
    state = State.of(hidden, block=call.block)
    kwargs = {name: state.fill(value) for name, value in call.kwargs.items()}
    output = block(given, *state.fill(call.args), **kwargs)
    states = batch_first(_states(output), call.axes)
    states = states.view_as(states) if states is hidden else states
    state.leave(states, output, call.block, call.passed_on)
    return states


def with_parameters(block: nn.Module, parameters: Mapping[str, Tensor]) -> Callable[..., Any]:
    """A function that runs a block with some of its parameters replaced, by name."""

    def run(*args: Any, **kwargs: Any) -> Any:
        return functional_call(block, dict(parameters), args, kwargs)

    return run


def batch_first(hidden: Tensor, axes: tuple[int, int]) -> Tensor:
    """Hidden states of the model with the batch as first axis and the length as second."""
    return hidden if axes == (0, 1) else hidden.movedim(axes, (0, 1)).contiguous()


def as_in_model(hidden: Tensor, axes: tuple[int, int]) -> Tensor:
    """The inverse of `batch_first`."""
    return hidden if axes == (0, 1) else hidden.movedim((0, 1), axes)


def _states(output: Any) -> Tensor:
    states: Tensor = output[0] if isinstance(output, (tuple, list)) else output
    return states


@torch.no_grad()
def logits(skeleton: Skeleton, tokens: Tensor, hidden: Tensor) -> Tensor:
    """Logits ``[batch, length, vocab_size]`` from the output of the last block."""

    layout = skeleton.layout or Layout()
    hidden = as_in_model(hidden.to(skeleton.device), layout.axes)

    def passed(_: Tensor, *args: Any, **kwargs: Any) -> Any:
        return layout.output(hidden)

    return _run_replaced(skeleton, tokens.to(skeleton.device), passed)


@torch.no_grad()
def through_blocks(
    skeleton: Skeleton,
    batches: Sequence[Batch],
    announce: Callable[[int, int], None] = lambda done, total: None,
) -> list[Tensor]:
    """The hidden states of every batch after the last block; announces every block."""
    hidden = [batch.hidden for batch in batches]
    for index, block in skeleton.each_block():
        hidden = [
            replay(block, states, batch.calls[index])
            for states, batch in zip(hidden, batches, strict=True)
        ]
        check_finite(hidden, f"{skeleton.path}.{index}")
        announce(index + 1, len(skeleton.blocks))
    return hidden


_FIXES = {torch.float16: ": load(dtype='bfloat16') has the range of float32"}


def check_finite(hidden: Sequence[Tensor], where: str) -> None:
    """Refuse NaN and infinity in activations, naming the block that produced them.

    Raises:
        NumericsError: there are some.
    """
    for states in hidden:
        if not all_finite(states):
            count = int((~torch.isfinite(states)).sum())
            raise NumericsError(
                f"{where} gave {count} values that are NaN or infinite; the weights are damaged "
                f"or the dtype {states.dtype} is too narrow{_FIXES.get(states.dtype, '')}"
            )


def _run_replaced(skeleton: Skeleton, tokens: Tensor, forward: Callable[..., Any]) -> Tensor:
    with replaced(skeleton.blocks, forward):
        output: Tensor = skeleton.model(tokens, use_cache=False).logits
    return output


@contextmanager
def replaced(blocks: Sequence[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    """Replace the forward of the blocks inside the context; it receives hidden states first."""

    def replacement(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs.pop("hidden_states")
        return forward(hidden, *args[1:], **kwargs)

    for block in blocks:
        block.forward = replacement
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same values on the same device."""
    return one is other or (
        one.data_ptr() == other.data_ptr()
        and one.shape == other.shape
        and one.stride() == other.stride()
        and one.dtype == other.dtype
    )


def _shared(value: Any, pool: list[Tensor]) -> Any:
    if not isinstance(value, Tensor):
        return value
    for kept in pool:
        if kept is value or (
            kept.shape == value.shape and kept.dtype == value.dtype and torch.equal(kept, value)
        ):
            return kept
    pool.append(value)
    return value
