"""Input embedding and output head of every tiny architecture."""

from __future__ import annotations

import pytest
from tiny import picture_config, random_model, tiny_checkpoint, tiny_configs, tiny_model

from birdbone.models.blocks.embeddings import (
    embedding_names,
    embedding_paths,
    is_part_of_wrapper,
)
from birdbone.models.reading.opening import as_checkpoint


@pytest.mark.parametrize("arch", tiny_configs)
def test_they_are_what_the_model_itself_returns(arch: str) -> None:
    model = tiny_model(arch)
    paths = embedding_paths(model)
    found = [model.get_submodule(path) for path in paths]
    if arch == "gemma3":  # its embedding scales, and cannot be quantised
        assert found == []
        return
    assert found == [model.get_input_embeddings(), model.get_output_embeddings()]


def test_a_tied_head_has_no_tensor_of_its_own() -> None:
    assert embedding_names(tiny_checkpoint("llama_tied")) == ["model.embed_tokens.weight"]
    assert embedding_names(tiny_checkpoint("llama")) == [
        "model.embed_tokens.weight",
        "lm_head.weight",
    ]


def test_a_model_inside_another_is_recognised() -> None:
    assert not is_part_of_wrapper(tiny_checkpoint())
    assert is_part_of_wrapper(as_checkpoint(random_model(picture_config()), None))
