"""A transformers model as a checkpoint and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_checkpoint, tiny_model, tiny_tokenizer, tiny_windows
from tiny_folders import quantized, written
from transformers import AutoModelForCausalLM

from birdbone.errors import ModelError
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


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_compiled_model_is_the_model_inside() -> None:
    model = tiny_model("llama")
    compiled = as_checkpoint(torch.compile(model))  # type: ignore[arg-type]
    assert compiled.id == as_checkpoint(model).id


def test_codes_in_memory_are_no_weights(tmp_path: Path) -> None:
    folder = written(quantized(tiny_checkpoint()), tmp_path / "light")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(ModelError, match=r"is quantised in memory .compressed-tensors., so its"):
        as_checkpoint(model)


def test_a_model_without_values_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'model\.embed_tokens\.weight' of Llama.* has no values"):
        as_checkpoint(tiny_model("llama").to("meta"))
