"""Tensors that transformers changes when it loads a model: read as it leaves them, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import random_model, tiny_tokenizer, tiny_windows
from tiny_folders import own_logits
from transformers import AutoModelForCausalLM, PreTrainedModel
from zoo.configs import zoo_config

from birdbone.checkpoints import Checkpoint
from birdbone.errors import ModelError
from birdbone.models.reading.opening import as_checkpoint, open_checkpoint
from birdbone.models.reading.sources import find_model

_EMBEDDING = "model.embed_tokens.weight"


def opened(model: PreTrainedModel, folder: Path) -> Checkpoint:
    """The model, written by transformers and read here."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return open_checkpoint(find_model(str(folder)))


def test_the_model_read_computes_what_transformers_makes_of_the_folder(tmp_path: Path) -> None:
    model = random_model(zoo_config("youtu"))  # whose padding row transformers sets to zero
    with pytest.warns(UserWarning, match=f"changes '{_EMBEDDING}' .* when it loads"):
        found = opened(model, tmp_path)
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        expected = plain(tiny_windows().tokens, use_cache=False).logits
        changed = model(tiny_windows().tokens, use_cache=False).logits
    assert not torch.allclose(changed, expected, atol=1e-3)
    torch.testing.assert_close(own_logits(found), expected)


def test_values_that_are_left_alone_are_read_without_a_word(tmp_path: Path) -> None:
    model = random_model(zoo_config("youtu"))
    model.get_input_embeddings().weight.data[0] = 0
    found = opened(model, tmp_path)  # a warning would be an error
    assert torch.equal(found.tensors[_EMBEDDING], model.get_parameter(_EMBEDDING))


def test_a_model_in_memory_is_taken_as_a_folder_of_it_would_load() -> None:
    model = random_model(zoo_config("youtu"))
    with pytest.warns(UserWarning, match="when it loads the model"):
        found = as_checkpoint(model, source="tiny/youtu")
    assert not found.tensors[_EMBEDDING][0].any()
    assert model.get_parameter(_EMBEDDING)[0].all()


def test_a_tensor_that_changes_at_every_load_is_refused(tmp_path: Path) -> None:
    model = random_model(zoo_config("mamba, rescaled"))
    with pytest.raises(ModelError, match=r"changes tensor 'backbone.*out_proj.weight' of .* each"):
        opened(model, tmp_path)
