"""A config that transformers makes no causal language model of is refused in one sentence."""

from __future__ import annotations

import json

import pytest
from transformers import LlavaConfig, PreTrainedConfig, T5Config

from birdbone.checkpoints import Checkpoint
from birdbone.errors import ModelError
from birdbone.models.blocks.empty_model import empty_model


def checkpoint_of(config: PreTrainedConfig, architecture: str) -> Checkpoint:
    written = json.loads(config.to_json_string(use_diff=False))
    return Checkpoint({**written, "architectures": [architecture]}, {})


def test_a_larger_model_names_its_text_part_and_what_to_do() -> None:
    expected = (
        "'llava': LlavaForConditionalGeneration is a larger model around a text model of type "
        "'llama', .* save its text model as a folder of its own and give that$"
    )
    with pytest.raises(ModelError, match=expected) as caught:
        empty_model(checkpoint_of(LlavaConfig(), "LlavaForConditionalGeneration"))
    assert len(str(caught.value)) < 300


def test_another_kind_of_model_is_refused_without_a_list_of_classes() -> None:
    with pytest.raises(ModelError, match="no causal language model of that type") as caught:
        empty_model(checkpoint_of(T5Config(), "T5ForConditionalGeneration"))
    assert len(str(caught.value)) < 300
