"""Codes as compressed-tensors stores them: written, read back exactly, and refused if damaged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationConfig
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from birdbone.checkpoints import InMemory, Quantized, TensorRef
from birdbone.errors import CheckpointError
from birdbone.models.codecs.compressed_tensors import (
    has_kept_codes,
    rounds_inputs,
    unpack,
)
from birdbone.models.codecs.compressed_tensors_writing import (
    packed,
    packed_outline,
    per_row,
    per_row_outline,
    quantization_config,
)
from birdbone.models.codecs.unpacked import Unpacked, is_kept

NAME = "model.layers.0.mlp.up_proj.weight"
MODULE = NAME.removesuffix(".weight")


def codes(bits: int = 4, rows: int = 6, width: int = 16, groups: int = 2) -> Quantized:
    """A symmetric weight with every code of the grid in reach."""
    generator = torch.Generator().manual_seed(0)
    half = 1 << (bits - 1)
    drawn = torch.randint(-half, half, (rows, width), generator=generator, dtype=torch.int8)
    scales = torch.rand(rows, groups, generator=generator) + 0.1
    return Quantized(drawn, scales, bits=bits)


def in_memory(tensors: Mapping[str, Tensor]) -> dict[str, TensorRef]:
    return {name: InMemory(tensor) for name, tensor in tensors.items()}


def settings(format: str = "pack-quantized", **weights: Any) -> dict[str, Any]:
    """One group for every linear: 4 bits, groups of 8, or as ``weights`` says."""
    args = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 8, **weights}
    group = {"targets": ["Linear"], "weights": args}
    return {"config_groups": {"group_0": group}, "format": format, "quant_method": "x"}


def read(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> Any:
    found = unpack(in_memory(tensors), settings() if config is None else config)
    assert found is not None
    return found


@given(st.integers(1, 8), st.integers(1, 5), st.sampled_from([1, 3, 8]), st.integers(1, 4))
def test_codes_come_back_exactly(bits: int, rows: int, group: int, groups: int) -> None:
    ref = codes(bits, rows, group * groups, groups)
    config = quantization_config({NAME: ref}, [MODULE])
    found = read(packed(NAME, ref), config)[NAME]
    assert isinstance(found, Unpacked)
    back = found.codes()
    assert torch.equal(back.codes, ref.codes)
    assert torch.equal(back.scales, ref.scales)
    assert (back.bits, back.zero_points) == (bits, None)
    assert torch.equal(found.load(), ref.values(torch.float32))
    outline = found.outline()
    assert (outline.shape, outline.bits, outline.num_bytes) == (ref.shape, bits, ref.num_bytes)
    assert outline.codes.is_meta


@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 40))
def test_outlines_have_the_shapes_of_what_is_written(bits: int, rows: int, width: int) -> None:
    ref = codes(bits, rows, width, 1)
    for made, outline in (
        (packed(NAME, ref), packed_outline(NAME, ref)),
        (per_row(NAME, ref, ["lm_head.weight"]), per_row_outline(NAME, ref, ["lm_head.weight"])),
    ):
        assert made.keys() == outline.keys()
        for name, tensor in made.items():
            assert (outline[name].shape, outline[name].dtype) == (tensor.shape, tensor.dtype)
            assert outline[name].is_meta


def test_asymmetric_codes_are_not_written() -> None:
    ref = codes()
    zeros = Quantized(ref.codes, ref.scales, bits=4, zero_points=torch.ones(6, 2).char())
    with pytest.raises(CheckpointError, match=rf"^'{NAME}' is quantised with zero points"):
        packed(NAME, zeros)


@pytest.mark.parametrize("as_packed", [False, True])
@pytest.mark.parametrize("rows", [1, 6, 20])
def test_zero_points_are_subtracted(rows: int, as_packed: bool) -> None:
    ref = codes(rows=rows)
    zeros = (torch.arange(2 * rows).reshape(rows, 2) % 13).char() - 6
    stored = pack_to_int32(zeros, 4, packed_dim=0) if as_packed else zeros
    parts = {**packed(NAME, ref), f"{NAME}_zero_point": stored}
    found = read(parts, settings(symmetric=False))[NAME]
    assert torch.equal(found.codes().zero_points, zeros)
    wanted = (ref.codes.reshape(rows, 2, 8).float() - zeros.unsqueeze(2)) * ref.scales.unsqueeze(2)
    assert torch.equal(found.load(), wanted.flatten(1))
    assert found.outline().zero_points is not None


def test_one_scale_may_stand_for_a_whole_matrix() -> None:
    drawn = codes(bits=8).codes
    parts = {NAME: drawn, f"{NAME}_scale": torch.tensor([0.5])}
    config = settings("int-quantized", num_bits=8, strategy="tensor", group_size=None)
    found = read(parts, config)[NAME]
    assert found.codes().scales.shape == (6, 1)
    assert torch.equal(found.load(), drawn.float() * 0.5)
    assert found.outline().scales.shape == (6, 1)


def test_scales_of_activations_are_no_tensors_of_the_model() -> None:
    parts = {**packed(NAME, codes()), f"{MODULE}.input_scale": torch.ones(1), "norm": torch.ones(1)}
    assert list(read(parts)) == ["norm", NAME]


def test_a_tied_head_repeats_the_scales_and_is_left_out() -> None:
    embedding = codes(bits=8, groups=1)
    parts = per_row("embed.weight", embedding, ["lm_head.weight"])
    assert parts.keys() == {"embed.weight", "embed.weight_scale", "lm_head.weight_scale"}
    config = quantization_config({"embed.weight": embedding}, [], ["embed", "lm_head"])
    found = read(parts, config)
    assert list(found) == ["embed.weight"]
    assert torch.equal(found["embed.weight"].load(), embedding.values(torch.float32))
    parts["lm_head.weight_scale"] = embedding.scales * 2
    with pytest.raises(CheckpointError, match=r"^'lm_head\.weight' has a scale but no codes"):
        read(parts, config)


def without(part: str) -> dict[str, Tensor]:
    return {name: each for name, each in packed(NAME, codes()).items() if not name.endswith(part)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({f"{NAME}_shape": torch.tensor([6, 99])}, r"recorded with shape \[6, 99\] and 4 bits"),
        ({f"{NAME}_shape": torch.tensor([6, 2, 8])}, r"recorded with shape \[6, 2, 8\]"),
        ({f"{NAME}_packed": torch.zeros(6, 2)}, r"codes are torch\.float32 \[6, 2\]"),
        ({f"{NAME}_scale": torch.ones(6, 3)}, r"scales \[6, 3\] for a weight \[6, 16\]"),
        ({f"{NAME}_scale": torch.ones(5, 2)}, r"scales \[5, 2\]"),
        ({f"{NAME}_scale": torch.ones(6, 0)}, r"scales \[6, 0\]"),
        ({f"{NAME}_scale": torch.ones(12)}, r"scales \[12\]"),
        ({f"{NAME}_g_idx": torch.zeros(16)}, r"columns in an order of their own \(g_idx\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Tensor], words: str) -> None:
    with pytest.raises(CheckpointError, match=f"^'{NAME}' .*{words}"):
        read({**packed(NAME, codes()), **changes})


@pytest.mark.parametrize(
    ("part", "words"), [("_shape", "lacks its shape"), ("_packed", "has a scale but no codes")]
)
def test_missing_parts_are_named(part: str, words: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^'{NAME}' .*{words}.*fetch"):
        read(without(part))


def test_zero_points_that_are_missing_or_of_another_shape_are_refused() -> None:
    found = read(packed(NAME, codes()), settings(symmetric=False))[NAME]
    with pytest.raises(CheckpointError, match=r"lacks its zero point; fetch it again$"):
        found.load()
    odd = {**packed(NAME, codes()), f"{NAME}_zero_point": torch.zeros(5, 2, dtype=torch.int32)}
    with pytest.raises(CheckpointError, match=r"zero points \[5, 2\] .* which need \[1, 2\]"):
        read(odd, settings(symmetric=False))[NAME].load()


def test_one_grid_covers_every_linear() -> None:
    names = [f"model.layers.{n}.up" for n in range(2)]
    found = quantization_config({f"{n}.weight": codes() for n in names}, [*names, "lm_head"])
    assert json.loads(json.dumps(found)) == found
    QuantizationConfig.model_validate(found)
    (group,) = found["config_groups"].values()
    assert group["targets"] == ["Linear"]
    assert (group["weights"]["num_bits"], group["weights"]["group_size"]) == (4, 8)
    assert (found["format"], found["ignore"]) == ("pack-quantized", ["lm_head"])
    assert has_kept_codes(found)


def test_each_grid_names_its_linears() -> None:
    grids = {"a": codes(4), "b": codes(8, groups=1), "c": codes(4), "d": codes(4, groups=4)}
    refs = {f"{name}.weight": ref for name, ref in grids.items()}
    embedding = {"embed.weight": codes(8, groups=1)}
    found = quantization_config({**refs, **embedding}, [*"abcde", "lm_head"], ["embed", "lm_head"])
    targets = {tuple(group["targets"]): group for group in found["config_groups"].values()}
    assert list(targets) == [("a", "c"), ("b",), ("d",), ("embed", "lm_head")]
    assert targets[("b",)]["weights"]["strategy"] == "channel"
    assert targets[("embed", "lm_head")]["format"] == "int-quantized"
    assert (found["format"], found["ignore"]) == ("mixed-precision", ["e"])


def test_a_group_that_names_a_layer_comes_before_one_for_all() -> None:
    both = settings()
    named = {"targets": [f"re:.*{MODULE}$"], "weights": {"num_bits": 8, "group_size": 8}}
    both["config_groups"]["group_1"] = {**named, "weights": {**named["weights"], "type": "int"}}
    both["config_groups"]["group_1"]["weights"]["strategy"] = "group"
    assert read(packed(NAME, codes(8)), both)[NAME].codes().bits == 8
    other = NAME.replace("up", "down")
    assert read(packed(other, codes(4)), both)[other].codes().bits == 4


def test_codes_that_no_group_names_are_refused() -> None:
    config = settings()
    config["config_groups"]["group_0"]["targets"] = ["re:.*down_proj$"]
    with pytest.raises(CheckpointError, match=f"^'{MODULE}' holds codes, but no group in"):
        read(packed(NAME, codes()), config)


@pytest.mark.parametrize(
    "config",
    [settings("marlin-24"), settings(num_bits=16), settings("pack-quantized", type="float")],
)
def test_other_formats_are_not_read_here(config: dict[str, Any]) -> None:
    assert unpack(in_memory(packed(NAME, codes())), config) is None
    assert not has_kept_codes(config)


@pytest.mark.parametrize(
    "config", [{"config_groups": 5}, {"format": []}, {"config_groups": {"a": 1}}]
)
def test_settings_that_are_none_are_refused(config: dict[str, Any]) -> None:
    said = r"^quantization_config in config\.json cannot be read: "
    for ask in (has_kept_codes, lambda each: unpack({}, each)):
        with pytest.raises(CheckpointError, match=said):
            ask({**settings(), **config})


def test_rotated_weights_are_refused() -> None:
    rotated = {**settings(), "transform_config": {"config_groups": {"v": {}}}}
    with pytest.raises(CheckpointError, match=r"rotated \(transform_config in config\.json\)"):
        read(packed(NAME, codes()), rotated)
    assert NAME in read(packed(NAME, codes()), {**settings(), "transform_config": {}})


@pytest.mark.parametrize(
    ("kind", "dtype", "format"),
    [("int8", torch.int8, "int-quantized"), ("fp8", torch.float8_e4m3fn, "float-quantized")],
)
def test_weights_of_rounded_inputs_take_a_byte_each(
    kind: Any, dtype: torch.dtype, format: str
) -> None:
    plain = codes(8, groups=1)
    ref = Quantized(plain.codes.to(dtype), plain.scales, bits=8, input_activations=kind)
    files, drawn = packed(NAME, ref), packed_outline(NAME, ref)
    assert {n: (t.dtype, t.shape) for n, t in files.items()} == {
        n: (t.dtype, t.shape) for n, t in drawn.items()
    }
    assert files[NAME].dtype == dtype
    found = quantization_config({NAME: ref}, [MODULE, "lm_head"])
    (group,) = found["config_groups"].values()
    assert (found["format"], group["format"]) == (format, format)
    inputs = group["input_activations"]
    assert (inputs["strategy"], inputs["dynamic"], inputs["symmetric"]) == ("token", True, True)
    assert has_kept_codes(found)
    assert rounds_inputs(found)
    again = read(files, found)[NAME]
    assert again.codes().digest == ref.digest
    assert again.outline().input_activations == kind
    assert again.outline().num_bytes == ref.num_bytes


@pytest.mark.parametrize(
    "change",
    [
        {"dynamic": False, "strategy": "tensor"},
        {"strategy": "tensor"},
        {"num_bits": 4},
        {"symmetric": False},
    ],
)
def test_other_ways_to_round_inputs_are_not_kept(change: dict[str, Any]) -> None:
    ref = Quantized(*codes(8, groups=1).parts().values(), bits=8, input_activations="int8")
    found = quantization_config({NAME: ref}, [MODULE])
    found["config_groups"]["group_0"]["input_activations"] |= change
    assert not has_kept_codes(found)
    assert not is_kept(read(packed(NAME, ref), found)[NAME].inputs, None)
