"""sensitivity: what it estimates, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import tiny_checkpoint
from tiny_contexts import calibrated

from birdbone.checkpoints import Checkpoint
from birdbone.engine import run
from birdbone.errors import LinkError
from birdbone.links import quantize, sensitivity
from birdbone.links.allocating.forecast import outlined_sensitivity
from birdbone.solvers.grid import Grid


async def _measured(checkpoint: Checkpoint, **settings: Any) -> dict[str, Any]:
    return await run(sensitivity(**settings), calibrated(checkpoint))


@pytest.mark.parametrize("arch", ["llama", "llama_tied", "gemma3", "mixtral"])
async def test_estimates(arch: str) -> None:
    """Sizes are those of the outline that planning uses, and losses fall with bits."""
    checkpoint = tiny_checkpoint(arch)
    settings = {"bits": (2, 4, 8), "group_sizes": (16, None)}
    ctx = await _measured(checkpoint, **settings)
    found = ctx["sensitivity"]
    grids = [Grid(bits, size) for bits in (2, 4, 8) for size in (16, None)]
    outline = outlined_sensitivity(checkpoint, ctx["calibration"], grids)
    assert list(found.linears) == list(outline.linears)
    for name, each in found.linears.items():
        planned = outline.linears[name]
        assert (each.shape, each.dense_bytes, each.kind) == (
            planned.shape,
            planned.dense_bytes,
            planned.kind,
        )
        assert {(g.bits, g.group_size, g.num_bytes) for g in each.grids} == {
            (g.bits, g.group_size, g.num_bytes) for g in planned.grids
        }
        losses = [each.loss_at(bits) for bits in (2, 4, 8)]
        assert losses == sorted(losses, reverse=True)
        assert each.loss_at(5) is None
    assert (found.embeddings is None) == (outline.embeddings is None) == (arch == "gemma3")
    if found.embeddings is not None and outline.embeddings is not None:
        assert found.embeddings.num_bytes == outline.embeddings.num_bytes
        assert len(found.embeddings.names) == (1 if arch == "llama_tied" else 2)
        assert 0 < found.embeddings.loss < sum(found.linears[n].loss_at(2) for n in found.linears)
    metrics = ctx["history"][-1].metrics
    assert metrics["bits"] == 4
    assert metrics["sensitivities"].keys() == found.linears.keys()
    assert sum(metrics["sensitivities"].values()) == metrics["loss"]
    worst = max(found.linears, key=lambda name: found.linears[name].loss_at(4))
    assert metrics["most_sensitive"] == worst


async def test_small_errors_are_predicted() -> None:
    """With 8 bits the estimate is of the size of the KL divergence that it stands for."""
    checkpoint = tiny_checkpoint("llama")
    ctx = calibrated(checkpoint, num=16)
    found = (await run(sensitivity(bits=(6,), group_sizes=(None,)), ctx))["sensitivity"]
    from birdbone.links import validate

    rounded = quantize(bits=6, group_size=None, matching=0.0)
    judged = await run(validate(), await run(rounded, {**ctx, "heldout": ctx["calibration"]}))
    estimate = sum(each.loss_at(6) for each in found.linears.values())
    assert 0.3 < estimate / judged["verdict"].heldout.mean_kl < 3


async def test_quantised_already() -> None:
    ctx = await run(quantize(group_size=16, matching=0.0), calibrated(tiny_checkpoint("llama")))
    with pytest.raises(LinkError, match=r"q_proj' is quantised already; load the model it was"):
        await run(sensitivity(), ctx)


async def test_no_packable_linear() -> None:
    with pytest.raises(LinkError, match="no linear of 'tiny/gpt2' can be stored"):
        await _measured(tiny_checkpoint("gpt2"))


async def test_no_group_size_divides() -> None:
    with pytest.raises(LinkError, match=r"divides the 32 columns of layer .*; add null"):
        await _measured(tiny_checkpoint("llama"), group_sizes=(128,))


@pytest.mark.parametrize("name", ["bits", "group_sizes"])
async def test_nothing_to_estimate(name: str) -> None:
    with pytest.raises(LinkError, match=rf"sensitivity\({name}=\(\)\) leaves nothing"):
        await _measured(tiny_checkpoint("llama"), **{name: ()})
