"""Which rows belong to which unit, found by gradients, against layouts known from their papers."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_checkpoint, tiny_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, Olmo2Config

from birdbone.errors import ModelError
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.reading.opening import as_checkpoint
from birdbone.models.units.layout import Units, measure_units
from birdbone.models.units.narrowing import UnitKind, narrowing, units_of


def measured(arch: str, kind: UnitKind) -> Units:
    """The units of a tiny model."""
    checkpoint = tiny_checkpoint(arch)
    change = narrowing(checkpoint, kind, units_of(checkpoint, kind) // 2)
    return measure_units(Skeleton(checkpoint), change)


NUMBERS = torch.arange(64)
LAYOUTS: dict[tuple[str, UnitKind, str], Tensor] = {
    ("llama", "neurons", "mlp.gate_proj.weight"): NUMBERS,
    ("opt", "neurons", "fc1.bias"): NUMBERS,
    ("gpt2", "neurons", "mlp.c_fc.weight"): torch.arange(128),
    ("phi3", "neurons", "mlp.gate_up_proj.weight"): NUMBERS.repeat(2),
    ("mixtral", "neurons", "mlp.experts.gate_up_proj"): NUMBERS.repeat(2),
    ("gpt_oss", "neurons", "mlp.experts.gate_up_proj"): NUMBERS.repeat_interleave(2),
    ("gpt_oss", "neurons", "mlp.experts.gate_up_proj_bias"): NUMBERS.repeat_interleave(2),
    ("gpt_oss", "groups", "self_attn.sinks"): torch.tensor([0, 0, 1, 1]),
    ("llama", "groups", "self_attn.q_proj.weight"): torch.tensor([0, 1]).repeat_interleave(16),
    ("llama", "groups", "self_attn.v_proj.weight"): torch.tensor([0, 1]).repeat_interleave(8),
    ("phi3", "groups", "self_attn.qkv_proj.weight"): torch.cat(
        [torch.tensor([0, 1]).repeat_interleave(size) for size in (16, 8, 8)]
    ),
}


@pytest.mark.parametrize(("arch", "kind", "tensor"), LAYOUTS)
def test_fused_and_interleaved_rows_are_found_as_they_are(
    arch: str, kind: UnitKind, tensor: str
) -> None:
    found = measured(arch, kind).members[tensor]
    assert torch.equal(found, LAYOUTS[arch, kind, tensor])


@pytest.mark.parametrize(
    ("arch", "plainly"),
    [("llama", True), ("gpt2", True), ("gpt_neox", True), ("gemma3", False), ("mixtral", False)],
)
def test_a_norm_or_router_behind_the_output_is_noticed(arch: str, plainly: bool) -> None:
    assert measured(arch, "neurons").adds_plainly is plainly


def test_a_norm_over_all_heads_couples_them() -> None:
    config = Olmo2Config(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    model = AutoModelForCausalLM.from_config(config)
    checkpoint = as_checkpoint(model, tiny_tokenizer(), source="tiny/olmo2")
    change = narrowing(checkpoint, "groups", 1)
    with pytest.raises(ModelError, match="couples the groups of a block"):
        measure_units(Skeleton(checkpoint), change)


def test_indices_of_the_units_that_stay_are_in_the_order_of_the_tensor() -> None:
    checkpoint = tiny_checkpoint("phi3")
    change = narrowing(checkpoint, "neurons", 2)
    units = measure_units(Skeleton(checkpoint), change)
    (fused,) = (part for part in change.parts if "gate_up" in part.tensor)
    assert units.kept(fused, torch.tensor([3, 10])).tolist() == [3, 10, 67, 74]
