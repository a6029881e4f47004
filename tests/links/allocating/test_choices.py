"""What may be chosen, and the size of a choice, which the candidates' tests hold against files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tiny_choices import gguf_choices, packed_choices

from birdbone.checkpoints import GgmlBlocks, Quantized
from birdbone.contexts.allocation import Candidate, LinearGrid
from birdbone.errors import SettingError
from birdbone.links.allocating.choices import (
    embedding_loss,
    formats_of,
    is_known,
    outlined_candidate,
    priced,
    smallest_candidate,
)
from birdbone.links.allocating.runtimes import Limits

UP = "model.layers.0.mlp.up_proj"  # 32 columns


def candidate(grids: dict[str, LinearGrid], embedding_bits: int | None = None) -> Candidate:
    return Candidate("any", False, grids, embedding_bits, 0, 0.0)


@pytest.mark.parametrize(
    ("settings", "pairs"),
    [
        ({"bits": (3,)}, {(3, 8), (3, 32), (3, None)}),
        ({"bits": (2, 8), "group_sizes": (32,)}, {(2, 32), (8, 32)}),
        ({"bits": (4,), "limits": Limits(("llama.cpp",))}, {(4, 32), (4, None)}),
        ({"limits": Limits(("vllm", "llama.cpp"))}, {(4, 32)}),
    ],
)
def test_grids_are_those_allowed_estimated_and_loaded(
    settings: dict[str, Any], pairs: set[tuple[int, int | None]]
) -> None:
    choices = packed_choices(**settings)
    found = choices.grids(choices.sensitivity.linears[UP])
    assert {(each.bits, each.group_size) for each in found} == pairs


def test_types_limit_a_gguf_file() -> None:
    """Of the types allowed, 32 columns are a multiple of the blocks of one."""
    choices = gguf_choices(types=("q4_k", "q8_0"))
    assert [g.ggml_type for g in choices.grids(choices.sensitivity.linears[UP])] == ["q8_0"]


def test_linears_of_one_kind_are_listed_together() -> None:
    choices = packed_choices()
    alike = {n: replace(e, kind="up") for n, e in choices.sensitivity.linears.items() if "up" in n}
    linears = {**choices.sensitivity.linears, **alike}
    found = replace(choices, sensitivity=replace(choices.sensitivity, linears=linears)).kinds
    assert found["up"] == [f"model.layers.{block}.mlp.up_proj" for block in range(3)]
    assert len(found) == len(linears) - 2


def test_embedding_is_rounded_only_where_that_loads() -> None:
    assert packed_choices().embeddings == (8, None)
    assert packed_choices(embedding_bits=8).embeddings == (8,)
    assert packed_choices(limits=Limits(("vllm",))).embeddings == (None,)
    assert packed_choices("gemma3").embeddings == (None,)
    with pytest.raises(SettingError, match="the embedding of 'tiny/gemma3' cannot be rounded"):
        _ = packed_choices("gemma3", embedding_bits=8).embeddings
    with pytest.raises(SettingError, match="vllm was not seen to load an embedding of 8 bits"):
        _ = packed_choices(limits=Limits(("vllm",)), embedding_bits=8).embeddings


def test_linear_without_a_grid_is_named() -> None:
    packed = packed_choices("llama", limits=Limits(("vllm",)), bits=(8,))
    message = r"q_proj' has no grid left that vllm was seen to load .*\(2, 0\), \(2, 8\)"
    with pytest.raises(SettingError, match=message):
        packed.require_any()
    message = r"q_proj' has 32 columns, and no ggml type is left .*q8_0"
    with pytest.raises(SettingError, match=message):
        gguf_choices(types=("q4_k",)).require_any()
    packed_choices().require_any()


def test_outline_has_the_chosen_grids_and_else_the_original() -> None:
    checkpoint = packed_choices().checkpoint
    found = outlined_candidate(checkpoint, candidate({UP: LinearGrid(3, 8)}, embedding_bits=8))
    up, table = found.refs[f"{UP}.weight"], found.refs["model.embed_tokens.weight"]
    assert isinstance(up, Quantized)
    assert (up.bits, up.shape, up.scales.shape) == (3, (64, 32), (64, 4))
    assert isinstance(table, Quantized)
    assert (table.bits, table.scales.shape) == (8, (128, 1))
    changed = {name for name, ref in found.refs.items() if ref is not checkpoint.refs[name]}
    assert changed == {f"{UP}.weight", "model.embed_tokens.weight"}


def test_outline_of_a_transposed_weight_has_blocks_along_its_inputs() -> None:
    checkpoint, name = gguf_choices("gpt2").checkpoint, "transformer.h.0.mlp.c_proj"
    found = outlined_candidate(checkpoint, candidate({name: LinearGrid(4, None, "q4_k")}))
    ref = found.refs[f"{name}.weight"]
    assert isinstance(ref, GgmlBlocks)
    assert ref.transposed
    assert ref.shape == checkpoint.refs[f"{name}.weight"].shape == (256, 32)
    assert ref.num_bytes == 32 * 144  # a super-block of 256 columns takes 144 bytes


@pytest.mark.parametrize("made", [packed_choices, gguf_choices])
def test_nothing_is_smaller_than_the_smallest(made: Any) -> None:
    """Another grid for the largest linear never saves a byte."""
    choices = made()
    smallest = smallest_candidate(choices)
    assert smallest == priced(choices, smallest)
    name = max(smallest.grids, key=lambda each: choices.sensitivity.linears[each].dense_bytes)
    for each in choices.grids(choices.sensitivity.linears[name]):
        grid = LinearGrid(each.bits, each.group_size, each.ggml_type)
        other = replace(smallest, grids={**smallest.grids, name: grid})
        assert priced(choices, other).num_bytes >= smallest.num_bytes
    assert smallest.embedding_bits == (None if choices.is_gguf else 8)


def test_embedding_costs_only_where_it_is_rounded() -> None:
    assert embedding_loss(packed_choices(), 8) == 0.5
    assert embedding_loss(packed_choices(), None) == 0.0
    assert embedding_loss(packed_choices("gemma3"), 8) == 0.0


def test_formats_in_words() -> None:
    packed = {"a": LinearGrid(3, None), "b": LinearGrid(2, 64), "c": LinearGrid(2, 64)}
    words = "2 bits and groups of 64, 3 bits and one scale per row"
    assert formats_of(candidate(packed)) == words
    assert formats_of(candidate(packed, 8)) == f"{words} and an 8-bit embedding"
    types = {name: LinearGrid(4, 32, kind) for name, kind in (("a", "q4_0"), ("b", "iq4_nl"))}
    assert formats_of(candidate(types)) == "iq4_nl, q4_0"


def test_a_candidate_is_known_by_how_it_stores() -> None:
    one = candidate({UP: LinearGrid(4, 32)}, 8)
    assert is_known(one, [replace(one, name="other", uniform=True, loss=1.0, num_bytes=5)])
    assert not is_known(one, [replace(one, embedding_bits=None)])
    assert not is_known(one, [replace(one, grids={UP: LinearGrid(4, 64)})])
