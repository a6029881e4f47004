"""What quantize is expected to cost, and what it will store in place of each weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint
from tiny_contexts import calibrated

from birdbone.checkpoints import BitsAndBytes, Checkpoint, GgmlBlocks, Quantized
from birdbone.contexts.allocation import Allocation, Candidate, LinearGrid
from birdbone.contexts.forecast import Forecast
from birdbone.engine import run
from birdbone.errors import SettingError
from birdbone.links import quantize
from birdbone.links.quantizing.forecast import quantize_forecast
from birdbone.links.quantizing.settings import QuantizeSettings

BLOCKS, WINDOWS = 3, 4
UP = "model.layers.0.mlp.up_proj.weight"


def told(arch: str = "llama", *, text: bool = True, **settings: Any) -> Forecast:
    ctx: Any = calibrated(tiny_checkpoint(arch)) if text else {"checkpoint": tiny_checkpoint(arch)}
    return quantize_forecast(ctx, QuantizeSettings(**{"group_size": 16, **settings}))


def stored(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        name: (type(ref).__name__, tuple(ref.shape), ref.dtype, ref.num_bytes)
        for name, ref in checkpoint.refs.items()
        if isinstance(ref, Quantized | GgmlBlocks)
    }


@pytest.mark.parametrize(
    "settings",
    [
        {"bits": 3, "group_size": None},
        {"bits": 8, "embedding_bits": 8},
        {"ignore": ("*.down_proj",)},
        {"overrides": {"*.q_proj": {"bits": 2}}},
        {"grid": "q8_0", "group_size": 64},
    ],
)
async def test_the_outline_is_what_is_stored(settings: Any) -> None:
    """Kind, shape, dtype and bytes of every tensor, before a value is known."""
    given = {"group_size": 16, "method": "rtn", **settings}
    ctx = {"checkpoint": tiny_checkpoint("llama_tied")}
    light = (await run(quantize(**given), ctx))["checkpoint"]
    outline = told("llama_tied", text=False, **given).adds["checkpoint"]
    assert stored(outline) == stored(light)
    assert outline.num_bytes == light.num_bytes


def test_values_where_nothing_packs() -> None:
    found = told("gpt_oss", symmetric=False).adds["checkpoint"]
    assert stored(found) == {}
    assert found.num_bytes == tiny_checkpoint("gpt_oss").num_bytes


def test_weights_for_bitsandbytes() -> None:
    light = told(method="llm.int8", text=False).adds["checkpoint"]
    ref = light.refs[UP]
    assert isinstance(ref, BitsAndBytes)
    assert ref.kind == "llm.int8"


def test_without_text_only_bytes_are_moved() -> None:
    found = told(method="rtn", text=False)
    assert (found.block_passes, found.solves, found.memory_bytes) == (0, 0, 0)
    assert found.moved_bytes > tiny_checkpoint().num_bytes


def test_matching_runs_every_block_a_third_time() -> None:
    assert told(matching=0.0).block_passes == BLOCKS * WINDOWS * 2
    assert told().block_passes == BLOCKS * WINDOWS * 3


def test_tuning_adds_its_steps() -> None:
    """Of each iteration a forward and two backward passes of batch_size windows per block."""
    gptq = told()
    tuned = told(method="signround", iterations=10, batch_size=2)
    assert tuned.block_passes - gptq.block_passes == BLOCKS * 3 * 10 * 2


def test_sweeps_and_corrections_are_work() -> None:
    plain, swept, ranked = told(), told(sweeps=2), told(rank=4)
    assert plain.products < swept.products
    assert plain.solves == swept.solves < ranked.solves
    assert ranked.products == plain.products
    assert told(rank=8).solves == ranked.solves


def test_memory_of_what_is_finished() -> None:
    """Integers of a byte each; float values where they cannot be packed."""
    packed, values = told(), told(symmetric=False)
    linears = sum(ref.num_values for name, ref in tiny_checkpoint().refs.items() if "_proj" in name)
    assert values.memory_bytes - packed.memory_bytes == 3 * linears


def test_an_allocation_decides() -> None:
    candidate = Candidate(
        "one", True, {UP.removesuffix(".weight"): LinearGrid(2, 16)}, None, 1, 0.0
    )
    ctx: Any = {**calibrated(tiny_checkpoint()), "allocation": Allocation(1, (candidate,))}
    light = quantize_forecast(ctx, QuantizeSettings(group_size="auto")).adds["checkpoint"]
    assert list(stored(light)) == [UP]
    ref = light.refs[UP]
    assert isinstance(ref, Quantized)
    assert ref.bits == 2


def test_what_the_link_refuses() -> None:
    with pytest.raises(SettingError, match=r"quantize\(method='gptq'\) needs 'calibration'"):
        told(method="gptq", text=False)
    with pytest.raises(SettingError, match="group_size 48 does not divide width 32"):
        told(group_size=48)


def test_scales_in_the_dtype_of_the_model() -> None:
    from birdbone.models.reading.stored_dtypes import as_dtype

    half = as_dtype(tiny_checkpoint(), torch.bfloat16)
    settings = QuantizeSettings(method="rtn", group_size=16)
    found = quantize_forecast({"checkpoint": half}, settings).adds["checkpoint"].refs[UP]
    assert isinstance(found, Quantized)
    assert found.scales.dtype == torch.bfloat16
