"""Which config keys a size is written under, for configs that name it differently."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import picture_config, random_model, tiny_checkpoint, tiny_configs

from birdbone.checkpoints import Checkpoint
from birdbone.models.units.config_keys import (
    UnitKind,
    counts,
    fewest,
    layer_settings,
    settings,
    with_settings,
)


@pytest.mark.parametrize(
    ("arch", "kind", "found"),
    [
        ("llama", "neurons", [("intermediate_size", 64)]),
        ("gpt2", "neurons", [("n_inner", 4 * 32)]),  # absent, so four times the width
        ("opt", "neurons", [("ffn_dim", 64)]),
        ("llama", "groups", [("num_key_value_heads", 2)]),
        ("gpt_neox", "groups", [("num_key_value_heads", 4)]),  # as many as heads
        ("llama", "experts", []),
    ],
)
def test_keys_that_may_set_a_count(arch: str, kind: UnitKind, found: list[Any]) -> None:
    assert list(counts(kind, tiny_configs[arch]())) == found


def test_experts_may_be_counted_under_two_names() -> None:
    found = list(counts("experts", tiny_configs["mixtral"]()))
    assert ("num_local_experts", 4) in found
    assert {count for _, count in found} == {4}


def test_a_group_keeps_its_queries_and_their_width() -> None:
    config = tiny_configs["llama"]()  # 4 heads of width 8 in 2 groups
    assert settings("groups", "num_key_value_heads", config, 1) == {
        "num_key_value_heads": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
    }


def test_the_name_in_the_file_is_written() -> None:
    """GPT-2's config file calls the number of layers n_layer."""
    assert layer_settings(tiny_configs["gpt2"](), [0, 2]) == {"n_layer": 2}
    assert settings("neurons", "n_inner", tiny_configs["gpt2"](), 40) == {"n_inner": 40}


def test_lists_with_an_entry_per_layer_are_cut() -> None:
    found = layer_settings(tiny_configs["gemma3"](), [1, 2])
    assert found["num_hidden_layers"] == 2
    assert found["layer_types"] == ["full_attention", "sliding_attention"]


def test_a_token_keeps_its_number_of_experts() -> None:
    config = tiny_configs["mixtral"]()
    assert [fewest(kind, config) for kind in ("experts", "neurons", "groups")] == [2, 1, 1]
    assert fewest("experts", tiny_configs["llama"]()) == 1


def test_changes_go_to_the_part_that_is_the_text_model() -> None:
    flat = tiny_checkpoint()
    whole = tiny_configs["llama"]()
    assert with_settings(flat, whole, {"intermediate_size": 48}) == {"intermediate_size": 48}
    nested = random_model(picture_config()).config
    checkpoint = Checkpoint(nested.to_dict(), flat.refs)
    found = with_settings(checkpoint, nested, {"intermediate_size": 48})
    assert found.keys() == {"text_config"}
    wanted = {**checkpoint.config["text_config"], "intermediate_size": 48}
    assert found["text_config"] == wanted
