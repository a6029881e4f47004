"""The matrices of a GGUF file, held against the modules of transformers."""

from __future__ import annotations

import pytest
from tiny import tiny_checkpoint, tiny_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from birdbone.links.allocating.stored_matrices import stored_matrices, tables


@pytest.mark.parametrize("arch", ["llama", "llama_tied", "qwen3", "gemma3", "phi3"])
def test_every_linear_and_the_tables(arch: str) -> None:
    model = tiny_model(arch)
    matrices = {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Embedding))
    }
    if model.config.tie_word_embeddings:
        del matrices["lm_head"]
    assert stored_matrices(tiny_checkpoint(arch)) == matrices


def test_shapes_of_transposed_weights_are_those_of_the_layer() -> None:
    """GPT-2 stores [in_features, out_features]; its position embedding is no such matrix."""
    linears = {
        name: (module.nf, module.nx)
        for name, module in tiny_model("gpt2").named_modules()
        if isinstance(module, Conv1D)
    }
    found = stored_matrices(tiny_checkpoint("gpt2"))
    assert found == {**linears, "transformer.wte": (128, 32)}
    assert found["transformer.h.0.mlp.c_proj"] == (32, 128)


@pytest.mark.parametrize("arch", ["mixtral", "gpt_oss"])
def test_experts_that_share_a_tensor_are_left_out(arch: str) -> None:
    found = stored_matrices(tiny_checkpoint(arch))
    assert {name.split(".")[-1] for name in found} == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("embed_tokens", "lm_head"),
    }


def test_tables_come_last_and_a_tied_head_is_none() -> None:
    untied, tied = tiny_checkpoint("llama"), tiny_checkpoint("llama_tied")
    assert tables(tied) == {"model.embed_tokens": (128, 32)}
    assert list(tables(untied)) == ["model.embed_tokens", "lm_head"]
    assert list(stored_matrices(untied))[-2:] == list(tables(untied))
