"""Uniform candidates: the cheapest that fit, and grids where one does not divide a width."""

from __future__ import annotations

import pytest
from tiny_choices import gguf_choices, packed_choices

from birdbone.links.allocating.runtimes import Limits
from birdbone.links.allocating.uniform import uniform_candidates

LARGE = 10**9


def test_the_cheapest_that_fit_come_first() -> None:
    choices = packed_choices(bits=(2, 4), group_sizes=(8, 32, None))
    every = uniform_candidates(choices, LARGE, 100)
    losses = [each.loss for each in every]
    assert losses == sorted(losses)
    assert uniform_candidates(choices, LARGE, 3) == every[:3]
    budget = sorted(each.num_bytes for each in every)[len(every) // 2]
    fitting = [each for each in every if each.num_bytes <= budget]
    assert 2 < len(fitting) < len(every)
    assert uniform_candidates(choices, budget, 100) == fitting
    assert uniform_candidates(choices, min(each.num_bytes for each in every) - 1, 100) == []


def test_every_number_of_bits_with_every_embedding() -> None:
    """No two store the model alike."""
    found = uniform_candidates(packed_choices(bits=(3, 8), group_sizes=(32, None)), LARGE, 100)
    rows = {
        f"{bits} bits, {size}" for bits in (3, 8) for size in ("groups of 32", "one scale per row")
    }
    assert {each.name for each in found} == rows | {f"{row}, embedding 8 bits" for row in rows}
    assert len(found) == 8
    assert all(each.uniform for each in found)
    assert all(len({grid.bits for grid in each.grids.values()}) == 1 for each in found)


def test_loss_is_the_sum_over_linears_and_embedding() -> None:
    choices = packed_choices(bits=(4,), group_sizes=(32,))
    (plain,) = (e for e in uniform_candidates(choices, LARGE, 9) if e.embedding_bits is None)
    (light,) = (e for e in uniform_candidates(choices, LARGE, 9) if e.embedding_bits == 8)
    linears = choices.sensitivity.linears.values()
    losses = [g.loss for each in linears for g in each.grids if (g.bits, g.group_size) == (4, 32)]
    assert plain.loss == pytest.approx(sum(losses))
    assert light.loss == pytest.approx(plain.loss + 0.5)


def test_largest_groups_that_divide() -> None:
    """Groups of 64 do not divide a width of 32: such linears get the next smaller size."""
    choices = packed_choices(bits=(4,))
    found = {each.name: each for each in uniform_candidates(choices, LARGE, 100)}
    sizes = {
        choices.sensitivity.linears[name].shape[1]: grid.group_size
        for name, grid in found["4 bits, groups of 64 or 32"].grids.items()
    }
    assert sizes == {32: 32, 64: 64}


def test_no_mixed_groups_where_they_do_not_load() -> None:
    vllm = packed_choices("llama", limits=Limits(("vllm",)))
    assert [each.name for each in uniform_candidates(vllm, LARGE, 9)] == ["4 bits, groups of 32"]
    only = packed_choices("llama", limits=Limits(("vllm",)), group_sizes=(64,))
    assert uniform_candidates(only, LARGE, 9) == []


def test_type_falls_back_as_files_do() -> None:
    """A type whose super-blocks do not divide a width gives way to the one that files use."""
    by_name = {each.name: each for each in uniform_candidates(gguf_choices(), LARGE, 100)}
    q4_k = by_name["q4_k, embedding q8_0"].grids
    assert q4_k["model.layers.0.mlp.down_proj"].ggml_type == "q4_k"
    assert q4_k["model.layers.0.mlp.up_proj"].ggml_type == "q5_0"
    assert q4_k["model.embed_tokens"].ggml_type == "q8_0"


def test_type_falls_back_to_what_is_allowed() -> None:
    """Without q5_0 it is the smallest larger type among those allowed."""
    found = uniform_candidates(gguf_choices(types=("q4_k", "q6_k", "q8_0")), LARGE, 100)
    small = next(each for each in found if each.name.startswith("q4_k"))
    widths = {"down": "q4_k", "up": "q8_0", "embed": "q8_0"}
    for part, kind in widths.items():
        types = {grid.ggml_type for name, grid in small.grids.items() if part in name}
        assert types == {kind}
    assert [each.name.split(",")[0] for each in found] == ["q8_0", "q6_k", "q4_k"]


def test_no_type_is_replaced_by_a_smaller_one() -> None:
    """Of q6_k, 32 columns have q8_0; q4_0 alone is allowed there, so that nothing is left."""
    found = uniform_candidates(gguf_choices(types=("q6_k", "q4_0")), LARGE, 100)
    assert [each.name for each in found] == ["q4_0, embedding q4_0"]
