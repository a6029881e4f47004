"""quantize applies an allocation, and refuses settings that contradict it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tiny import tiny_checkpoint
from tiny_contexts import calibrated

from birdbone.checkpoints import Quantized
from birdbone.contexts.allocation import Allocation, Candidate, LinearGrid
from birdbone.engine import run
from birdbone.errors import LinkError
from birdbone.links import quantize

_UP, _DOWN = "model.layers.0.mlp.up_proj", "model.layers.2.mlp.down_proj"


def _context(grids: dict[str, LinearGrid], embedding_bits: int | None = None) -> dict[str, Any]:
    found = Candidate("allocated", False, grids, embedding_bits, 0, 0.0)
    allocation = Allocation(1, (Candidate("other", True, {}, None, 0, 0.0), found), place=1)
    return {**calibrated(tiny_checkpoint("llama_tied")), "allocation": allocation}


@pytest.mark.parametrize("method", ["gptq", "rtn"])
async def test_grids_are_applied(method: str) -> None:
    """Linears that the allocation leaves out stay as they are."""
    grids = {_UP: LinearGrid(3, 16), _DOWN: LinearGrid(8, None)}
    ctx = await run(quantize(method=method, group_size="auto"), _context(grids, 8))
    codes = {n: ref for n, ref in ctx["checkpoint"].refs.items() if isinstance(ref, Quantized)}
    found = {name: (ref.bits, ref.scales.shape[1]) for name, ref in codes.items()}
    embedding = "model.embed_tokens.weight"
    assert found == {f"{_UP}.weight": (3, 2), f"{_DOWN}.weight": (8, 1), embedding: (8, 1)}


@pytest.mark.parametrize(
    "settings",
    [
        {"bits": 8},
        {"group_size": 32},
        {"ignore": ("*.up_proj",)},
        {"overrides": {"*": {"bits": 8}}},
        {"embedding_bits": 8},
    ],
)
async def test_contradictions(settings: dict[str, Any]) -> None:
    name = next(iter(settings))
    with pytest.raises(LinkError, match=rf"quantize\({name}=.* is decided by allocate"):
        await run(quantize(**{"group_size": "auto", **settings}), _context({}))


@pytest.mark.parametrize(
    "settings", [{"method": "llm.int8"}, {"symmetric": False}, {"grid": "q4_0"}]
)
async def test_other_formats(settings: dict[str, Any]) -> None:
    with pytest.raises(LinkError, match="does not store the integers that allocate chose"):
        await run(quantize(**settings), _context({}))


async def test_unknown_layer() -> None:
    with pytest.raises(LinkError, match=r"has a grid for layer 'model.layers.9.*after the links"):
        await run(quantize(), _context({"model.layers.9.mlp.up_proj": LinearGrid(4, 16)}))


async def test_rise_needs_select() -> None:
    ctx = _context({_UP: LinearGrid(3, 16)})
    ladder = replace(ctx["allocation"], max_rise=0.05)
    with pytest.raises(LinkError, match=r"allocate\(rise=0.05\) leaves the size to select"):
        await run(quantize(group_size="auto"), {**ctx, "allocation": ladder})
