"""The documents sampled so far, by batch, as they are saved and resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .generate import Sampled


@dataclass(frozen=True)
class SampledBatch:
    """One batch.

    Attributes:
        kept: documents that passed the filters.
        num_sampled: documents that were sampled.
    """

    kept: tuple[Sampled, ...]
    num_sampled: int

    @property
    def num_tokens(self) -> int:
        return sum(len(each.tokens) for each in self.kept)


def first_batches(batches: Sequence[SampledBatch], num_tokens: int) -> list[SampledBatch]:
    """Return the first batches that hold so many tokens together; all if there are fewer."""
    found: list[SampledBatch] = []
    for each in batches:
        if sum(batch.num_tokens for batch in found) >= num_tokens:
            break
        found.append(each)
    return found


def as_state(batches: Sequence[SampledBatch]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return batches as tensors and facts that `read_state` reads."""
    documents = [document for each in batches for document in each.kept]
    tensors = {
        "sampled": torch.tensor([token for each in documents for token in each.tokens]),
        "lengths": torch.tensor([len(each.tokens) for each in documents]),
        "given": torch.tensor([each.num_given for each in documents]),
    }
    facts = {"batches": [[len(each.kept), each.num_sampled] for each in batches]}
    return {name: value.to(torch.int64) for name, value in tensors.items()}, facts


def read_state(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> list[SampledBatch]:
    """Return the batches of a state; the likelihood of their documents is not kept (NaN)."""
    parts = tensors["sampled"].split(tensors["lengths"].tolist())
    documents = iter(
        Sampled(tuple(part.tolist()), given, float("nan"))
        for part, given in zip(parts, tensors["given"].tolist(), strict=True)
    )
    return [
        SampledBatch(tuple(next(documents) for _ in range(kept)), sampled)
        for kept, sampled in facts["batches"]
    ]
