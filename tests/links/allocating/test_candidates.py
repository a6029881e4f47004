"""Candidates fit the budget to the byte, and the knapsack's are estimated no worse than uniform."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny import tiny_checkpoint
from tiny_choices import packed_choices

from birdbone.checkpoints import Checkpoint
from birdbone.errors import SettingError
from birdbone.links.allocating.candidates import (
    allocate_candidates,
    ladder_candidates,
    outlined_candidate,
)
from birdbone.links.allocating.runtimes import Limits
from birdbone.models.planning.stored_bytes import stored_bytes


@pytest.mark.parametrize("arch", ["llama", "llama_tied", "qwen3", "gemma3", "mixtral"])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_candidates_fit(arch: str, share: float) -> None:
    """The budget lies between the smallest size and the model's own."""
    choices = packed_choices(arch)
    checkpoint: Checkpoint = choices.checkpoint
    with pytest.raises(SettingError, match="is below the smallest size") as refused:
        allocate_candidates(choices, 1, variants=3, uniform=2)
    smallest = int(str(refused.value).split(" bytes with")[0].split()[-1].replace(",", ""))
    budget = smallest + int(share * (stored_bytes(checkpoint) - smallest))
    found = allocate_candidates(choices, budget, variants=3, uniform=2)
    assert found.exact
    for each in found.candidates:
        assert each.num_bytes == stored_bytes(outlined_candidate(checkpoint, each)) <= budget
    allocated = [each for each in found.candidates if not each.uniform]
    uniform = [each for each in found.candidates if each.uniform]
    assert allocated[0].name == "allocated"
    assert found.current is allocated[0]
    assert all(allocated[0].loss <= each.loss for each in found.candidates)
    assert [each.loss for each in uniform] == sorted(each.loss for each in uniform)


def test_smallest_is_possible() -> None:
    """The size that the refusal names is accepted, and one byte less is not."""
    with pytest.raises(SettingError) as refused:
        allocate_candidates(packed_choices(), 1, variants=1, uniform=0)
    assert "with 2 bits and groups of 32" in str(refused.value)
    assert "and an 8-bit embedding" in str(refused.value)
    smallest = int(str(refused.value).split(" bytes with")[0].split()[-1].replace(",", ""))
    found = allocate_candidates(packed_choices(), smallest, variants=1, uniform=1)
    assert {each.num_bytes for each in found.candidates} == {smallest}
    with pytest.raises(SettingError, match="below the smallest size"):
        allocate_candidates(packed_choices(), smallest - 1, variants=1, uniform=0)


def test_nearly_all_of_a_budget_is_used() -> None:
    found = allocate_candidates(packed_choices(), 42_000, variants=1, uniform=0)
    assert found.current.num_bytes > 41_500


def test_some_linear_is_quantised() -> None:
    """Rounding the embedding alone would be the least loss here, and quantize refuses it."""
    choices = packed_choices()
    embeddings = choices.sensitivity.embeddings
    assert embeddings is not None
    free = replace(choices.sensitivity, embeddings=replace(embeddings, loss=0.0))
    choices = replace(choices, sensitivity=free)
    budget = stored_bytes(choices.checkpoint) - 1
    found = allocate_candidates(choices, budget, variants=3, uniform=1)
    assert [bool(each.grids) for each in found.candidates] == [True]


def test_embedding_where_it_is_cheap() -> None:
    """The embedding stays as it is only if the budget has nothing better to do."""
    small = allocate_candidates(packed_choices(), 40_000, variants=1, uniform=0)
    assert small.current.embedding_bits == 8
    original = stored_bytes(tiny_checkpoint("llama_tied"))
    large = allocate_candidates(packed_choices(), original - 100, variants=1, uniform=0)
    assert large.current.embedding_bits is None
    fixed = allocate_candidates(packed_choices(embedding_bits=None), 50_000, variants=1, uniform=1)
    assert {each.embedding_bits for each in fixed.candidates} == {None}


def test_allowed_bits_and_groups() -> None:
    choices = packed_choices(bits=(3, 8), group_sizes=(32, None), limits=Limits(("transformers",)))
    found = allocate_candidates(choices, 40_000, variants=3, uniform=2)
    grids = {grid for each in found.candidates for grid in each.grids.values()}
    assert {grid.bits for grid in grids} <= {3, 8}
    assert {grid.group_size for grid in grids} <= {32, None}


def test_at_least_three_bits() -> None:
    found = allocate_candidates(packed_choices(), 28_500, variants=2, uniform=0)
    plain, wide = found.candidates
    assert min(grid.bits for grid in plain.grids.values()) == 2
    assert min(grid.bits for grid in wide.grids.values()) == 3


def test_ladder() -> None:
    """Sizes from the smallest to below the original, each larger and estimated to cost less."""
    original = stored_bytes(tiny_checkpoint("llama_tied"))
    found = ladder_candidates(packed_choices(), original, steps=8).candidates
    sizes = [each.num_bytes for each in found]
    losses = [each.loss for each in found]
    assert len(found) == 8
    assert sizes == sorted(sizes)
    assert losses == sorted(losses, reverse=True)
    assert sizes[-1] < original
    assert len({each.name for each in found}) == 8


def test_vllm_is_uniform() -> None:
    choices = packed_choices("llama", limits=Limits(("vllm",)))
    found = allocate_candidates(choices, 100_000, variants=3, uniform=3)
    assert [(each.name, each.uniform) for each in found.candidates] == [
        ("4 bits, groups of 32", True)
    ]
