"""A head that differs from the embedding is kept, whatever the config says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import picture_config, random_model, tiny_checkpoint, tiny_model, tiny_tokenizer
from tiny_folders import own_logits, plain_logits, quantized, written
from transformers import PreTrainedModel

from birdbone.checkpoints import Checkpoint
from birdbone.links.load import load
from birdbone.models.planning.outline import outlined_model
from birdbone.models.reading.opening import as_checkpoint, open_checkpoint
from birdbone.models.reading.sources import find_model
from birdbone.reports.inspection import inspect_model

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(find_model(str(folder)))


def said_to_be_tied(model: PreTrainedModel, folder: Path) -> Path:
    """A folder whose config says tied and whose file holds a head of its own."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config.get("text_config", {})):
        part["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_both_are_kept_and_the_config_is_corrected(tmp_path: Path) -> None:
    model = tiny_model()
    found = opened(said_to_be_tied(model, tmp_path / "m"))
    assert found.config["tie_word_embeddings"] is False
    assert torch.equal(found.tensors[HEAD], model.lm_head.weight)
    assert torch.equal(own_logits(found), own_logits(as_checkpoint(model)))
    assert torch.equal(plain_logits(written(found, tmp_path / "again")), own_logits(found))


def test_a_head_equal_to_the_embedding_is_stored_once(tmp_path: Path) -> None:
    tied = tiny_model("llama_tied")
    tied.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({**weights, HEAD: weights[EMBEDDING].bfloat16().float()}, tmp_path / "odd")
    save_file({**weights, HEAD: weights[EMBEDDING].clone()}, tmp_path / "model.safetensors")
    found = opened(tmp_path)
    assert HEAD not in found.refs
    assert found.config["tie_word_embeddings"] is True
    (tmp_path / "odd").replace(tmp_path / "model.safetensors")
    assert HEAD in opened(tmp_path).refs


def test_experts_that_transformers_merges_are_no_exception(tmp_path: Path) -> None:
    model = tiny_model("mixtral")
    found = opened(said_to_be_tied(model, tmp_path / "m"))
    assert torch.equal(found.tensors[HEAD], model.lm_head.weight)
    assert found.config["tie_word_embeddings"] is False


def test_the_text_part_of_a_larger_config_is_untied_too(tmp_path: Path) -> None:
    config = picture_config()
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    model = random_model(config)
    found = opened(said_to_be_tied(model, tmp_path / "m"))
    assert torch.equal(found.tensors[HEAD], model.lm_head.weight)
    assert found.config["tie_word_embeddings"] is False
    assert found.config["text_config"]["tie_word_embeddings"] is False


def test_a_model_in_memory_keeps_a_head_somebody_gave_it() -> None:
    model = tiny_model("llama_tied")
    assert HEAD not in as_checkpoint(model).refs
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight * 2)
    found = as_checkpoint(model)
    assert torch.equal(found.tensors[HEAD], model.lm_head.weight)
    assert found.config["tie_word_embeddings"] is False


def test_a_quantised_folder_keeps_its_head(tmp_path: Path) -> None:
    folder = written(quantized(tiny_checkpoint()), tmp_path / "light")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    found = opened(folder)
    assert torch.equal(found.tensors[HEAD], tiny_checkpoint().tensors[HEAD])


@pytest.mark.parametrize("arch", ["llama", "mixtral"])
def test_what_is_foretold_and_inspected_counts_the_head(arch: str, tmp_path: Path) -> None:
    model = tiny_model(arch)
    source = find_model(str(said_to_be_tied(model, tmp_path / "m")))
    outline = outlined_model(source, None)
    assert outline.refs[HEAD].shape == model.lm_head.weight.shape
    found = inspect_model(str(tmp_path / "m"))
    assert not found.tied
    assert found.parameters == sum(p.numel() for p in model.parameters())


async def test_the_dense_reference_has_the_head(tmp_path: Path) -> None:
    folder = said_to_be_tied(tiny_model(), tmp_path / "m")
    after: Any = await load(model=str(folder))({})
    assert HEAD in after["dense"].refs
