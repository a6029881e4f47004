"""What sensitivity and select are expected to cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tiny import tiny_checkpoint
from tiny_contexts import calibrated

from birdbone.contexts.allocation import Allocation, Candidate, LinearGrid
from birdbone.contexts.forecast import Forecast
from birdbone.contexts.sensitivity import Sensitivity
from birdbone.engine import Chain
from birdbone.links import quantize, validate
from birdbone.links.allocating.forecast import (
    outlined_sensitivity,
    select_forecast,
    sensitivity_forecast,
)
from birdbone.models.blocks.linears import all_linears
from birdbone.solvers.grid import Grid

GRIDS = [Grid(bits, size) for bits in (2, 4, 8) for size in (16, None)]
BODY = Chain(quantize(method="rtn"), validate())


@pytest.fixture(scope="module")
def ctx() -> Any:
    return calibrated(tiny_checkpoint())


def outline(ctx: Any, arch: str = "llama") -> Sensitivity:
    return outlined_sensitivity(tiny_checkpoint(arch), ctx["calibration"], GRIDS)


def told(ctx: Any, count: int, *, max_rise: float | None = None) -> Forecast:
    grids = {each.name: LinearGrid(4, 16) for each in all_linears(ctx["checkpoint"])}
    candidates = tuple(
        Candidate(str(place), True, grids, None, 100 + place, 0.0) for place in range(count)
    )
    allocation = Allocation(1000, candidates, max_rise=max_rise)
    return select_forecast({**ctx, "allocation": allocation}, BODY)


def test_losses_fall_with_bits(ctx: Any) -> None:
    """Four times less for each bit, and less in smaller groups: what allocate is tried with."""
    for each in outline(ctx).linears.values():
        losses = {(grid.bits, grid.group_size): grid.loss for grid in each.grids}
        assert losses[2, 16] == pytest.approx(16 * losses[4, 16])
        assert losses[4, 16] < losses[4, None]


def test_grids_that_do_not_divide_are_left_out(ctx: Any) -> None:
    found = outlined_sensitivity(tiny_checkpoint(), ctx["calibration"], [Grid(4, 64), Grid(4, 16)])
    widths = {name: {g.group_size for g in each.grids} for name, each in found.linears.items()}
    assert widths["model.layers.0.mlp.down_proj"] == {16, 64}
    assert widths["model.layers.0.mlp.up_proj"] == {16}


def test_experts_of_a_kind(ctx: Any) -> None:
    kinds = {each.kind for each in outline(ctx, "mixtral").linears.values()}
    assert kinds == {each.name for each in all_linears(tiny_checkpoint("mixtral")) if each.plain}


def test_embeddings_that_cannot_be_rounded(ctx: Any) -> None:
    assert outline(ctx, "gemma3").embeddings is None
    tied = outline(ctx, "llama_tied").embeddings
    assert tied is not None
    assert tied.names == ("model.embed_tokens.weight",)
    assert tied.num_bytes < tied.dense_bytes


def test_work_of_sensitivity(ctx: Any) -> None:
    """Three passes of each gradient window, and one of all windows."""
    few, all_of_them, more = (sensitivity_forecast(ctx, GRIDS, count, 2) for count in (1, 4, 99))
    assert few.block_passes == 3 * (3 * 1 + 4)
    assert all_of_them.block_passes == 3 * (3 * 4 + 4) == more.block_passes
    assert few.gram_passes == 3 * 4
    assert few.memory_bytes > 0
    assert sensitivity_forecast(ctx, GRIDS[:2], 1, 2).products == few.products / 3


def test_candidates_add_up(ctx: Any) -> None:
    """The original is run once; every candidate is built and run through its blocks."""
    one, two, three = (told(ctx, count) for count in (1, 2, 3))
    assert two.block_passes - one.block_passes == three.block_passes - two.block_passes > 0
    assert one.block_passes >= 2 * (two.block_passes - one.block_passes)
    assert one.notes[0] == "1 candidate is built and judged"
    assert three.notes[0] == "3 candidates are built and judged"
    assert not three.guessed


def test_bisection_tries_few(ctx: Any) -> None:
    found = told(ctx, 15, max_rise=0.1)
    assert found.notes[0] == "4 candidates are built and judged"
    assert found.guessed
    assert found.adds["allocation"].place == 7
    assert told(ctx, 15).notes[0].startswith("15 ")


def test_what_is_added(ctx: Any) -> None:
    found = told(ctx, 2)
    assert {"checkpoint", "verdict", "reference", "allocation"} <= found.adds.keys()
    assert found.adds["checkpoint"].num_bytes < ctx["checkpoint"].num_bytes
    assert found.adds["allocation"].place == 0


def test_two_models_are_held(ctx: Any) -> None:
    """Beside the one being built, the best so far stays in memory."""
    one, two = told(ctx, 1), told(ctx, 2)
    light = one.adds["checkpoint"].num_bytes
    # Embeddings are the original's, and held in any case.
    assert two.memory_bytes - one.memory_bytes > 0.8 * light


def test_a_known_reference_is_not_computed(ctx: Any) -> None:
    reference = told(ctx, 1).adds["reference"]
    again = told({**ctx, "reference": replace(reference)}, 1)
    assert again.block_passes < told(ctx, 1).block_passes
