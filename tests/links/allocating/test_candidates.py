"""Candidates fit the budget to the byte, and the knapsack's are estimated no worse than uniform."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from tiny import tiny_checkpoint, tiny_windows

from birdbone.checkpoints import Checkpoint
from birdbone.contexts.sensitivity import Sensitivity
from birdbone.errors import SettingError
from birdbone.links.allocating.candidates import (
    Choices,
    allocate_candidates,
    ladder_candidates,
    outlined_candidate,
)
from birdbone.links.allocating.forecast import outlined_sensitivity
from birdbone.links.allocating.runtimes import Limits
from birdbone.models.planning.stored_bytes import stored_bytes
from birdbone.solvers.grid import Grid

_GRIDS = [Grid(bits, size) for bits in (2, 3, 4, 6, 8) for size in (8, 32, 64, None)]


@cache
def _sensitivity(arch: str) -> Sensitivity:
    """True sizes; losses that differ between linears."""
    found = outlined_sensitivity(tiny_checkpoint(arch), tiny_windows(), _GRIDS)
    linears = {}
    for place, (name, each) in enumerate(found.linears.items()):
        factor = 1.0 + 10 * (place * 7 % 5)
        grids = tuple(replace(grid, loss=grid.loss * factor) for grid in each.grids)
        linears[name] = replace(each, grids=grids)
    embeddings = found.embeddings and replace(found.embeddings, loss=0.5)
    return replace(found, linears=linears, embeddings=embeddings)


def _choices(arch: str = "llama_tied", **settings: Any) -> Choices:
    given = {
        "limits": Limits(("transformers",)),
        "bits": None,
        "group_sizes": None,
        "embedding_bits": "auto",
        **settings,
    }
    return Choices(tiny_checkpoint(arch), _sensitivity(arch), **given)


@pytest.mark.parametrize("arch", ["llama", "llama_tied", "qwen3", "gemma3", "mixtral"])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_candidates_fit(arch: str, share: float) -> None:
    """The budget lies between the smallest size and the model's own."""
    choices = _choices(arch)
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
        allocate_candidates(_choices(), 1, variants=1, uniform=0)
    assert "with 2 bits and groups of 32" in str(refused.value)
    assert "and an 8-bit embedding" in str(refused.value)
    smallest = int(str(refused.value).split(" bytes with")[0].split()[-1].replace(",", ""))
    found = allocate_candidates(_choices(), smallest, variants=1, uniform=1)
    assert {each.num_bytes for each in found.candidates} == {smallest}
    with pytest.raises(SettingError, match="below the smallest size"):
        allocate_candidates(_choices(), smallest - 1, variants=1, uniform=0)


def test_nearly_all_of_a_budget_is_used() -> None:
    found = allocate_candidates(_choices(), 42_000, variants=1, uniform=0)
    assert found.current.num_bytes > 41_500


def test_embedding_where_it_is_cheap() -> None:
    """The embedding stays as it is only if the budget has nothing better to do."""
    small = allocate_candidates(_choices(), 40_000, variants=1, uniform=0)
    assert small.current.embedding_bits == 8
    original = stored_bytes(tiny_checkpoint("llama_tied"))
    large = allocate_candidates(_choices(), original - 100, variants=1, uniform=0)
    assert large.current.embedding_bits is None
    fixed = allocate_candidates(_choices(embedding_bits=None), 50_000, variants=1, uniform=1)
    assert {each.embedding_bits for each in fixed.candidates} == {None}


def test_allowed_bits_and_groups() -> None:
    choices = _choices(bits=(3, 8), group_sizes=(32, None), limits=Limits(("transformers",)))
    found = allocate_candidates(choices, 40_000, variants=3, uniform=2)
    grids = {grid for each in found.candidates for grid in each.grids.values()}
    assert {grid.bits for grid in grids} <= {3, 8}
    assert {grid.group_size for grid in grids} <= {32, None}


def test_at_least_three_bits() -> None:
    found = allocate_candidates(_choices(), 28_500, variants=2, uniform=0)
    plain, wide = found.candidates
    assert min(grid.bits for grid in plain.grids.values()) == 2
    assert min(grid.bits for grid in wide.grids.values()) == 3


def test_ladder() -> None:
    """Sizes from the smallest to below the original, each larger and estimated to cost less."""
    original = stored_bytes(tiny_checkpoint("llama_tied"))
    found = ladder_candidates(_choices(), original, steps=8).candidates
    sizes = [each.num_bytes for each in found]
    losses = [each.loss for each in found]
    assert len(found) == 8
    assert sizes == sorted(sizes)
    assert losses == sorted(losses, reverse=True)
    assert sizes[-1] < original
    assert len({each.name for each in found}) == 8


def test_vllm_is_uniform() -> None:
    choices = _choices("llama", limits=Limits(("vllm",)))
    found = allocate_candidates(choices, 100_000, variants=3, uniform=3)
    assert [(each.name, each.uniform) for each in found.candidates] == [
        ("4 bits, groups of 32", True)
    ]


def test_runtime_without_grid() -> None:
    choices = _choices("llama", limits=Limits(("vllm",)), bits=(8,))
    with pytest.raises(SettingError, match=r"q_proj' has no grid left that vllm was seen to load"):
        allocate_candidates(choices, 100_000, variants=3, uniform=3)


def test_embedding_that_cannot_be_rounded() -> None:
    choices = _choices("gemma3", embedding_bits=8)
    with pytest.raises(SettingError, match="the embedding of 'tiny/gemma3' cannot be rounded"):
        allocate_candidates(choices, 60_000, variants=1, uniform=0)
    choices = _choices("llama", limits=Limits(("vllm",)), embedding_bits=8)
    with pytest.raises(SettingError, match="vllm was not seen to load an embedding of 8 bits"):
        allocate_candidates(choices, 100_000, variants=1, uniform=0)


def test_largest_groups_that_divide() -> None:
    """Groups of 64 do not divide a width of 32: such linears get the next smaller size."""
    found = allocate_candidates(_choices(), 45_000, variants=1, uniform=30)
    mixed = [each for each in found.candidates if "groups of 64 or 32" in each.name]
    assert mixed
    sizes = {
        _sensitivity("llama_tied").linears[name].shape[1]: grid.group_size
        for name, grid in mixed[0].grids.items()
    }
    assert sizes == {32: 32, 64: 64}
