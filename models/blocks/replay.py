"""Running a model block by block without tracing it.

The model runs once with every block's forward replaced by one that records its arguments and
hands its hidden states on unchanged; each block is then replayed with those arguments verbatim.
Masks, position embeddings and sliding windows are the model's own, so no architecture needs code
of ours. What follows the blocks (norm, head, soft caps) runs the same way, from given hidden
states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoints import all_finite
from ...errors import ModelError, NumericsError
from .skeleton import Skeleton


@dataclass(frozen=True)
class Call:
    """The arguments a block was called with, its hidden states left out."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """One batch on its way through the blocks.

    Attributes:
        tokens: int64 ``[batch, length]``.
        hidden: ``[batch, length, hidden_size]``, what enters the next block.
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
    pool: list[Tensor] = []
    captured: list[Batch] = []
    if batches:
        _learn_return(skeleton, batches[0][:1])
    for tokens in batches:
        here = tokens.to(skeleton.device)
        calls: list[Call] = []
        first: list[Tensor] = []

        def record(
            hidden: Tensor,
            *args: Any,
            calls: list[Call] = calls,
            first: list[Tensor] = first,
            **kwargs: Any,
        ) -> Tensor:
            if first and hidden is not first[0]:
                raise ModelError(
                    _not_a_stack(skeleton, f"changes what leaves block {len(calls) - 1}")
                )
            first.append(hidden)
            kept = {name: _shared(value, pool) for name, value in kwargs.items()}
            calls.append(Call(_shared(args, pool), kept))
            if captured and len(calls) == len(skeleton.blocks):
                raise _Reached  # the first batch ran to its end: there is no more to be seen
            return hidden

        with suppress(_Reached):
            _run_replaced(skeleton, here, record)
        if len(calls) != len(skeleton.blocks):
            raise ModelError(_not_a_stack(skeleton, f"calls {len(calls)} blocks in a run"))
        check_finite(first[:1], "what comes before the blocks")
        captured.append(Batch(here, first[0], tuple(calls)))
    return captured


def _not_a_stack(skeleton: Skeleton, why: str) -> str:
    return (
        f"{type(skeleton.model).__name__} does not simply run '{skeleton.path}' "
        f"({len(skeleton.blocks)} blocks) one after the other: it {why}; such a model cannot be "
        f"taken block by block"
    )


class _Reached(Exception):
    """The block that was waited for was called; the run need not go on to the head."""


def _learn_return(skeleton: Skeleton, tokens: Tensor) -> None:
    """Find out once whether the blocks return a tensor or a tuple, by asking the first one."""
    if skeleton.returns_tuple is not None:
        return

    def ask(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with skeleton.block(0) as block:
            output = type(block).forward(block, hidden, *args, **kwargs)
        skeleton.returns_tuple = isinstance(output, tuple)
        raise _Reached

    with suppress(_Reached):
        _run_replaced(skeleton, tokens.to(skeleton.device), ask)


def replay(block: nn.Module, hidden: Tensor, call: Call) -> Tensor:
    """What a block makes of hidden states ``[batch, length, hidden_size]``, same shape."""
    output = block(hidden, *call.args, **call.kwargs)
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


@torch.no_grad()
def logits(skeleton: Skeleton, tokens: Tensor, hidden: Tensor) -> Tensor:
    """Logits ``[batch, length, vocab_size]`` from what left the last block."""

    def passed(_: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden

    return _run_replaced(skeleton, tokens.to(skeleton.device), passed)


@torch.no_grad()
def through_blocks(
    skeleton: Skeleton,
    batches: Sequence[Batch],
    announce: Callable[[int, int], None] = lambda done, total: None,
) -> list[Tensor]:
    """The hidden states of every batch after the last block; ``announce`` is told each block."""
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
    """Refuse NaN and infinity in activations, naming the block they came out of.

    Raises:
        NumericsError: found some.
    """
    for states in hidden:
        if not all_finite(states):
            count = int((~torch.isfinite(states)).sum())
            raise NumericsError(
                f"{where} gave {count} values that are NaN or infinite; the weights are damaged "
                f"or the dtype {states.dtype} is too narrow{_FIXES.get(states.dtype, '')}"
            )


def _run_replaced(skeleton: Skeleton, tokens: Tensor, forward: Callable[..., Tensor]) -> Tensor:
    with _replaced(skeleton.blocks, forward, bool(skeleton.returns_tuple)):
        output: Tensor = skeleton.model(tokens, use_cache=False).logits
    return output


@contextmanager
def _replaced(
    blocks: Sequence[nn.Module], forward: Callable[..., Tensor], as_tuple: bool
) -> Iterator[None]:
    def replacement(*args: Any, **kwargs: Any) -> Tensor | tuple[Tensor]:
        hidden = args[0] if args else kwargs.pop("hidden_states")
        states = forward(hidden, *args[1:], **kwargs)
        return (states,) if as_tuple else states

    for block in blocks:
        block.forward = replacement
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _shared(value: Any, pool: list[Tensor]) -> Any:
    if isinstance(value, tuple):
        return tuple(_shared(item, pool) for item in value)
    if not isinstance(value, Tensor):
        return value
    for kept in pool:
        if kept is value or (
            kept.shape == value.shape and kept.dtype == value.dtype and torch.equal(kept, value)
        ):
            return kept
    pool.append(value)
    return value
