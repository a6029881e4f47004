"""save tried before a run: refused in one sentence, with what to do instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import random_model, tiny_checkpoint, tiny_tokenizer
from tiny_folders import quantized, written
from tiny_gguf import gguf_checkpoint
from transformers import Llama4TextConfig

from birdbone.chains.preflight.look import preflight
from birdbone.checkpoints import Checkpoint
from birdbone.engine import Chain
from birdbone.errors import LinkError, ModelError, SettingError
from birdbone.links import load, quantize, save
from birdbone.links.saving.settings import SaveSettings
from birdbone.links.saving.trial import save_trial
from birdbone.models.reading.opening import as_checkpoint


def llama4() -> Checkpoint:
    """Fused experts, for which transformers puts other modules when anything is quantised."""
    config = Llama4TextConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=64,
        intermediate_size_mlp=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=4,
        interleave_moe_layer_step=1,
        pad_token_id=0,
    )
    return as_checkpoint(random_model(config), tiny_tokenizer(), source="tiny/llama4")


def tried(checkpoint: Checkpoint, **settings: Any) -> None:
    """The trial of save on a model."""
    save_trial(
        {"checkpoint": checkpoint, "dense": checkpoint}, SaveSettings(path="out", **settings)
    )


def test_what_loads_again_passes() -> None:
    tried(tiny_checkpoint())
    tried(quantized(tiny_checkpoint()))


def test_a_format_that_does_not_hold_the_weights_is_refused() -> None:
    with pytest.raises(SettingError, match="does not hold this model"):
        tried(quantized(tiny_checkpoint()), format="safetensors")


def test_what_to_do_instead_was_tried_too() -> None:
    with pytest.raises(SettingError, match=r"save\(path='out'\): .*; leave quantize out, which"):
        tried(quantized(llama4()))


def test_a_gguf_file_is_prepared_without_being_written(tmp_path: Path) -> None:
    tried(gguf_checkpoint("llama"), format="gguf")
    with pytest.raises(ModelError, match="tokenizer"):
        tried(tiny_checkpoint("llama"), format="gguf")
    assert not list(tmp_path.iterdir())


def test_a_chain_is_refused_before_any_work(tmp_path: Path) -> None:
    model = written(llama4(), tmp_path / "model")
    chain = Chain(
        load(model=str(model)),
        quantize(method="rtn", group_size=None),
        save(path=str(tmp_path / "out"), compare=False),
    )
    with pytest.raises(
        LinkError, match=r"link 'save' failed: .*Llama4ForCausalLM.*leave quantize out"
    ):
        preflight(chain)
