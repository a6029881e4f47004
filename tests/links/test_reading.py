"""No link looks at a key it does not declare: what a run folder's keys rest on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_contexts import scored

from birdbone.links import heal, prune, quantize, save, score, validate


class Watched(dict[str, Any]):
    """A context that remembers which of its keys were asked for."""

    def __init__(self, items: dict[str, Any]) -> None:
        super().__init__(items)
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)


@pytest.mark.parametrize(
    "made",
    [
        score(),
        prune(sparsity=0.5),
        prune(sparsity=0.2, pattern="neurons"),
        prune(sparsity=0.3, pattern="layers"),
        heal(epochs=1),
        heal(method="lora", rank=2, epochs=1),
        quantize(group_size=32),
        validate(),
        pytest.param(save, marks=pytest.mark.slow),
    ],
    ids=lambda made: made.__name__,
)
async def test_a_link_reads_what_it_declares(made: Any, tmp_path: Path) -> None:
    link = made(path=str(tmp_path / "out"), compare=False) if made is save else made
    ctx = Watched({**await scored("llama"), "plan": None, "saved": None})
    await link.factory.run(ctx, link.settings)
    assert ctx.asked
    assert ctx.asked <= link.factory.may_read
