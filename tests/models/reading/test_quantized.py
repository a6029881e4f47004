"""What somebody quantised opens as the values its codes stand for, or as the codes themselves."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationConfig,
    QuantizationStatus,
    apply_quantization_config,
)
from safetensors.torch import load_file, save_file
from tiny import tiny_checkpoint, tiny_model, tiny_tokenizer, tiny_windows
from tiny_folders import (
    all_weights,
    for_bitsandbytes,
    own_logits,
    plain_logits,
    quantized,
    written,
)
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, CompressedTensorsConfig

from birdbone.checkpoints import Checkpoint, Quantized
from birdbone.engine import run
from birdbone.errors import BirdboneError, CheckpointError, SettingError
from birdbone.links import load, quantize
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model
from birdbone.solvers.grid import Grid

UP = "model.layers.1.mlp.up_proj.weight"


def opened(folder: Path, **settings: Any) -> Checkpoint:
    return open_checkpoint(find_model(str(folder)), **settings)


def in_bfloat16(arch: str, **sizes: Any) -> Checkpoint:
    made = tiny_checkpoint(arch, **sizes)
    stored = {name: ref.load().bfloat16() for name, ref in made.refs.items()}
    return made.evolve(stored, config={"dtype": "bfloat16"})


def compressed(folder: Path, format: str, **weights: Any) -> Path:
    """A tiny model as compressed-tensors itself quantises and saves it, to the nearest code."""
    model = tiny_model()
    config = QuantizationConfig.model_validate(
        {
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
            "format": format,
            "ignore": ["lm_head"],
            "quantization_status": QuantizationStatus.FROZEN,
        }
    )
    apply_quantization_config(model, config)
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is not None:
            set_scale(module, weights)
    compressor = ModelCompressor.from_pretrained_model(model, quantization_format=format)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def set_scale(module: Any, weights: dict[str, Any]) -> None:
    """Scales, and zero points if any, that cover every value."""
    groups = module.weight_scale.shape[-1] if module.weight_scale.ndim == 2 else 1
    grouped = module.weight.data.reshape(module.weight.shape[0], groups, -1)
    if weights["strategy"] == "tensor":
        grouped = module.weight.data.reshape(1, 1, -1)
    steps = 448.0 if weights["type"] == "float" else 2.0 ** weights["num_bits"] / 2 - 0.5
    if weights.get("symmetric", True):
        scale = grouped.abs().amax(-1) / steps
    else:
        scale = (grouped.amax(-1) - grouped.amin(-1)) / (2 * steps)
        low = -(2 ** (weights["num_bits"] - 1))
        zero = torch.round(low - grouped.amin(-1) / scale).clamp(low, -low - 1)
        module.weight_zero_point.data = zero.to(torch.int8)
    module.weight_scale.data = scale.reshape(module.weight_scale.shape)


def by_transformers(folder: Path) -> Tensor:
    """Logits of a compressed-tensors folder that transformers itself multiplies out."""
    settings = CompressedTensorsConfig(dequantize=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You passed `quantization_config`")
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, quantization_config=settings
        )
    with torch.no_grad():
        return model.eval()(tiny_windows().tokens, use_cache=False).logits


@pytest.mark.parametrize("arch", ["llama", "llama_tied", "gpt_neox", "mixtral", "gemma3"])
@pytest.mark.parametrize("make", [tiny_checkpoint, in_bfloat16])
def test_a_packed_folder_of_ours_comes_back_exactly(
    arch: str, make: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    made = quantized(make(arch))
    found = opened(written(made, tmp_path / "light"))
    assert found.refs.keys() == made.refs.keys()
    assert found.config["dtype"] == made.config["dtype"]
    assert "quantization_config" not in found.config
    for name, ref in made.refs.items():
        values = ref.values(torch.float32) if isinstance(ref, Quantized) else ref.load()
        assert found.refs[name].dtype == values.dtype
        assert torch.equal(found.tensors[name], values)
    assert torch.equal(own_logits(found), plain_logits(tmp_path / "light"))


@pytest.mark.parametrize("arch", ["llama", "mixtral"])
def test_codes_may_be_kept_so_that_saving_again_loses_nothing(arch: str, tmp_path: Path) -> None:
    made = quantized(
        in_bfloat16(arch),
        every=Grid(3, 16),
        o_proj=Grid(8, None),
        v_proj=Grid(2, 32, signed=True),
    )
    found = opened(written(made, tmp_path / "first"), dequantize=False)
    assert found.id == made.id
    written(found, tmp_path / "second")
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert len(names) > 3
    for name in names:
        first, second = (tmp_path / folder / name for folder in ("first", "second"))
        assert first.read_bytes() == second.read_bytes(), name


@pytest.mark.parametrize(
    ("format", "weights"),
    [
        ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 16}),
        ("pack-quantized", {"num_bits": 3, "strategy": "channel"}),
        ("int-quantized", {"num_bits": 8, "strategy": "channel"}),
        ("int-quantized", {"num_bits": 8, "strategy": "tensor"}),
        ("float-quantized", {"num_bits": 8, "strategy": "channel", "type": "float"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_folders_of_compressed_tensors_itself_are_read(
    format: str, weights: dict[str, Any], tmp_path: Path
) -> None:
    folder = compressed(tmp_path / "theirs", format, **{"type": "int", **weights})
    found = own_logits(opened(folder))
    assert torch.equal(found, by_transformers(folder))
    assert float((found - own_logits(tiny_checkpoint())).abs().max()) > 0


@pytest.mark.parametrize(
    ("format", "bits", "strategy"),
    [("pack-quantized", 4, "group"), ("int-quantized", 8, "channel")],
)
def test_zero_points_are_read_and_kept(
    format: str, bits: int, strategy: str, tmp_path: Path
) -> None:
    size = {"group_size": 16} if strategy == "group" else {}
    settings = {"num_bits": bits, "type": "int", "symmetric": False, "strategy": strategy, **size}
    folder = compressed(tmp_path / "theirs", format, **settings)
    assert torch.equal(own_logits(opened(folder)), by_transformers(folder))
    kept = opened(folder, dequantize=False).refs[UP]
    assert isinstance(kept, Quantized)
    assert kept.zero_points is not None
    assert kept.zero_points.unique().numel() > 1


def test_zero_points_do_not_load_plainly(tmp_path: Path) -> None:
    """Why they are not written; once this fails, they can be."""
    folder = compressed(
        tmp_path / "theirs",
        "pack-quantized",
        num_bits=4,
        type="int",
        symmetric=False,
        strategy="group",
        group_size=16,
    )
    with pytest.raises(RuntimeError, match="mismatched_sizes"):
        plain_logits(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bit_weights_are_what_bitsandbytes_makes_of_them(
    kind: str, double: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    tiny_model(hidden_size=64).to(dtype).save_pretrained(tmp_path / "dense")
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "dense", dtype=dtype, quantization_config=settings, device_map="cpu"
    )
    model.save_pretrained(tmp_path / "theirs")
    found = opened(tmp_path / "theirs")
    weights = {n: m.weight for n, m in model.named_modules() if hasattr(m, "quant_state")}
    assert len(weights) == 21
    for name, weight in weights.items():
        values = dequantize_4bit(weight.data, weight.quant_state)
        assert torch.equal(found.tensors[f"{name}.weight"], values.float()), name
    dtypes = {ref.dtype for name, ref in found.refs.items() if name[: -len(".weight")] in weights}
    assert dtypes == {torch.float32}
    assert found.refs["model.norm.weight"].dtype == dtype


@pytest.mark.parametrize("arch", ["llama", "mixtral"])
@pytest.mark.parametrize("kind", ["nf4", "llm.int8"])
def test_a_bitsandbytes_folder_of_ours_comes_back_exactly(
    arch: str, kind: str, tmp_path: Path
) -> None:
    made = for_bitsandbytes(tiny_checkpoint(arch, hidden_size=64), kind)
    found = opened(written(made, tmp_path / "light"))
    assert all(torch.equal(found.tensors[name], made.tensors[name]) for name in made.refs)
    assert found.refs.keys() == made.refs.keys()


def test_blocks_that_reach_over_the_end_of_a_row_are_read_rightly(tmp_path: Path) -> None:
    """Where bitsandbytes itself, on CPUs, takes the wrong scales."""
    dense = tiny_checkpoint(hidden_size=48)
    tiny_model(hidden_size=48).save_pretrained(tmp_path / "dense")
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "dense",
        quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
        device_map="cpu",
    )
    model.save_pretrained(tmp_path / "theirs")
    found, expected = opened(tmp_path / "theirs").tensors[UP], dense.tensors[UP]
    assert float((found - expected).norm() / expected.norm()) < 0.1


async def test_load_gives_a_dense_model_unless_codes_are_asked_for(tmp_path: Path) -> None:
    made = quantized(tiny_checkpoint())
    folder = str(written(made, tmp_path / "light"))
    values = await run(load(model=folder))
    assert not any(isinstance(ref, Quantized) for ref in values["checkpoint"].refs.values())
    codes = await run(load(model=folder, dequantize=False))
    assert codes["checkpoint"].id == made.id


@pytest.mark.filterwarnings("ignore:quantize does not quantise 6 tensors")
@pytest.mark.parametrize("arch", ["llama", "mixtral"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
async def test_quantising_again_gives_a_folder_of_the_same_size(
    arch: str, dtype: str, tmp_path: Path
) -> None:
    stored = getattr(torch, dtype)
    dense = tiny_checkpoint(arch)
    refs = {name: ref.load().to(stored) for name, ref in dense.refs.items()}
    dense = dense.evolve(refs, config={"dtype": dtype})
    again = quantize(method="rtn", bits=4, group_size=16)
    first = (await run(again, {"checkpoint": dense, "dense": dense}))["checkpoint"]
    read = opened(written(first, tmp_path / "first"))
    second = (await run(again, {"checkpoint": read, "dense": read}))["checkpoint"]
    written(second, tmp_path / "second")
    sizes = {
        folder: {name: tensor.nbytes for name, tensor in all_weights(tmp_path / folder).items()}
        for folder in ("first", "second")
    }
    assert sizes["first"] == sizes["second"]
    assert second.config["dtype"] == dtype


def test_float8_folders_keep_the_dtype_of_what_is_not_float8(tmp_path: Path) -> None:
    weights = {"num_bits": 8, "strategy": "channel", "type": "float"}
    folder = compressed(tmp_path / "theirs", "float-quantized", **weights)

    def narrow(tensors: dict[str, Tensor]) -> None:
        tensors["model.norm.weight"] = tensors["model.norm.weight"].bfloat16()

    found = opened(edited(folder, narrow))
    assert found.refs["model.norm.weight"].dtype == torch.bfloat16
    assert found.refs[UP].dtype == torch.float32
    assert found.config["dtype"] == "float32"


async def test_nf4_made_from_a_quantised_folder_is_what_was_measured(tmp_path: Path) -> None:
    made = quantized(in_bfloat16("llama", hidden_size=64))
    read = opened(written(made, tmp_path / "first"))
    asked = quantize(method="nf4")
    light = (await run(asked, {"checkpoint": read, "dense": read}))["checkpoint"]
    found = opened(written(light, tmp_path / "second"))
    assert torch.equal(found.tensors[UP], light.tensors[UP].float())


def test_codes_that_cannot_be_kept_are_refused(tmp_path: Path) -> None:
    folder = written(for_bitsandbytes(tiny_checkpoint(hidden_size=64), "nf4"), tmp_path / "light")
    with pytest.raises(
        SettingError, match=r"quantised weights of 'light' cannot be kept.*leave dequantize on"
    ):
        opened(folder, dequantize=False)


def edited(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """The folder with its tensors changed in place."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def stated(**changes: Any) -> Callable[[dict[str, Tensor]], None]:
    """Change what one 4-bit weight states of itself."""
    key = f"{UP}.quant_state.bitsandbytes__nf4"

    def change(weights: dict[str, Tensor]) -> None:
        state = json.loads(bytes(weights[key].tolist())) | changes
        weights[key] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)

    return change


