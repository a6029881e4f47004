"""The values a file stores are known without writing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from tiny_gguf import gguf_checkpoint

from birdbone.formats.gguf_rounding import stored_values
from birdbone.formats.gguf_writer import write_gguf


@pytest.mark.parametrize(("variant", "kind"), [("qwen3", "q4_0"), ("gpt2", "q8_0")])
def test_they_are_what_a_reader_finds(variant: str, kind: Any, tmp_path: Path) -> None:
    """Of architectures whose rows stay in order; GPT-2's weights are transposed in the file."""
    checkpoint = gguf_checkpoint(variant)
    path = write_gguf(checkpoint, tmp_path / "model.gguf", kind=kind).path
    read = {each.name: each for each in GGUFReader(path).tensors}
    stored = stored_values(checkpoint, kind=kind)
    names = {
        "qwen3": {
            "model.layers.1.mlp.down_proj.weight": "blk.1.ffn_down.weight",
            "model.embed_tokens.weight": "token_embd.weight",
            "model.layers.0.input_layernorm.weight": "blk.0.attn_norm.weight",
        },
        "gpt2": {
            "transformer.h.1.mlp.c_proj.weight": "blk.1.ffn_down.weight",
            "transformer.wpe.weight": "position_embd.weight",
        },
    }[variant]
    for name, gguf_name in names.items():
        tensor = read[gguf_name]
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        found = stored.tensors[name]
        assert torch.equal(found.T if name.endswith("c_proj.weight") else found, values), name


def test_only_the_values_change() -> None:
    checkpoint = gguf_checkpoint("llama")
    stored = stored_values(checkpoint, kind="q4_0")
    assert stored.refs.keys() == checkpoint.refs.keys()
    assert {n: r.shape for n, r in stored.refs.items()} == {
        n: r.shape for n, r in checkpoint.refs.items()
    }
    assert stored.config == checkpoint.config
