"""What transformers must translate is loaded from the files chosen, in the dtypes stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import tiny_checkpoint, tiny_model, tiny_tokenizer
from tiny_contexts import digests
from torch import Tensor

from birdbone.checkpoints import Checkpoint
from birdbone.errors import CheckpointError, ModelError
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model

ROUTER = "model.layers.0.mlp.gate.weight"


def saved(folder: Path, arch: str, dtype: torch.dtype = torch.float32, **settings: Any) -> Path:
    tiny_model(arch).to(dtype).save_pretrained(folder, **settings)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(find_model(str(folder)))


def rewritten(folder: Path, change: Any) -> None:
    weights: dict[str, Tensor] = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("arch", ["llama", "mixtral"])
def test_each_tensor_keeps_the_dtype_it_is_stored_in(arch: str, tmp_path: Path) -> None:
    """A config says one dtype; transformers casts every tensor to it."""
    folder = saved(tmp_path / "m", arch, torch.bfloat16)
    exact = torch.linspace(0.9, 1.1, 32)
    rewritten(folder, lambda weights: weights.update({"model.norm.weight": exact}))
    found = opened(folder)
    assert torch.equal(found.tensors["model.norm.weight"], exact)
    others = {ref.dtype for name, ref in found.refs.items() if name != "model.norm.weight"}
    assert others == {torch.bfloat16}
    assert found.config["dtype"] == "bfloat16"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("arch", ["llama", "mixtral"])
def test_an_adapter_beside_the_weights_is_named_and_not_applied(arch: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", arch)
    adapted = get_peft_model(tiny_model(arch), LoraConfig(target_modules=["q_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    adapted.save_pretrained(folder)
    with pytest.warns(UserWarning, match=r"adapter beside its weights that is not merged .* PEFT"):
        found = opened(folder)
    assert digests(found) == digests(tiny_checkpoint(arch))
    left = {each.name for each in found.left_out}
    assert left >= {"adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize("arch", ["llama", "mixtral"])
def test_whole_shards_are_used_where_a_stray_file_lacks_their_tensors(
    arch: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "m", arch, max_shard_size="40KB")
    save_file({"mtp.weight": torch.ones(2)}, folder / "model.safetensors", {"format": "pt"})
    expected = r"'m' holds model\.safetensors and also shards .* the shards were used, because"
    with pytest.warns(UserWarning, match=expected):
        found = opened(folder)
    assert digests(found) == digests(tiny_checkpoint(arch))


@pytest.mark.parametrize("arch", ["llama", "mixtral"])
def test_a_whole_single_file_is_used_as_transformers_does(arch: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", arch, max_shard_size="40KB")
    single = saved(tmp_path / "single", arch)
    rewritten(single, lambda weights: weights.update({"model.norm.weight": torch.full((32,), 7.0)}))
    (single / "model.safetensors").rename(folder / "model.safetensors")
    with pytest.warns(UserWarning, match=r"model\.safetensors was used, as transformers does"):
        found = opened(folder)
    assert float(found.tensors["model.norm.weight"].mean()) == 7.0


def test_shards_that_are_not_whole_are_no_alternative(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", "llama", max_shard_size="40KB")
    sorted(folder.glob("model-*.safetensors"))[0].unlink()
    single = saved(tmp_path / "single", "llama")
    (single / "model.safetensors").rename(folder / "model.safetensors")
    with pytest.warns(UserWarning, match=r"model\.safetensors was used"):
        found = opened(folder)
    assert digests(found) == digests(tiny_checkpoint())


def test_a_config_that_names_other_weights_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", "llama")
    config = json.loads((folder / "config.json").read_text())
    for named in ("model.safetensors", "other.safetensors"):
        text = json.dumps({**config, "transformers_weights": named})
        (folder / "config.json").write_text(text)
        if named == "model.safetensors":
            assert "transformers_weights" not in opened(folder).config
    with pytest.raises(ModelError, match=r"names 'other\.safetensors' .* as its weights; rename"):
        opened(folder)


def test_the_config_is_carried_as_it_is(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", "mixtral")
    config = json.loads((folder / "config.json").read_text())
    config |= {"of_another_tool": {"a": [1]}, "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))
    assert dict(opened(folder).config) == config


def test_a_model_saved_without_its_head_is_named(tmp_path: Path) -> None:
    tiny_model("llama").model.save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"lacks tensor 'lm_head\.weight'.*saved as LlamaModel"
    ):
        opened(tmp_path)
