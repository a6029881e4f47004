"""Which type each tensor of a file gets, and what is warned of."""

from __future__ import annotations

from dataclasses import replace

import torch
from tiny_gguf import gguf_checkpoint

from birdbone.checkpoints import Checkpoint, Quantized
from birdbone.formats.gguf_architectures import architecture_of
from birdbone.formats.gguf_tensors import (
    fallback_warnings,
    file_kind,
    recoding_warnings,
    tensor_entries,
    tensor_kinds,
    unchanged_kind,
)
from birdbone.models.blocks.empty_model import empty_model

DOWN = "model.layers.0.mlp.down_proj.weight"


def with_codes(bits: int) -> Checkpoint:
    """One linear on a grid that ggml's blocks store exactly."""
    checkpoint = gguf_checkpoint("llama")
    rows, width = checkpoint.refs[DOWN].shape
    codes = torch.ones(rows, width, dtype=torch.int8)
    scales = torch.full((rows, width // 32), 0.5)
    return checkpoint.evolve({DOWN: Quantized(codes, scales, bits=bits)})


def entries_of(checkpoint: Checkpoint, kind):
    model = empty_model(checkpoint)
    return tensor_entries(checkpoint, model, architecture_of(model.config)[0], kind)


def test_a_file_s_type_is_that_of_its_smallest_codes() -> None:
    assert file_kind(gguf_checkpoint("llama"), None) == "f16"
    assert file_kind(with_codes(8), None) == "q8_0"
    assert file_kind(with_codes(4), None) == "q4_0"
    assert file_kind(with_codes(4), "q5_1") == "q5_1"


def test_codes_are_kept_but_for_a_file_of_values() -> None:
    ref = with_codes(4).refs[DOWN]
    assert unchanged_kind(ref, "q8_0") == "q4_0"
    assert unchanged_kind(ref, "f16") is None


def test_each_tensor_has_its_type_and_place() -> None:
    kinds = tensor_kinds(gguf_checkpoint("gpt2"), kind="q8_0")
    assert kinds["transformer.h.0.mlp.c_fc.weight"] == ("q8_0", True)
    assert kinds["transformer.h.0.mlp.c_fc.bias"] == ("f32", False)
    assert kinds["transformer.wte.weight"] == ("q8_0", False)


def test_rotary_factors_come_last() -> None:
    entries = entries_of(gguf_checkpoint("llama 3 rope"), "f16")
    assert entries[-1].name == "rope_freqs.weight"
    assert entries[-1].kind == "f32"
    assert entries[-1].data().size == entries[-1].num_bytes


def test_codes_kept_in_another_type_are_warned_of() -> None:
    checkpoint = with_codes(8)
    entries = entries_of(checkpoint, "q4_0")
    (warning,) = recoding_warnings(checkpoint, entries, "q4_0")
    assert "1 tensors, such as 'blk.0.ffn_down.weight', are written as q8_0" in warning
    assert not list(recoding_warnings(checkpoint, entries, "q8_0"))


def test_codes_nobody_asked_to_dequantize_are_warned_of() -> None:
    checkpoint = with_codes(8)
    ref = checkpoint.refs[DOWN]
    assert isinstance(ref, Quantized)
    odd = Quantized(ref.codes, ref.scales * 0.3, bits=8)  # 0.15 is no float16
    checkpoint = replace(checkpoint, refs={**checkpoint.refs, DOWN: odd})
    entries = entries_of(checkpoint, "f16")
    (warning,) = recoding_warnings(checkpoint, entries, None)
    assert "1 quantised tensors, such as 'blk.0.ffn_down.weight', are dequantised" in warning
    assert not list(recoding_warnings(checkpoint, entries, "f16"))


def test_a_fallback_is_warned_of_once_for_each_type() -> None:
    entries = entries_of(gguf_checkpoint("llama hollowed"), "q4_0")
    (warning,) = fallback_warnings(entries, "q4_0")
    assert "are written as f16: the blocks of q4_0 do not divide their width" in warning
    assert not list(fallback_warnings(entries_of(gguf_checkpoint("llama"), "q4_0"), "q4_0"))
