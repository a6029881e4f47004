"""Tensors that the class has no parameters for are named, counted, and saved unchanged."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import tiny_checkpoint, tiny_model, tiny_tokenizer
from tiny_folders import all_weights, for_bitsandbytes, own_logits, quantized, written
from torch import Tensor
from transformers import AutoModelForCausalLM

from birdbone.checkpoints import Checkpoint, InMemory, LeftOut, ObjectStore
from birdbone.engine import run
from birdbone.errors import CheckpointError, ModelError
from birdbone.links import load
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.evaluation.footprint import by_shapes
from birdbone.models.planning.outline import held_bytes, outlined_model
from birdbone.models.reading.opening import as_checkpoint, open_checkpoint
from birdbone.models.reading.sources import find_model
from birdbone.models.reading.unused import grouped, in_words, without_unused
from birdbone.reports.card import model_card
from birdbone.reports.source_contents import as_in_gguf, contents_markdown, contents_record

EXTRA = {
    "mtp.fc.weight": torch.tensor([[-0.0, 1.0], [2.0, 3.0]]),
    "mtp.layers.0.mlp.down_proj.weight": torch.arange(8.0).bfloat16(),
    "model.layers.3.mlp.up_proj.weight": torch.ones(64, 32),
    "model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 32),
    "vision_tower.encoder.layers.0.mlp.fc1.weight": torch.tensor([1, 2, 3], dtype=torch.uint16),
}
EXTRA_BYTES = sum(tensor.nbytes for tensor in EXTRA.values())
NAMED = pytest.mark.filterwarnings("ignore:.*has no parameters:UserWarning")


def with_extra(folder: Path, extra: Mapping[str, Tensor] = EXTRA) -> Path:
    """The folder with more tensors among its weights."""
    path = folder / "model.safetensors"
    save_file({**load_file(path), **extra}, path, {"format": "pt"})
    return folder


def saved(folder: Path, arch: str = "llama") -> Path:
    tiny_model(arch).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def opened(folder: Path, **settings: Any) -> Checkpoint:
    return open_checkpoint(find_model(str(folder)), **settings)


def same_bits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return all(
        found[name].dtype == tensor.dtype
        and torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8))
        for name, tensor in expected.items()
    )


def test_they_are_named_with_count_and_bytes(tmp_path: Path) -> None:
    expected = (
        f"'m' holds 5 tensors ({EXTRA_BYTES:,} bytes): model.layers.0.self_attn.q_proj.lora_A, "
        "model.layers.3, mtp, vision_tower, for which LlamaForCausalLM has no parameters: they "
        "do not affect its output, and are saved unchanged unless keep_unused is off"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(expected)}$"):
        opened(with_extra(saved(tmp_path / "m")))


@NAMED
@pytest.mark.parametrize("arch", ["llama", "llama_tied", "mixtral", "gpt2"])
def test_they_are_saved_bit_for_bit_and_the_folder_loads(arch: str, tmp_path: Path) -> None:
    found = opened(with_extra(saved(tmp_path / "m", arch)))
    assert found.refs.keys() == tiny_checkpoint(arch).refs.keys()
    assert found.unused.keys() == EXTRA.keys()
    assert found.num_bytes == tiny_checkpoint(arch).num_bytes + EXTRA_BYTES
    again = written(found, tmp_path / "again", max_shard_bytes=20_000)
    assert same_bits(all_weights(again), EXTRA)
    _, told = AutoModelForCausalLM.from_pretrained(again, output_loading_info=True)
    assert not told["missing_keys"]
    assert torch.equal(own_logits(found), own_logits(tiny_checkpoint(arch)))
    assert opened(again).id == replace(found, left_out=()).id


@NAMED
@pytest.mark.parametrize("kind", ["packed", "nf4"])
def test_quantised_folders_carry_them_too(kind: str, tmp_path: Path) -> None:
    dense = opened(with_extra(saved(tmp_path / "m")))
    plain = tiny_checkpoint(hidden_size=64)
    if kind == "nf4":
        light = replace(for_bitsandbytes(plain, "nf4"), unused=dense.unused)
    else:
        light = replace(quantized(plain), unused=dense.unused)
    folder = written(light, tmp_path / "light")
    assert same_bits(all_weights(folder), EXTRA)
    found = opened(folder)
    assert found.unused.keys() == EXTRA.keys()
    assert found.refs.keys() == plain.refs.keys()
    _, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]


@NAMED
def test_codes_of_an_unused_weight_are_carried_as_they_are(tmp_path: Path) -> None:
    folder = written(quantized(tiny_checkpoint()), tmp_path / "light")
    up = "model.layers.0.mlp.up_proj.weight"
    packed = {n: t for n, t in all_weights(folder).items() if n.startswith(up)}
    extra = {name.replace("model.layers.0", "mtp.layers.0"): t for name, t in packed.items()}
    found = opened(with_extra(folder, extra))
    assert len(extra) == 3
    assert found.unused.keys() == extra.keys()
    assert same_bits({n: ref.load() for n, ref in found.unused.items()}, extra)


@NAMED
async def test_the_dense_reference_counts_them_whether_they_are_kept_or_not(
    tmp_path: Path,
) -> None:
    folder = str(with_extra(saved(tmp_path / "m")))
    kept = await run(load(model=folder))
    assert kept["checkpoint"].unused.keys() == EXTRA.keys()
    assert kept["history"][-1].metrics["unused_bytes"] == EXTRA_BYTES
    left = await run(load(model=folder, keep_unused=False))
    assert left["dense"].id == kept["dense"].id
    assert left["checkpoint"].unused == {}
    assert {each.name for each in left["checkpoint"].left_out} == EXTRA.keys()
    dense, light = by_shapes(left["dense"]), by_shapes(left["checkpoint"])
    assert dense.num_bytes == light.num_bytes + EXTRA_BYTES == left["dense"].num_bytes


@NAMED
def test_a_forecast_counts_them_without_reading(tmp_path: Path) -> None:
    folder = with_extra(saved(tmp_path / "m"))
    outline = outlined_model(find_model(str(folder)), None)
    assert outline.num_bytes == opened(folder).num_bytes
    assert held_bytes(outline) == 0


@NAMED
def test_a_store_keeps_them_and_what_was_left_out(tmp_path: Path) -> None:
    found = opened(with_extra(saved(tmp_path / "m")))
    found = replace(found, left_out=(LeftOut("pytorch_model.bin", 7, "not read"),))
    store = ObjectStore(tmp_path / "store")
    again = store.load(store.save(found))
    assert again.id == found.id
    assert again.left_out == found.left_out
    assert same_bits({n: ref.load() for n, ref in again.unused.items()}, EXTRA)


@pytest.mark.parametrize(
    "part", ["weight_scale", "weight_scale_inv", "qweight", "weight_packed", "SCB", "scales"]
)
def test_codes_without_a_word_in_the_config_are_refused(part: str, tmp_path: Path) -> None:
    name = f"model.layers.1.mlp.up_proj.{part}"
    folder = with_extra(saved(tmp_path / "m"), {name: torch.ones(4)})
    with pytest.raises(ModelError, match=f"'{name}', part of a quantised weight, but config.json"):
        opened(folder)


def test_groups_are_the_shortest_names_no_parameter_begins_with() -> None:
    known = ["model.layers.0.mlp.weight", "model.layers.1.mlp.weight", "lm_head.weight"]
    names = ["model.layers.2.mlp.weight", "model.layers.2.norm", "model.layers.0.mlp.bias", "a.b"]
    assert grouped(names, known) == {"model.layers.2": 2, "model.layers.0.mlp.bias": 1, "a": 1}
    many = {f"{letter}.weight": InMemory(torch.ones(1)) for letter in "abcdef"}
    assert in_words(many, known) == "6 tensors (24 bytes): a, b, c, d and 2 more"
    assert in_words({"a": many["a.weight"]}, known) == "1 tensor (4 bytes): a"


def with_besides() -> Checkpoint:
    extra: dict[str, Any] = {"mtp.fc.weight": InMemory(torch.ones(4))}
    left_out = (LeftOut("a.bin", 3, "not read"), LeftOut("b.bin", 4, "not read"))
    return replace(tiny_checkpoint(), unused=extra, left_out=left_out)


def test_card_and_record_say_what_was_carried_and_what_was_not() -> None:
    checkpoint = with_besides()
    assert json.loads(json.dumps(contents_record(checkpoint))) == {
        "unused": {"mtp.fc.weight": 16},
        "left_out": [
            {"name": "a.bin", "bytes": 3, "why": "not read"},
            {"name": "b.bin", "bytes": 4, "why": "not read"},
        ],
    }
    text = contents_markdown(checkpoint)
    assert "Carried unchanged: 1 tensor (16 bytes): mtp. LlamaForCausalLM has no parameters" in text
    assert "- a.bin, b.bin (7 bytes): not read" in text
    figures = {"light": {"nonzero": 1.0, "parameters": 1.0}}
    card = {"name": "light", "history": (), "figures": figures, "measured_on": {}}
    assert text in model_card(checkpoint=checkpoint, weight_format="dense", **card)
    assert "besides" not in model_card(checkpoint=tiny_checkpoint(), weight_format="dense", **card)


def test_a_gguf_file_has_no_place_for_them() -> None:
    checkpoint = with_besides()
    files = {**checkpoint.files, "LICENSE": b"x", "processor_config.json": b"{}"}
    found = as_in_gguf(replace(checkpoint, files=files))
    assert found.unused == {}
    lost = {each.name for each in found.left_out}
    assert lost >= {"mtp.fc.weight", "processor_config.json", "a.bin"}
    assert not lost & {"LICENSE", "tokenizer.json", "tokenizer_config.json"}
    assert without_unused(checkpoint, "why").left_out[-1] == LeftOut("mtp.fc.weight", 16, "why")


@pytest.mark.parametrize("prefix", ["module", "base_model.model"])
def test_a_prefix_before_every_name_is_refused(prefix: str, tmp_path: Path) -> None:
    path = saved(tmp_path) / "model.safetensors"
    tensors = {f"{prefix}.{name}": tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelError, match=f"begin with '{prefix}\\.', as of a model inside"):
        opened(tmp_path)


def test_layers_that_peft_has_wrapped_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m")
    path = folder / "model.safetensors"
    name = "model.layers.0.self_attn.q_proj.weight"
    weights = load_file(path)
    weights[name.replace(".weight", ".base_layer.weight")] = weights.pop(name)
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"base_layer\.weight', .* not merged; merge it with PEFT"):
        opened(folder)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_a_model_in_memory_with_adapters_is_refused() -> None:
    model = get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ModelError, match=r"merge it with PEFT first: model\.merge_and_unload"):
        as_checkpoint(model)


def test_a_tensor_that_is_in_no_module_is_refused_before_a_pass() -> None:
    checkpoint = tiny_checkpoint()
    more = replace(checkpoint, refs={**checkpoint.refs, "head.weight": InMemory(torch.ones(1))})
    with pytest.raises(CheckpointError, match=r"'head\.weight', for which LlamaForCausalLM has no"):
        Skeleton(more)
