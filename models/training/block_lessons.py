"""What blockwise healing learned about each block, saved so that an interrupted run resumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...checkpoints import TensorRef
from ..blocks.skeleton import Skeleton
from ..passes.resuming import Keeping
from .optimiser import Healed

_FACTS = ("before", "after", "rate", "steps", "size")


@dataclass(frozen=True)
class BlockLesson:
    """The result of training one block: its tensors as stored, and its held-out error.

    Attributes:
        before, after: held-out error before and after training.
        rate: peak learning rate that was selected; without improvement, the rate that the next
            block starts with.
        steps: steps taken at all rates.
        size: number of trained values.
    """

    weights: dict[str, Tensor]
    before: float
    after: float
    rate: float
    steps: int
    size: int

    @property
    def gained(self) -> bool:
        """Whether the held-out error fell."""
        return self.after < self.before


class BlockProgress:
    """The finished blocks, saved so that an interrupted run resumes after them.

    Their tensors are on disk if the place for work in progress takes single tensors.
    """

    def __init__(self, keeping: Keeping) -> None:
        self._keeping = keeping
        tensors, facts = keeping.load() or ({}, {})
        self._weights: dict[str, Tensor | TensorRef] = dict(tensors)
        self._facts: dict[str, list[Any]] = {key: list(facts.get(key, ())) for key in _FACTS}

    @property
    def num_blocks(self) -> int:
        """Number of finished blocks."""
        return len(self._facts["before"])

    @property
    def rate(self) -> float | None:
        """Learning rate of the last finished block; None before the first."""
        return self._facts["rate"][-1] if self._facts["rate"] else None

    def add(self, lesson: BlockLesson) -> None:
        """Add the result of the next block."""
        self._weights.update(self._keeping.kept(lesson.weights))
        for key, values in self._facts.items():
            values.append(getattr(lesson, key))
        self._keeping.save(lambda: (self._weights, self._facts))

    def of_block(self, light: Skeleton, index: int) -> dict[str, Tensor | TensorRef]:
        """The healed tensors of a finished block."""
        names = light.block_names(index)
        return {name: self._weights[name] for name in names if name in self._weights}

    def healed(self) -> Healed:
        """The result, once all blocks are finished."""
        before, after, rates, steps, sizes = (self._facts[key] for key in _FACTS)
        curves = {
            "block_error_before": before,
            "block_error_after": after,
            "block_learning_rate": rates,
        }
        return Healed(self._weights, sum(steps), sum(sizes), curves)
