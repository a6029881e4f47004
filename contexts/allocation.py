"""The allocation: ways to store the model within a budget of bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import SettingError
from .sensitivity import QuantizedFormat


@dataclass(frozen=True)
class LinearGrid:
    """The grid of one linear.

    Attributes:
        bits: bits of an integer.
        group_size: input columns that share a scale; None for a whole row.
        ggml_type: the type of a GGUF file, such as ``q4_0``; None for packed integers.
    """

    bits: int
    group_size: int | None
    ggml_type: str | None = None


@dataclass(frozen=True)
class Candidate:
    """One way to store the model.

    Attributes:
        name: what tables call it, such as ``allocated`` or ``4 bits, groups of 64``.
        uniform: whether all linears have the same grid.
        grids: the grid of every linear to quantise, by name; the others stay as they are. For a
            GGUF file embedding and head are among them.
        embedding_bits: 8, or None if embedding and head stay as they are, or are among ``grids``.
        num_bytes: predicted bytes of the weight files, or of the GGUF file.
        loss: estimated rise of the loss, nats per token.
        speed: how many times as many tokens per second as the original it generates, as measured
            for a budget of speed; None for other budgets.
    """

    name: str
    uniform: bool
    grids: Mapping[str, LinearGrid] = field(repr=False)
    embedding_bits: int | None
    num_bytes: int
    loss: float
    speed: float | None = None


@dataclass(frozen=True)
class Allocation:
    """The result of the allocate link.

    Attributes:
        budget_bytes: what the weight files, or the GGUF file, may take.
        candidates: ways to store the model within the budget, the allocated ones first, each kind
            by ascending loss; for a largest rise, by ascending size.
        place: the candidate that quantize applies.
        exact: whether the knapsack was solved exactly.
        max_rise: look for the smallest candidate whose worse rise of perplexity is at most this;
            None to keep the best of all.
        format: what the model is to be saved as, a folder of packed integers or a GGUF file.
        cache_bytes: what the KV cache takes of a budget of memory; 0 for other budgets.
        too_slow: for a budget of speed that no way to store the model reaches: what was measured;
            the only candidate is then the fastest one.

    Raises:
        SettingError: there is no candidate at ``place``.
    """

    budget_bytes: int
    candidates: tuple[Candidate, ...]
    place: int = 0
    exact: bool = True
    max_rise: float | None = None
    format: QuantizedFormat = "compressed-tensors"
    cache_bytes: int = 0
    too_slow: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.place < len(self.candidates):
            raise SettingError(
                f"an allocation of {len(self.candidates)} candidates has none at place "
                f"{self.place}; give a place from 0 on, and at least one candidate"
            )

    @property
    def current(self) -> Candidate:
        """The candidate that quantize applies."""
        return self.candidates[self.place]
