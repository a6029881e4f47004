"""Folders published in float8 or MXFP4 alone open as the values transformers makes of them."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from float_folders import deepseek_v3, qwen3_moe, save_float8, save_mxfp4
from safetensors.torch import load_file, save_file
from tiny import tiny_model
from tiny_folders import own_logits, plain_logits, written
from torch import Tensor
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, Mxfp4Config

from birdbone.checkpoints import Checkpoint, InMemory
from birdbone.engine import run
from birdbone.errors import CheckpointError, ModelError, SettingError
from birdbone.links import load, quantize
from birdbone.models.blocks.device import judged_dtype
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model
from birdbone.reports.inspection import inspect_model

ROUTED = "model.layers.1.mlp.experts.gate_up_proj"


def opened(folder: Path, **settings: Any) -> Checkpoint:
    return open_checkpoint(find_model(str(folder)), **settings)


def by_transformers(folder: Path, settings: Any) -> dict[str, Tensor]:
    """Every tensor of the model that transformers itself dequantises, in float32."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You passed `quantization_config`")
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, quantization_config=settings
        )
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def check_values(found: Checkpoint, expected: dict[str, Tensor]) -> None:
    assert found.refs.keys() == expected.keys()
    for name in found.refs:
        assert torch.equal(found.tensors[name].float(), expected[name]), name
    assert not any(isinstance(ref, InMemory) for ref in found.refs.values())