DAMAGE_PACKED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "no scale": lambda w: w.pop(f"{UP}_scale"),
    "no shape": lambda w: w.pop(f"{UP}_shape"),
    "no codes": lambda w: w.pop(f"{UP}_packed"),
    "huge shape": lambda w: w.update({f"{UP}_shape": torch.tensor([1 << 40, 1 << 40])}),
    "negative shape": lambda w: w.update({f"{UP}_shape": torch.tensor([-64, 32])}),
    "shape of three": lambda w: w.update({f"{UP}_shape": torch.tensor([64, 32, 1])}),
    "codes of another kind": lambda w: w.update({f"{UP}_packed": torch.zeros(64, 4)}),
    "scales that do not divide": lambda w: w.update({f"{UP}_scale": torch.ones(64, 5)}),
    "empty scales": lambda w: w.update({f"{UP}_scale": torch.ones(64, 0)}),
    "columns out of order": lambda w: w.update({f"{UP}_g_idx": torch.zeros(32)}),
}
DAMAGE_FOUR_BIT: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "no scales": lambda w: w.pop(f"{UP}.absmax"),
    "no table": lambda w: w.pop(f"{UP}.quant_map"),
    "no codes": lambda w: w.pop(UP),
    "short table": lambda w: w.update({f"{UP}.quant_map": torch.zeros(3)}),
    "float codes": lambda w: w.update({UP: torch.zeros(2048, 1)}),
    "huge shape": stated(shape=[1 << 40, 1 << 40]),
    "shape that is no list": stated(shape="everything"),
    "block of nothing": stated(blocksize=0),
    "block of more": stated(blocksize=32),
    "dtype that is none": stated(dtype="save"),
    "state that is no JSON": lambda w: w.update(
        {f"{UP}.quant_state.bitsandbytes__nf4": torch.tensor([255, 0], dtype=torch.uint8)}
    ),
}


