"""heal(method="scales"): what quantize left is healed without a change of its codes."""

from typing import Any

import pytest
from tiny import tiny_checkpoint, tiny_windows
from tiny_folders import quantized

from birdbone.checkpoints import Checkpoint, GgmlBlocks, Quantized, diff
from birdbone.engine import Chain, run
from birdbone.errors import ChainError, LinkError
from birdbone.links import heal, load, quantize
from birdbone.links.healing.forecast import heal_forecast
from birdbone.links.healing.settings import HealSettings
from birdbone.texts import Windows

HEAL: dict[str, Any] = {"method": "scales", "learning_rate": 8e-2, "epochs": 3}


def _context(light: Checkpoint, dense: Checkpoint) -> dict[str, Any]:
    """One text again and again: what is learned of it holds on the windows kept out."""
    text = Windows(tiny_windows(1).tokens.repeat(8, 1), "one text")
    texts = {"calibration": text, "healing": text, "heldout": text}
    return {"checkpoint": light, "dense": dense, **texts}


@pytest.mark.parametrize("precision", ["auto", "float32"])
@pytest.mark.parametrize("arch", ["llama_tied", "mixtral"])
async def test_after_quantize_the_loss_falls_and_the_size_stays(arch: str, precision: str) -> None:
    dense = tiny_checkpoint(arch)
    rounded = await run(Chain(quantize(bits=3, group_size=16)), _context(dense, dense))
    ctx = await run(Chain(heal(precision=precision, **HEAL)), rounded)
    metrics = ctx["history"][-1].metrics
    assert metrics["kept"] is True
    assert metrics["kl_after"] < 0.9 * metrics["kl_before"]
    before, after = rounded["checkpoint"], ctx["checkpoint"]
    assert after.num_bytes == before.num_bytes
    coded = {name for name, ref in before.refs.items() if isinstance(ref, Quantized)}
    assert set(diff(before, after).changed) == coded
    scales = sum(before.refs[name].scales.numel() for name in coded)
    assert metrics["trained_parameters"] == scales


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
@pytest.mark.parametrize("grid", ["q4_0", "iq4_nl"])
async def test_scales_of_ggml_types_too(arch: str, grid: str) -> None:
    dense = tiny_checkpoint(arch)
    rounded = await run(Chain(quantize(grid=grid, method="rtn")), _context(dense, dense))
    ctx = await run(Chain(heal(**HEAL)), rounded)
    metrics = ctx["history"][-1].metrics
    assert metrics["kept"] is True
    assert metrics["kl_after"] < 0.95 * metrics["kl_before"]
    before, after = rounded["checkpoint"], ctx["checkpoint"]
    for name, ref in before.refs.items():
        assert after.refs[name].storage_kind == ref.storage_kind
    changed = diff(before, after).changed
    assert set(changed) == {
        name for name, ref in before.refs.items() if isinstance(ref, GgmlBlocks)
    }


@pytest.mark.parametrize("grid", [None, "fp8"])
async def test_weights_without_such_scales_are_refused_by_kind(grid: Any) -> None:
    dense = tiny_checkpoint("llama_tied")
    ctx: Any = _context(dense, dense)
    if grid is not None:
        ctx = await run(Chain(quantize(grid=grid, method="rtn")), ctx)
    kind = {None: "float32"}.get(grid, grid)
    with pytest.raises(
        LinkError, match=rf"scales of integers and ggml types, .* are {kind}; put quantize"
    ):
        await run(heal(**HEAL), ctx)


def test_nothing_quantised_before_it_is_refused_where_that_is_known() -> None:
    scales = heal(method="scales")
    with pytest.raises(ChainError, match="before quantize finds no scales"):
        Chain(load(model="x"), scales, quantize())
    Chain(load(model="x", dequantize=False), scales)
    Chain(scales)


def test_adapters_after_quantize_are_refused_for_scales() -> None:
    with pytest.raises(ChainError, match="'scales' trains their scales"):
        Chain(load(model="x"), quantize(), heal(method="lora"))


def test_the_forecast_is_that_of_a_whole_model_with_little_to_train() -> None:
    dense = tiny_checkpoint(hidden_size=64, intermediate_size=256)
    ctx: Any = _context(quantized(dense), dense)
    scales, whole = (
        heal_forecast(ctx, HealSettings(method=method, epochs=1)) for method in ("scales", "full")
    )
    assert (scales.block_passes, scales.head_passes) == (whole.block_passes, whole.head_passes)
    assert scales.memory_bytes < whole.memory_bytes
    assert scales.adds["checkpoint"].num_bytes == ctx["checkpoint"].num_bytes
