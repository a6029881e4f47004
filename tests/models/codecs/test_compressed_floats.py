"""Small floats of compressed-tensors, compared with its own codecs and read from whole folders."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
)
from packaging.version import Version
from safetensors.torch import load_file, save_file
from tiny import tiny_model, tiny_tokenizer
from torch import Tensor

from birdbone.checkpoints import Checkpoint, InMemory, Quantized
from birdbone.errors import CheckpointError, SettingError
from birdbone.models.codecs.compressed_tensors import unpack
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model

FLOAT8 = {"num_bits": 8, "type": "float"}
FLOAT4 = {"num_bits": 4, "type": "float"}
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "tensor": ("float-quantized", {**FLOAT8, "strategy": "tensor"}),
    "channel": ("float-quantized", {**FLOAT8, "strategy": "channel"}),
    "group": ("float-quantized", {**FLOAT8, "strategy": "group", "group_size": 16}),
    "block": ("float-quantized", {**FLOAT8, "strategy": "block", "block_structure": [16, 8]}),
    "ragged": ("float-quantized", {**FLOAT8, "strategy": "block", "block_structure": [24, 12]}),
    "naive": ("naive-quantized", {**FLOAT8, "strategy": "channel"}),
    "mxfp8": (
        "mxfp8-quantized",
        {**FLOAT8, "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8},
    ),
    "nvfp4": ("nvfp4-pack-quantized", {**FLOAT4, "strategy": "tensor_group", "group_size": 16}),
    "mxfp4": ("mxfp4-pack-quantized", {**FLOAT4, "strategy": "group", "group_size": 32}),
}


def scheme_of(kind: str) -> QuantizationScheme:
    format, weights = FORMATS[kind]
    return QuantizationScheme(
        targets=["Linear"], weights=QuantizationArgs(**weights), format=format
    )


def stored(kind: str, weight: Tensor) -> dict[str, Tensor]:
    """The parts of a weight as compressed-tensors itself makes them."""
    scheme = scheme_of(kind)
    scales = chosen_scales(weight, scheme.weights)
    state = {"weight": weight, "weight_scale": scales}
    if kind == "nvfp4":
        state["weight_global_scale"] = torch.tensor([300.0])
        state["weight_scale"] = scales * 300.0
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    return dict(compressor.compress(state, scheme))


def chosen_scales(weight: Tensor, args: QuantizationArgs) -> Tensor:
    """Scales that cover every value; powers of two where the format holds nothing else."""
    rows, columns = weight.shape
    largest = 448.0 if args.num_bits == 8 else 6.0
    if args.strategy == "block":
        height, width = args.block_structure
        grid = -(-rows // height), -(-columns // width)
        padded = torch.zeros(grid[0] * height, grid[1] * width)
        padded[:rows, :columns] = weight
        blocks = padded.reshape(grid[0], height, grid[1], width).transpose(1, 2)
        return blocks.abs().amax((2, 3)) / largest
    if args.strategy == "tensor":
        return weight.abs().max().reshape(1) / largest
    groups = columns // args.group_size if args.group_size else 1
    scales = weight.reshape(rows, groups, -1).abs().amax(-1) / largest
    powers = args.group_size == 32
    return scales.log2().ceil().exp2() if powers else scales


def decoded(kind: str, parts: dict[str, Tensor]) -> Tensor:
    """What our own codec makes of the parts."""
    settings = QuantizationConfig(
        config_groups={"group_0": scheme_of(kind)},
        format=FORMATS[kind][0],
        quantization_status=QuantizationStatus.COMPRESSED,
    ).model_dump(mode="json", exclude_none=True)
    refs = {f"up_proj.{name}": InMemory(tensor) for name, tensor in parts.items()}
    found = unpack(refs, settings)
    assert found is not None
    assert list(found) == ["up_proj.weight"]
    return found["up_proj.weight"].load()


@pytest.mark.parametrize("kind", FORMATS)
def test_weights_are_what_compressed_tensors_makes_of_them(kind: str) -> None:
    if kind == "ragged" and Version(metadata.version("compressed-tensors")) < Version("0.20"):
        pytest.skip("compressed-tensors 0.18 takes only blocks that divide the width")
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
    parts = stored(kind, weight)
    found, scheme = decoded(kind, parts), scheme_of(kind)
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    expected = compressor.decompress(parts, scheme)["weight"].float()
    assert found.dtype == torch.float32
    # NVFP4 is multiplied out in bfloat16 there, every other format exactly.
    tolerance = 2**-7 if kind == "nvfp4" else 0.0
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0.0)
    steps = 2**-3 if kind in ("nvfp4", "mxfp4") else 2**-4
    assert float((found - weight).norm() / weight.norm()) < steps


def test_nvfp4_is_number_times_scale_over_global_scale() -> None:
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(1))
    parts = stored("nvfp4", weight)
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    codes = torch.stack((parts["weight_packed"] & 15, parts["weight_packed"] >> 4), -1).flatten(1)
    scales = parts["weight_scale"].float() / parts["weight_global_scale"]
    expected = table[codes.int()] * scales.repeat_interleave(16, 1)
    assert torch.equal(decoded("nvfp4", parts), expected)


def folder_of(kind: str, folder: Path) -> Path:
    """A tiny Llama whose linears but the head are stored in a format."""
    model = tiny_model("llama", hidden_size=64)
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    kept: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if "_proj" not in name:
            kept[name] = weight
            continue
        parts = stored(kind, weight)
        module = name.removesuffix("weight")
        kept |= {f"{module}{part}": each.contiguous() for part, each in parts.items()}
        kept[f"{module}input_global_scale"] = torch.ones(1)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    settings = QuantizationConfig(
        config_groups={"group_0": scheme_of(kind)},
        format=FORMATS[kind][0],
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=["lm_head"],
    ).model_dump(mode="json", exclude_none=True)
    edit(folder, quantization_config=settings)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def opened(folder: Path, **settings: Any) -> Checkpoint:
    return open_checkpoint(find_model(str(folder)), **settings)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_folder_is_read_one_tensor_at_a_time(kind: str, tmp_path: Path) -> None:
    found = opened(folder_of(kind, tmp_path / "theirs"))
    dense = tiny_model("llama", hidden_size=64).state_dict()
    assert found.refs.keys() == dense.keys()
    assert not any(isinstance(ref, InMemory) for ref in found.refs.values())
    for name, weight in dense.items():
        error = (found.tensors[name] - weight).norm() / weight.norm()
        assert error < (0.2 if "fp4" in kind and "_proj" in name else 0.06)
    assert not found.unused
    assert "quantization_config" not in found.config


def test_float_codes_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot be kept, only dequantised"):
        opened(folder_of("nvfp4", tmp_path / "theirs"), dequantize=False)


def test_square_blocks_are_kept_and_others_are_not(tmp_path: Path) -> None:
    kept = "float-quantized", {**FLOAT8, "strategy": "block", "block_structure": [16, 16]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FORMATS, "square", kept)
        found = opened(folder_of("square", tmp_path / "square"), dequantize=False)
        dense = opened(tmp_path / "square")
    ref = found.refs[NAME]
    assert isinstance(ref, Quantized)
    assert ref.block_size == 16
    assert torch.equal(ref.values(torch.float32), dense.tensors[NAME])
    with pytest.raises(SettingError, match=r"cannot be kept.*one scale per row or square block"):
        opened(folder_of("block", tmp_path / "oblong"), dequantize=False)


def test_rotated_weights_are_refused(tmp_path: Path) -> None:
    folder = folder_of("channel", tmp_path / "theirs")
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    rotations = {"config_groups": {"v": {"type": "hadamard", "apply": []}}}
    edit(folder, quantization_config={**config, "transform_config": rotations})
    with pytest.raises(CheckpointError, match=r"rotated \(transform_config in config.json\)"):
        opened(folder)


NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("nvfp4", {f"{NAME}_packed": torch.zeros(64, 32)}, "not a packed FP4 weight"),
        ("nvfp4", {f"{NAME}_scale": torch.zeros(64, 5)}, "not a packed FP4 weight"),
        ("nvfp4", {f"{NAME}_global_scale": torch.ones(64)}, "64 global scales"),
        ("channel", {NAME: torch.zeros(64, 64, dtype=torch.int8)}, "no float8 codes"),
        ("channel", {f"{NAME}_scale": torch.ones(5, 1)}, r"scales \[5, 1\].*do not fit"),
    ],
)
def test_damage_is_refused(
    kind: str, changes: dict[str, Tensor], message: str, tmp_path: Path
) -> None:
    folder = folder_of(kind, tmp_path / "theirs")
    weights = load_file(folder / "model.safetensors") | changes
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        opened(folder)