@pytest.mark.parametrize("damage", DAMAGE_PACKED)
def test_a_damaged_packed_folder_is_refused_before_anything_is_unpacked(
    damage: str, tmp_path: Path
) -> None:
    folder = edited(written(quantized(tiny_checkpoint()), tmp_path / "x"), DAMAGE_PACKED[damage])
    with pytest.raises(BirdboneError, match=r"up_proj"):
        opened(folder)


@pytest.mark.parametrize("damage", DAMAGE_FOUR_BIT)
def test_a_damaged_four_bit_folder_is_refused_before_anything_is_unpacked(
    damage: str, tmp_path: Path
) -> None:
    light = for_bitsandbytes(tiny_checkpoint(hidden_size=64), "nf4")
    folder = edited(written(light, tmp_path / "x"), DAMAGE_FOUR_BIT[damage])
    with pytest.raises(BirdboneError, match=r"up_proj"):
        opened(folder)


@pytest.mark.parametrize(
    "settings", [{"config_groups": 5}, {"config_groups": {"a": {"targets": 3}}}, {"format": []}]
)
def test_settings_that_are_none_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = written(quantized(tiny_checkpoint()), tmp_path / "x")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= settings
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=r"quantization_config in config\.json cannot be read"
    ):
        opened(folder)


async def test_inputs_rounded_in_other_ways_are_not_kept(tmp_path: Path) -> None:
    ctx = {"checkpoint": tiny_checkpoint(), "dense": tiny_checkpoint()}
    asked = quantize(method="rtn", bits=8, group_size=None, input_activations="int8")
    folder = written((await run(asked, ctx))["checkpoint"], tmp_path / "light")
    config = json.loads((folder / "config.json").read_text())
    group = config["quantization_config"]["config_groups"]["group_0"]
    group["input_activations"] |= {"strategy": "tensor"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SettingError, match=r"'model.layers.0.self_attn.q_proj' in a way .* not k"):
        opened(folder, dequantize=False)
