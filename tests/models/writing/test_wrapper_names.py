"""The text part of a larger model is saved so that both classes load it, tower and all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import picture_config, random_model, tiny_checkpoint, tiny_windows
from tiny_folders import all_weights, own_logits, quantized, written
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Llama4Config,
    Llama4ForConditionalGeneration,
    PreTrainedModel,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
)

from birdbone.checkpoints import Checkpoint
from birdbone.models.blocks.empty_model import empty_model, shared_model
from birdbone.models.reading.opening import as_checkpoint, open_checkpoint
from birdbone.models.reading.sources import find_model
from birdbone.models.units.config_keys import with_settings
from birdbone.models.writing.wrapper_names import names_for_files

_TEXT: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


def qwen() -> PreTrainedModel:
    linear = {f"linear_{part}": 4 for part in ("num_value_heads", "num_key_heads")}
    linear |= {f"linear_{part}_head_dim": 8 for part in ("key", "value")}
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 16,
    }
    kinds = ["linear_attention", "full_attention"]
    text = {**_TEXT, **linear, "layer_types": kinds}
    return Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=vision))


def llama() -> PreTrainedModel:
    more = {
        "intermediate_size_mlp": 64,
        "num_local_experts": 2,
        "moe_layers": [1],
        "no_rope_layers": [1, 1],
        "attn_temperature_tuning": False,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "vision_output_dim": 16,
        "projector_input_dim": 16,
        "projector_output_dim": 16,
    }
    return Llama4ForConditionalGeneration(
        Llama4Config(text_config={**_TEXT, **more}, vision_config=vision)
    )


def opened(model: PreTrainedModel, folder: Path) -> Checkpoint:
    model.save_pretrained(folder)
    with pytest.warns(UserWarning, match=r"holds .* has no parameters"):
        return open_checkpoint(find_model(str(folder)))


@pytest.mark.filterwarnings("ignore:Casting complex values to real")
@pytest.mark.parametrize("make", [qwen, llama])
def test_the_saved_folder_loads_as_the_whole_and_as_its_text_part(
    make: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    whole = make().eval()
    found = opened(whole, tmp_path / "m")
    assert found.config["model_type"] == whole.config.model_type
    again = written(found, tmp_path / "again")
    assert all_weights(again).keys() == all_weights(tmp_path / "m").keys()
    tokens = tiny_windows(1).tokens
    with torch.no_grad():
        expected = whole(input_ids=tokens).logits
        for loader in (AutoModelForImageTextToText, AutoModelForCausalLM):
            model, told = loader.from_pretrained(again, output_loading_info=True)
            assert not told["missing_keys"]
            assert torch.allclose(model.eval()(input_ids=tokens).logits, expected, atol=1e-5)


def test_sizes_of_the_text_part_are_set_in_its_part_of_the_config(tmp_path: Path) -> None:
    found = opened(qwen(), tmp_path / "m")
    changed = with_settings(found, shared_model(found).config, {"intermediate_size": 48})
    assert changed.keys() == {"text_config"}
    assert changed["text_config"]["intermediate_size"] == 48
    assert changed["text_config"]["hidden_size"] == 32


def test_packed_text_parts_load_as_causal_language_models(tmp_path: Path) -> None:
    light = quantized(opened(qwen(), tmp_path / "m"))
    folder = written(light, tmp_path / "light")
    model, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    with torch.no_grad():
        found = model.eval()(tiny_windows().tokens, use_cache=False).logits
    assert torch.allclose(found, own_logits(light), atol=1e-5)


@pytest.mark.parametrize("checkpoint", [tiny_checkpoint, lambda: picture_checkpoint()])
def test_whole_models_keep_their_names(checkpoint: Any) -> None:
    made = checkpoint()
    names = names_for_files(made, empty_model(made), made.refs)
    assert all(name == renamed for name, renamed in names.items())


def picture_checkpoint() -> Checkpoint:
    return as_checkpoint(random_model(picture_config()))
