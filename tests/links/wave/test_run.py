"""One wave: kept if it is lighter and good enough, else taken back, with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_checkpoint, tiny_windows
from tiny_verdicts import verdict_on

from birdbone.checkpoints import Checkpoint
from birdbone.contexts.flow import Validatable, Validated
from birdbone.contexts.verdict import Judgement, Reference, Verdict
from birdbone.engine import Chain, link, run
from birdbone.errors import DataError, GateError, LinkError, ModelError, NumericsError, SolverError
from birdbone.links import prune
from birdbone.links.wave.course import Course
from birdbone.links.wave.run import Pace, Wave, first_wave, run_wave
from birdbone.models.evaluation.footprint import by_shapes

DENSE = tiny_checkpoint()
NAME = "model.layers.0.mlp.up_proj.weight"
LIGHT = DENSE.evolve({NAME: DENSE.tensors[NAME].masked_fill(DENSE.tensors[NAME] > 0, 0.0)})
COURSE = Course(by_shapes(DENSE), "parameters", None)
WINDOWS = tiny_windows(4, text="the book")
STOP = 0.1


def verdict(rise: float, error: float = 0.0, *, checkpoint: str = "light") -> Verdict:
    found = verdict_on(WINDOWS, 20.0 * (1 + rise), checkpoint)
    return replace(found, heldout=replace(found.heldout, rise=rise, rise_error=error))


class Body:
    """A chain of a wave that leaves a model and a verdict, or fails."""

    def __init__(self, left: Checkpoint, found: Verdict | Exception) -> None:
        self.left, self.found = left, found

    async def run(self, ctx: Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(self.found, Exception):
            raise LinkError("prune", {}, self.found) from self.found
        history = (*ctx.get("history", ()), "a step")
        return {**ctx, "checkpoint": self.left, "verdict": self.found, "history": history}


def start(number: int = 0) -> Wave:
    record: Any = None
    ctx = {"checkpoint": DENSE, "history": ("loaded",)}
    weight = by_shapes(DENSE)
    return Wave(number, True, ctx, weight, weight.share_of(COURSE.dense), (), record)


async def wave(found: Verdict | Exception, left: Checkpoint = LIGHT, *, after: int = 0) -> Wave:
    body: Any = Body(left, found)
    return await run_wave(3, start(after), body, COURSE, Pace(0.2, 4), STOP)


async def judged(found: Verdict, **ctx: Any) -> Wave:
    """Wave 0 with this verdict."""

    @link
    async def validate(ctx: Validatable) -> Validated:
        return {"verdict": found, "reference": Reference("dense", {})}

    texts = {"calibration": WINDOWS, "healing": WINDOWS, "heldout": WINDOWS}
    body = Chain(prune(), validate())

    @link
    async def through(ctx: Validatable) -> dict[str, Any]:
        return {"first": await first_wave(dict(ctx), body, COURSE, STOP)}

    result = await run(through(), {"checkpoint": DENSE, "dense": DENSE, **texts, **ctx})
    return result["first"]  # type: ignore[no-any-return]


async def test_a_good_wave_is_kept() -> None:
    found = await wave(verdict(0.05))
    assert (found.kept, found.number, found.steps) == (True, 3, ("a step",))
    assert found.context["checkpoint"] is LIGHT
    assert found.left["parameters"] < 1
    assert found.left["bytes"] == 1  # zeros take as many bytes
    metrics = found.record.metrics
    assert (metrics["wave"], metrics["kept"], metrics["reason"]) == (3, True, "held")
    assert (metrics["rise"], metrics["parameters_left"]) == (0.05, found.left["parameters"])
    assert found.record.settings == {"share": 0.2, "healing": 4}
    assert found.record.checkpoint == "light"


async def test_a_rise_above_the_limit_is_taken_back() -> None:
    found = await wave(verdict(0.2, 0.01))
    assert not found.kept
    assert found.context["checkpoint"] is DENSE
    assert found.steps == ()
    assert found.left["parameters"] == 1
    assert found.record.metrics["reason"] == (
        "perplexity rose by 20.00% (standard error 1.00%) over dense on the book, more than "
        "stop_loss=10.00% allows"
    )
    assert found.record.metrics["parameters_left"] < 1  # of the model that was tried


async def test_nothing_removed_is_taken_back() -> None:
    found = await wave(verdict(0.0), DENSE)
    assert not found.kept
    assert "nothing was removed: the step is too small" in found.record.metrics["reason"]


async def test_text_that_cannot_tell() -> None:
    """Two standard errors of 12 % are more than the limit: four windows would have to be six."""
    with pytest.raises(DataError, match=r"are 12\.00% on 4 windows of 16 .* about 6 such windows"):
        await wave(verdict(0.05, 0.06))
    found = await wave(verdict(0.05, 0.06), after=1)
    assert not found.kept
    assert "smaller than the noise of the text" in found.record.metrics["reason"]


@pytest.mark.parametrize("kind", [GateError, NumericsError, SolverError])
async def test_what_a_gentler_wave_may_avoid(kind: type[Exception]) -> None:
    found = await wave(kind("not positive definite"))
    assert (found.kept, found.number) == (False, 3)
    assert found.record.metrics["reason"] == "link 'prune' failed: not positive definite"
    assert found.context["checkpoint"] is DENSE
    assert found.record.checkpoint is None


@pytest.mark.parametrize("kind", [ModelError, ZeroDivisionError])
async def test_what_it_would_not(kind: type[Exception]) -> None:
    with pytest.raises(LinkError, match="'prune' failed"):
        await wave(kind("no such layer"))


async def test_nan_is_never_kept() -> None:
    assert not (await wave(verdict(math.nan, math.nan))).kept


async def test_both_texts_are_on_the_curve() -> None:
    other: Judgement = replace(verdict(0.08).heldout, text="the paper")
    metrics = (await wave(replace(verdict(0.05), elsewhere=other))).record.metrics
    assert (metrics["rise"], metrics["elsewhere_rise"]) == (0.05, 0.08)
    worse = replace(other, rise=0.5)
    found = await wave(replace(verdict(0.05), elsewhere=worse))
    assert "on the paper" in found.record.metrics["reason"]


async def test_the_input_model_is_wave_0() -> None:
    found = await judged(verdict(0.02))
    assert (found.number, found.kept) == (0, True)
    assert found.left == {"parameters": 1.0, "bytes": 1.0, "flops": 1.0}
    assert found.record.metrics["reason"] == "the input model"
    assert found.record.settings == {"share": 0.0, "healing": 1}
    assert [each.link for each in found.steps] == ["validate"]


async def test_an_input_model_beyond_the_limit() -> None:
    with pytest.raises(
        LinkError, match=r"before the first wave perplexity rose by 20\.00%.*heal f"
    ):
        await judged(verdict(0.2))
    with pytest.raises(LinkError, match="smaller than the noise of the text"):
        await judged(verdict(0.0, 0.06))


@given(st.floats(1e-6, 0.999), st.integers(1, 64))
def test_gentler(share: float, healing: int) -> None:
    """The work of a wave stays about the same: half as much is removed, healed twice as long."""
    found = Pace(share, healing).gentler()
    assert found.share * found.healing == pytest.approx(share * healing)
    assert 0 < found.share < share
