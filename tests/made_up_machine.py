"""A machine whose speed on a GGUF file is computed, in place of one that is measured."""

from __future__ import annotations

from collections.abc import Sequence

from birdbone.checkpoints import Checkpoint, GgmlBlocks
from birdbone.formats.ggml_types import tensor_bytes

SLOW_TYPE = "q3_k"
"""Slower than its bytes are, as types of few bits may be on a real machine."""

_OTHER_WORK = 0.2


class Machine:
    """Takes time in proportion to the bytes of matrices, more for one type, and some for the rest.

    Attributes:
        drag: how much slower files of several types are than that.
        measured: outlines in all.
    """

    def __init__(self, original: Checkpoint, drag: float = 1.0) -> None:
        self._whole = self._bytes(original)
        self.drag, self.measured = drag, 0

    async def __call__(self, models: Sequence[Checkpoint]) -> list[float]:
        self.measured += len(models)
        return [1 / self._time(each) for each in models]

    def _time(self, model: Checkpoint) -> float:
        blocks = [ref for ref in model.refs.values() if isinstance(ref, GgmlBlocks)]
        drag = self.drag if len({ref.kind for ref in blocks}) > 1 else 1.0
        return drag * (_OTHER_WORK + (1 - _OTHER_WORK) * self._bytes(model) / self._whole)

    @staticmethod
    def _bytes(model: Checkpoint) -> float:
        found = 0.0
        looked_up = "model.embed_tokens.weight" if "lm_head.weight" in model.refs else None
        for name, ref in model.refs.items():
            if len(ref.shape) == 2 and name != looked_up:
                kind = ref.kind if isinstance(ref, GgmlBlocks) else "f16"
                found += tensor_bytes(kind, ref.shape) * (2 if kind == SLOW_TYPE else 1)
        return found


async def made_up_speeds(
    original: Checkpoint, models: Sequence[Checkpoint], *, rounds: int
) -> list[float]:
    """What `running_speeds` returns on it."""
    return await Machine(original)(models)
