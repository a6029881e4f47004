"""Which tensors a config's size shows in, asked of transformers itself."""

from __future__ import annotations

import pytest
from tiny import tiny_checkpoint

from birdbone.errors import ModelError
from birdbone.models.units.narrowing import narrowing, resizing, units_of

OUTPUTS = {
    "llama": "mlp.down_proj.weight",
    "gemma3": "mlp.down_proj.weight",
    "gpt2": "mlp.c_proj.weight",
    "opt": "fc2.weight",
    "gpt_neox": "mlp.dense_4h_to_h.weight",
    "phi3": "mlp.down_proj.weight",
    "mixtral": "mlp.experts.down_proj",
}


@pytest.mark.parametrize("arch", OUTPUTS)
def test_the_output_is_the_linear_that_neurons_flow_into(arch: str) -> None:
    checkpoint = tiny_checkpoint(arch)
    before = units_of(checkpoint, "neurons")
    found = narrowing(checkpoint, "neurons", before // 4)
    assert found.output.tensor == OUTPUTS[arch]
    assert (found.before, found.after, found.output.size) == (before, before // 4, before)


def test_biases_and_transposed_weights_are_parts_too() -> None:
    found = narrowing(tiny_checkpoint("gpt2"), "neurons", 32)
    assert {(part.tensor, part.axis) for part in found.parts} == {
        ("mlp.c_fc.weight", 1),
        ("mlp.c_fc.bias", 0),
        ("mlp.c_proj.weight", 0),
    }
    assert found.config == {"n_inner": 32}


def test_a_group_is_a_key_value_head_with_its_query_heads() -> None:
    found = narrowing(tiny_checkpoint("llama"), "groups", 1)
    sizes = {part.tensor.split(".")[1]: part.size for part in found.parts}
    assert sizes == {"q_proj": 32, "k_proj": 16, "v_proj": 16, "o_proj": 32}
    assert found.config == {"num_key_value_heads": 1, "num_attention_heads": 2, "head_dim": 8}


def test_an_expert_is_a_row_of_the_router_too() -> None:
    found = resizing(tiny_checkpoint("mixtral"), "experts", 2)
    assert {part.tensor for part in found.parts} == {
        "mlp.experts.gate_up_proj",
        "mlp.experts.down_proj",
        "mlp.gate.weight",
    }


@pytest.mark.parametrize("arch", ["gpt2", "opt", "gpt_neox"])
def test_heads_of_implied_width_are_refused_with_the_reason(arch: str) -> None:
    with pytest.raises(ModelError, match="derives the width of a head from hidden_size"):
        units_of(tiny_checkpoint(arch), "groups")


def test_the_present_size_is_no_change() -> None:
    with pytest.raises(ModelError, match="every block already has 64 neurons"):
        narrowing(tiny_checkpoint("llama"), "neurons", 64)


def test_transformers_own_refusal_is_passed_on() -> None:
    checkpoint = tiny_checkpoint(num_attention_heads=8, num_key_value_heads=4, head_dim=4)
    with pytest.raises(ModelError, match=r"hidden size .* not a multiple"):
        narrowing(checkpoint, "groups", 3)
