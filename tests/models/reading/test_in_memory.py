"""A transformers model as a checkpoint and back."""

from __future__ import annotations

import torch
from tiny import tiny_checkpoint, tiny_model, tiny_tokenizer, tiny_windows
from tiny_folders import quantized

from birdbone.models import as_checkpoint


def test_a_model_comes_back_as_it_was() -> None:
    model = tiny_model("llama_tied")
    again = as_checkpoint(model, tiny_tokenizer()).to_model()
    assert type(again) is type(model)
    assert not again.training
    tokens = tiny_windows().tokens
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)
    assert again.get_input_embeddings().weight is again.get_output_embeddings().weight


def test_changing_the_model_leaves_the_checkpoint() -> None:
    checkpoint = tiny_checkpoint()
    before = checkpoint.id
    with torch.no_grad():
        for parameter in checkpoint.to_model().parameters():
            parameter.zero_()
    assert checkpoint.evolve().id == before


def test_quantised_weights_become_values_in_the_dtype_asked_for() -> None:
    light = quantized(tiny_checkpoint())
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(light.to_model().get_parameter(name), light.tensors[name])
    assert light.to_model(torch.bfloat16).get_parameter(name).dtype == torch.bfloat16
