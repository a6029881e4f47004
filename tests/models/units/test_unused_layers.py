"""Tensors without a parameter leave with their layer, or take its new number."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import tiny_checkpoint

from birdbone.checkpoints import InMemory, LeftOut
from birdbone.models.units.unused_layers import renumber_unused


def test_they_follow_the_layers_of_the_text_model() -> None:
    names = [
        "mtp.layers.1.fc.weight",
        "model.layers.0.rotary_emb.inv_freq",
        "model.layers.1.rotary_emb.inv_freq",
        "model.layers.2.rotary_emb.inv_freq",
        "model.layers.3.mlp.up_proj.weight",
        "model.layers.4.mlp.up_proj.weight",
    ]
    unused = {name: InMemory(torch.tensor([float(place)])) for place, name in enumerate(names)}
    found = renumber_unused(replace(tiny_checkpoint(), unused=unused), [0, 2])
    assert {name: float(ref.load()) for name, ref in found.unused.items()} == {
        "mtp.layers.1.fc.weight": 0.0,
        "model.layers.0.rotary_emb.inv_freq": 1.0,
        "model.layers.1.rotary_emb.inv_freq": 3.0,
        "model.layers.2.mlp.up_proj.weight": 4.0,
        "model.layers.3.mlp.up_proj.weight": 5.0,
    }
    assert found.left_out == (LeftOut(names[2], 4, "its layer was removed"),)


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_names_without_the_prefix_of_the_model_count_too(prefix: str) -> None:
    unused = {f"{prefix}h.{place}.attn.bias": InMemory(torch.ones(1)) for place in range(3)}
    found = renumber_unused(replace(tiny_checkpoint("gpt2"), unused=unused), [1])
    assert list(found.unused) == [f"{prefix}h.0.attn.bias"]
    assert found.unused[f"{prefix}h.0.attn.bias"] is unused[f"{prefix}h.1.attn.bias"]