@pytest.mark.parametrize("make", [qwen3_moe, deepseek_v3, lambda: tiny_model("llama")])
@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({"block": (8, 16)}, {"weight_block_size": (8, 16)}),
        ({"block": (8, 8), "exponents": True}, {"weight_block_size": (8, 8), "scale_fmt": "ue8m0"}),
        ({"block": None}, {"weight_block_size": None}),
    ],
    ids=["blocks", "exponents", "tensor"],
)
def test_float8_weights_are_what_transformers_makes_of_them(
    make: Any, options: dict[str, Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    folder = save_float8(tmp_path / "float8", make(), **options)
    found = opened(folder)
    check_values(found, by_transformers(folder, FineGrainedFP8Config(dequantize=True, **settings)))
    assert "quantization_config" not in found.config
    assert found.config["dtype"] == "bfloat16"
    assert not found.unused


def test_other_tensors_keep_the_dtype_they_are_stored_in(tmp_path: Path) -> None:
    found = opened(save_float8(tmp_path / "float8", qwen3_moe()))
    dtypes = {name: ref.dtype for name, ref in found.refs.items()}
    assert dtypes[ROUTED] == torch.float32
    assert dtypes["model.layers.0.self_attn.q_proj.weight"] == torch.float32
    assert dtypes["model.layers.0.mlp.gate.weight"] == torch.bfloat16
    assert dtypes["model.embed_tokens.weight"] == torch.bfloat16


def test_blocks_that_reach_over_the_edge_are_cut_off(tmp_path: Path) -> None:
    """As DeepSeek-V3 has them: 576 rows in blocks of 128. transformers cannot dequantise those."""
    model = deepseek_v3()
    found = opened(save_float8(tmp_path / "float8", model, block=(32, 24)))
    name = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"
    weight = model.state_dict()[name].float()
    assert weight.shape == (40, 64)
    assert float((found.tensors[name] - weight).abs().max() / weight.abs().max()) < 0.04
    assert torch.equal(found.tensors["lm_head.weight"], model.lm_head.weight.bfloat16())


@pytest.mark.parametrize("called", ["weight_scale", "scale", "qscale_weight"])
def test_scales_have_other_names_in_some_releases(called: str, tmp_path: Path) -> None:
    usual = opened(save_float8(tmp_path / "usual", qwen3_moe()))
    folder = save_float8(tmp_path / "other", qwen3_moe(), scale=called)
    found = opened(folder)
    assert found.id == usual.id
    assert not found.unused


def test_scales_of_activations_are_not_needed(tmp_path: Path) -> None:
    folder = save_float8(tmp_path / "float8", tiny_model("llama"), block=None)
    usual = opened(folder).id
    weights = load_file(folder / "model.safetensors")
    module = "model.layers.0.mlp.up_proj"
    weights |= {
        f"{module}.activation_scale": torch.ones(()),
        f"{module}.input_scale": torch.ones(1),
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    found = opened(folder)
    assert [each.name for each in found.left_out] == [
        f"{module}.activation_scale",
        f"{module}.input_scale",
    ]
    assert replace(found, left_out=()).id == usual
    assert not found.unused


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_mxfp4_experts_are_what_transformers_makes_of_them(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = save_mxfp4(tmp_path / "mxfp4", dtype=dtype)
    found = opened(folder)
    check_values(found, by_transformers(folder, Mxfp4Config(dequantize=True)))
    assert found.refs["model.layers.0.mlp.experts.down_proj"].dtype == torch.bfloat16
    assert found.refs["model.layers.0.mlp.experts.down_proj_bias"].dtype == dtype
    assert "quantization_config" not in found.config


@pytest.mark.filterwarnings("ignore:quantize does not quantise")
@pytest.mark.parametrize("kind", ["deepseek_v3", "mxfp4"])
async def test_they_are_quantised_and_saved_like_any_other(kind: str, tmp_path: Path) -> None:
    folder = (
        save_mxfp4(tmp_path / "source")
        if kind == "mxfp4"
        else save_float8(tmp_path / "source", deepseek_v3())
    )
    read = (await run(load(model=str(folder))))["checkpoint"]
    context = {"checkpoint": read, "dense": read}
    made = await run(quantize(method="rtn", bits=4, group_size=16), context)
    light = made["checkpoint"]
    dtype = judged_dtype(light, torch.device("cpu"))  # packed experts load in bfloat16 only
    found = plain_logits(written(light, tmp_path / "light"), dtype)
    torch.testing.assert_close(found, own_logits(light, dtype), atol=1e-4, rtol=1e-4)
    dense = plain_logits(written(read, tmp_path / "dense"))
    torch.testing.assert_close(dense, own_logits(read), atol=1e-4, rtol=1e-4)


def test_inspect_counts_parameters_and_bytes(tmp_path: Path) -> None:
    folder = save_float8(tmp_path / "float8", deepseek_v3())
    found = inspect_model(str(folder))
    assert found.parameters == sum(each.numel() for each in deepseek_v3().parameters())
    assert found.contents.model_bytes == sum(
        tensor.nbytes for tensor in load_file(folder / "model.safetensors").values()
    )
    assert found.dtype == "float8_e4m3fn"


def edit(folder: Path, **changes: Any) -> None:
    """Set keys of quantization_config."""
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder: Path, changes: dict[str, Tensor | None]) -> None:
    """Set tensors of the folder; None removes one."""
    weights = {**load_file(folder / "model.safetensors"), **changes}
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


UP = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{UP}_scale_inv": None}, "has no scale beside it"),
        ({f"{UP}_scale_inv": torch.ones(5, 3)}, r"scales \[5, 3\].*do not fit"),
        ({f"{UP}_scale_inv": torch.ones(0, 2)}, r"scales \[0, 2\].*do not fit"),
        ({f"{UP}_scale_inv": torch.ones(2, 2, 2)}, r"scales \[2, 2, 2\].*do not fit"),
    ],
)
def test_damaged_float8_is_refused(
    changes: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    folder = save_float8(tmp_path / "float8", tiny_model("llama"), block=(32, 32))
    edit_weights(folder, changes)
    with pytest.raises(CheckpointError, match=message):
        opened(folder)


@pytest.mark.parametrize("size", [[128], [0, 128], "128x128", [1.5, 2], 128])
def test_blocks_of_no_size_are_refused(size: object, tmp_path: Path) -> None:
    folder = save_float8(tmp_path / "float8", tiny_model("llama"))
    edit(folder, weight_block_size=size)
    with pytest.raises(CheckpointError, match="weight_block_size"):
        opened(folder)


DOWN = "model.layers.0.mlp.experts.down_proj"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{DOWN}_scales": None}, f"lacks the scales of '{DOWN}'"),
        ({f"{DOWN}_scales": torch.zeros(1, dtype=torch.uint8)}, "not as MXFP4 is stored"),
        ({f"{DOWN}_blocks": torch.zeros(4, 32, 2, 16)}, "not as MXFP4 is stored"),
    ],
)
def test_damaged_mxfp4_is_refused(
    changes: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    folder = save_mxfp4(tmp_path / "mxfp4")
    edit_weights(folder, changes)
    with pytest.raises(CheckpointError, match=message):
        opened(folder)


@pytest.mark.parametrize("method", ["gptq", "awq", "modelopt", "quark"])
def test_what_is_not_read_is_refused_by_name(method: str, tmp_path: Path) -> None:
    folder = save_float8(tmp_path / "float8", tiny_model("llama"))
    edit(folder, quant_method=method)
    with pytest.raises(ModelError, match=rf"already quantised \({method}\).*fp8.* or mxfp4"):
        opened(folder)


def test_float_codes_cannot_be_kept(tmp_path: Path) -> None:
    folder = save_float8(tmp_path / "float8", tiny_model("llama"))
    with pytest.raises(SettingError, match="cannot be kept, only dequantised"):
        opened(folder, dequantize=False)
