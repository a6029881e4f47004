"""The memory a context takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ...checkpoints import Checkpoint
from ...contexts.profile import Profile
from ...contexts.scores import Scores
from ...contexts.verdict import Reference
from ...models.planning.outline import held_bytes


def context_bytes(*contexts: Mapping[str, Any]) -> int:
    """Bytes in memory of the values of contexts; shared values are counted once.

    Counted are models, hidden states, per-weight scores, and second moments. A profile in outline
    has one moment per linear, which is an upper bound: linears on the same input share theirs.
    """
    values = {id(value): value for ctx in contexts for value in ctx.values()}.values()
    models = held_bytes(*(value for value in values if isinstance(value, Checkpoint)))
    tensors = {id(tensor): tensor for value in values for tensor in _tensors(value)}.values()
    return models + sum(tensor.numel() * tensor.itemsize for tensor in tensors)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Reference):
        yield from value.hidden.values()
    elif isinstance(value, Scores):
        yield from value.weights.values()
    elif isinstance(value, Profile):
        yield from (each.second_moment for each in value.linears.values())
