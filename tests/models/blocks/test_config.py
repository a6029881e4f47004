"""A config is read as transformers reads it, or refused in one sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from tiny import random_model
from transformers import (
    AutoModelForCausalLM,
    LlavaConfig,
    Mamba2Config,
    PreTrainedConfig,
    T5Config,
    XLNetConfig,
)

from birdbone.checkpoints import Checkpoint
from birdbone.errors import ModelError
from birdbone.models.blocks.config import context_length
from birdbone.models.blocks.empty_model import empty_model, text_config
from birdbone.models.reading.in_memory import as_checkpoint
from birdbone.models.writing.folder import write_model


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


MAMBA = {
    "vocab_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_heads": 4,
    "head_dim": 16,
    "state_size": 8,
    "n_groups": 1,
    "chunk_size": 8,
}


def test_infinity_in_a_config_is_kept(tmp_path: Path) -> None:
    checkpoint = as_checkpoint(random_model(Mamba2Config(**MAMBA)))
    assert list(text_config(checkpoint).time_step_limit) == [0.0, math.inf]
    write_model(checkpoint, tmp_path, max_shard_bytes=1 << 30)
    found = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert list(found.config.time_step_limit) == [0.0, math.inf]


def test_a_model_without_a_longest_text_has_no_context_length() -> None:
    config = XLNetConfig(vocab_size=128, d_model=32, n_layer=2, n_head=4, d_inner=64)
    assert config.max_position_embeddings == -1
    assert context_length(as_checkpoint(random_model(config))) is None
