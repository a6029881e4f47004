"""The allocation: ways to store the model within a budget of bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import SettingError


@dataclass(frozen=True)
class LinearGrid:
    """The grid of one linear.

    Attributes:
        bits: bits of an integer.
        group_size: input columns that share a scale; None for a whole row.
    """

    bits: int
    group_size: int | None


@dataclass(frozen=True)
class Candidate:
    """One way to store the model.

    Attributes:
        name: what tables call it, such as ``allocated`` or ``4 bits, groups of 64``.
        uniform: whether all linears have the same grid.
        grids: the grid of every linear to quantise, by name; the others stay as they are.
        embedding_bits: 8, or None if embedding and head stay as they are.
        num_bytes: predicted bytes of the weight files.
        loss: estimated rise of the loss, nats per token.
    """

    name: str
    uniform: bool
    grids: Mapping[str, LinearGrid] = field(repr=False)
    embedding_bits: int | None
    num_bytes: int
    loss: float


@dataclass(frozen=True)
class Allocation:
    """The result of the allocate link.

    Attributes:
        budget_bytes: what the weight files may take.
        candidates: ways to store the model within the budget, the allocated ones first, each kind
            by ascending loss; for a largest rise, by ascending size.
        place: the candidate that quantize applies.
        exact: whether the knapsack was solved exactly.
        max_rise: look for the smallest candidate whose worse rise of perplexity is at most this;
            None to keep the best of all.

    Raises:
        SettingError: there is no candidate at ``place``.
    """

    budget_bytes: int
    candidates: tuple[Candidate, ...]
    place: int = 0
    exact: bool = True
    max_rise: float | None = None

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
