"""Check that a model run block by block computes exactly what the whole model computes.

The whole model runs once on a few tokens. Each block is loaded when it is called, and its output is
compared with a replay of the recorded call. Computation between blocks that the replay misses
shows as a difference. One block is in memory at a time.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...errors import ModelError
from .config import context_length
from .replay import batch_first, capture, logits, not_a_stack, replaced, replay
from .skeleton import Skeleton
from .transformers_errors import REFUSED, reason

_TOKENS, _FIRST_TOKEN = 8, 3  # the first ids are often padding, which some models mask
# Relative tolerance; on a CPU the difference is 0, elsewhere the order of summation may differ.
_TOLERANCE, _TOLERANCE_IN_HALF = 1e-4, 2e-2


@torch.no_grad()
def check_exactness(skeleton: Skeleton) -> None:
    """Refuse a model whose outputs differ when it is run block by block.

    Raises:
        ModelError: they differ, or the model cannot be run.
    """
    length = min(_TOKENS, context_length(skeleton.checkpoint) or _TOKENS)
    vocabulary = int(skeleton.model.config.get_text_config(decoder=True).vocab_size)
    tokens = (torch.arange(length) + _FIRST_TOKEN).remainder(vocabulary).unsqueeze(0)
    try:
        _compare(skeleton, tokens)
    except REFUSED as error:
        name = type(skeleton.model).__name__
        raise ModelError(
            f"{name} cannot be run block by block on {length} tokens: {reason(error)}"
        ) from error


def _compare(skeleton: Skeleton, tokens: Tensor) -> None:
    (batch,) = capture(skeleton, [tokens])
    states, place = batch.hidden, 0

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal states, place
        with skeleton.block(place) as block:
            run = partial(type(block).forward, block)
            replay(run, states, batch.calls[place])  # which must leave nothing behind
            states = replay(run, states, batch.calls[place])
            output = run(hidden, *args, **kwargs)
        whole = output[0] if isinstance(output, (tuple, list)) else output
        if not _same(states, batch_first(whole, batch.calls[place].axes)):
            why = f"calls block {place} with other arguments than when blocks are recorded"
            raise ModelError(not_a_stack(skeleton, why))
        place += 1
        return output

    with replaced(skeleton.blocks, forward):
        whole = skeleton.model(tokens.to(skeleton.device), use_cache=False).logits
    if not _same(logits(skeleton, tokens, states), whole):
        raise ModelError(not_a_stack(skeleton, "uses more than what leaves the last block"))


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal within the tolerance; NaN equals NaN."""
    if one.shape != other.shape:
        return False
    if torch.equal(one, other):
        return True
    bound = _TOLERANCE if one.dtype == torch.float32 else _TOLERANCE_IN_HALF
    one, other = one.nan_to_num().float(), other.nan_to_num().float()
    return float((one - other).norm()) <= bound * float(other.norm())
