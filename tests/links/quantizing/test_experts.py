"""Experts that files hold one by one are packed, and plain transformers computes with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import random_model, tiny_checkpoint
from tiny_contexts import calibrated, codes_of
from tiny_folders import all_weights, own_logits, plain_logits, written
from zoo.configs import zoo_config

from birdbone.checkpoints import Checkpoint, Quantized
from birdbone.engine import run
from birdbone.errors import CheckpointError, LinkError, SettingError
from birdbone.links import quantize
from birdbone.models.blocks.device import judged_dtype
from birdbone.models.blocks.linears import all_linears
from birdbone.models.codecs.compressed_tensors_writing import quantization_config
from birdbone.models.planning.outline import outlined_model
from birdbone.models.planning.stored_bytes import stored_bytes
from birdbone.models.reading.in_memory import as_checkpoint
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.quantized import only_dtype
from birdbone.models.reading.sources import find_model
from birdbone.models.reading.stored_dtypes import as_dtype

LEARNED: dict[str, Any] = {"signround": {"iterations": 2, "batch_size": 1}}
GATE_UP = "model.layers.1.mlp.experts.gate_up_proj"


async def light_of(checkpoint: Checkpoint, **settings: Any) -> Checkpoint:
    ctx = await run(quantize(**{"group_size": 16, **settings}), calibrated(checkpoint))
    light: Checkpoint = ctx["checkpoint"]
    return light


@pytest.mark.parametrize("method", ["rtn", "gptq", "signround"])
async def test_every_expert_has_codes_of_its_own(method: str) -> None:
    dense = tiny_checkpoint("mixtral")
    light = await light_of(dense, method=method, **LEARNED.get(method, {}))
    assert codes_of(light).keys() == {each.tensor for each in all_linears(dense)}
    weight, ref = dense.tensors[GATE_UP], light.refs[GATE_UP]
    assert isinstance(ref, Quantized)
    assert (ref.shape, ref.scales.shape) == (weight.shape, (*weight.shape[:2], 2))
    steps = ref.scales.repeat_interleave(16, dim=-1)
    if method == "rtn":
        assert ((ref.load() - weight).abs() <= 0.5001 * steps).all()
    error = (ref.load() - weight).norm() / weight.norm()
    assert error < 0.3


@pytest.mark.parametrize(
    "arch", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3", "glm4_moe"]
)
async def test_plain_transformers_computes_the_same(arch: str, tmp_path: Path) -> None:
    made = random_model(zoo_config(arch))
    light = await light_of(as_checkpoint(made, source="tiny/experts"), method="rtn")
    folder = written(light, tmp_path / "light")
    names = [name for name in all_weights(folder) if ".experts." in name]
    assert names
    assert all(name.endswith(("weight_packed", "weight_scale", "weight_shape")) for name in names)
    torch.testing.assert_close(plain_logits(folder), own_logits(light), rtol=1e-6, atol=1e-6)
    assert stored_bytes(light) == sum(each.stat().st_size for each in folder.glob("*.safetensors"))


@pytest.mark.parametrize(
    "settings",
    [
        {"overrides": {"*experts*": {"bits": 3, "group_size": 8}}},
        {"group_size": None},
        {"group_size": 32},  # a row of gate_up_proj, half of one of down_proj
        {"ignore": ["*layers.0.*experts*"]},
        {"group_size": "auto"},  # 64 in down_proj alone
        {"ignore": ["*self_attn*"]},
        {"embedding_bits": 8},
        {"grid": "fp8", "group_size": 64},
        {"grid": "fp8", "group_size": 64, "input_activations": "fp8"},
    ],
    ids=[
        *("others", "rows", "wide", "first dense", "auto", "experts only", "embedding"),
        *("fp8", "fp8 inputs"),
    ],
)
async def test_beside_other_weights(settings: dict[str, Any], tmp_path: Path) -> None:
    light = await light_of(tiny_checkpoint("mixtral"), method="rtn", **settings)
    folder = written(light, tmp_path / "light")
    torch.testing.assert_close(plain_logits(folder), own_logits(light), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
async def test_it_is_computed_in_the_dtype_of_its_scales(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    made = as_dtype(tiny_checkpoint("mixtral"), dtype)
    light = await light_of(made.evolve({}, config={"dtype": str(dtype).removeprefix("torch.")}))
    folder = written(light, tmp_path / "light")
    config = json.loads((folder / "config.json").read_text())
    assert only_dtype(folder, config) == judged_dtype(light, torch.device("cpu")) == dtype
    assert torch.equal(plain_logits(folder, dtype), own_logits(light, dtype))


async def test_routers_are_ignored_by_the_names_that_files_have(tmp_path: Path) -> None:
    folder = written(await light_of(tiny_checkpoint("mixtral")), tmp_path / "light")
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    gates = [f"model.layers.{index}.block_sparse_moe.gate" for index in range(3)]
    assert settings["ignore"] == ["lm_head", *gates]
    assert {f"{gate}.weight" for gate in gates} <= all_weights(folder).keys()


@pytest.mark.parametrize(
    "settings",
    [{"bits": 3}, {"grid": "fp8", "group_size": 64, "input_activations": "fp8"}],
    ids=["int3", "fp8"],
)
@pytest.mark.filterwarnings("ignore:the linears of")
async def test_saving_what_was_read_is_lossless(settings: dict[str, Any], tmp_path: Path) -> None:
    light = await light_of(tiny_checkpoint("mixtral"), **settings)
    source = find_model(str(written(light, tmp_path / "light")))
    kept = open_checkpoint(source, dequantize=False)
    assert {name: ref.digest for name, ref in kept.refs.items()} == {
        name: ref.digest for name, ref in light.refs.items()
    }
    outline = outlined_model(source, None, dequantize=False)
    assert stored_bytes(outline) == stored_bytes(light)
    dense = open_checkpoint(source)
    assert torch.equal(dense.refs[GATE_UP].load(), light.refs[GATE_UP].load())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ignore": ["*experts.gate_up_proj[[]2]"]}, r"gate_up_proj\[2\]' is left out and other"),
        (
            {"overrides": {"*experts.down_proj*": {"bits": 8, "group_size": 16}}},
            r"'.*gate_up_proj\[0\]' gets 4 bits in groups of 16 and '.*down_proj\[0\]' 8 bits",
        ),
        (
            {"overrides": {"*experts.down_proj*": {"bits": 4, "group_size": 64}}},
            r"in groups of 16 and .* in groups of 64.*divides both widths \(32 and 64\)",
        ),
    ],
    ids=["one left out", "bits", "groups"],
)
async def test_experts_of_several_kinds_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LinkError, match=message) as caught:
        await light_of(tiny_checkpoint("mixtral"), **settings)
    assert isinstance(caught.value.__cause__, SettingError)


def test_a_folder_for_experts_of_several_kinds_is_refused() -> None:
    kinds = [
        Quantized(torch.zeros(2, 4, 8, dtype=torch.int8), torch.ones(2, 4, groups), bits=4)
        for groups in (2, 4)
    ]
    with pytest.raises(CheckpointError, match=r"on several grids .*4 bits / 2, 4 bits / 4"):
        quantization_config({}, [], experts=kinds)


@pytest.mark.parametrize(
    "settings",
    [
        {"grid": "fp8", "group_size": 64, "block_size": 16},
        {"bits": 8, "group_size": None, "input_activations": "int8", "method": "rtn"},
        {"grid": "mxfp4", "group_size": 64, "method": "rtn"},
    ],
    ids=["blocks", "int8 inputs", "mxfp4"],
)
async def test_where_experts_stay_dense(settings: dict[str, Any]) -> None:
    made = as_dtype(tiny_checkpoint("mixtral"), torch.bfloat16)
    with pytest.warns(UserWarning, match=r"does not quantise 6 tensors, such as '.*experts"):
        light = await light_of(made, **settings)
    assert not isinstance(light.refs[GATE_UP], Quantized)
