"""What save refuses, and what it lets pass though it looks alike."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import VOCAB, tiny_checkpoint, tiny_windows
from tiny_verdicts import verdict_on

from birdbone.contexts.cost import Cost
from birdbone.contexts.steps import Step
from birdbone.errors import GateError, ProofError
from birdbone.links.saving import acceptance
from birdbone.models.evaluation.fresh_process import Measurement
from birdbone.texts import chance_perplexity

REPEATING = [[7] * 24] * 4
SPEAKING = [list(range(24))] * 4


@pytest.fixture(autouse=True)
def in_memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the model at work and the dense one would score, by checkpoint id."""
    scores: dict[str, float] = {}
    monkeypatch.setattr(
        acceptance, "own_perplexity", lambda checkpoint, *_, **__: scores[checkpoint.id]
    )
    return scores


def context(*promising: str) -> Any:
    """A context whose history holds links that promised to shrink."""
    cost = Cost(1.0, 1, "process")
    history = tuple(Step(name, {}, cost, {"shrinks": True}) for name in promising)
    dense = tiny_checkpoint()
    return {
        "checkpoint": tiny_checkpoint(seed=1),
        "dense": dense,
        "heldout": tiny_windows(3),
        "calibration": tiny_windows(8, seed=1),
        "history": history,
    }


def measured(light: float, dense: float | None = None, **more: Any) -> Measurement:
    figures: dict[str, Mapping[str, float]] = {
        "light": {"perplexity": light, "weight_bytes": more.pop("light_bytes", 10.0)}
    }
    if dense is not None:
        figures["dense"] = {"perplexity": dense, "weight_bytes": more.pop("dense_bytes", 20.0)}
    return Measurement(figures, {}, **more)


async def judge(ctx: Any, found: Measurement, scores: dict[str, float]) -> None:
    scores[ctx["checkpoint"].id] = found.figures["light"]["perplexity"]
    await acceptance.check_accepted(ctx, found, dtype=torch.float32, tolerance=None)


async def accept(ctx: Any, perplexity: float, tolerance: float | None = None) -> None:
    found = measured(perplexity, 10.0)
    await acceptance.check_accepted(ctx, found, dtype=torch.float32, tolerance=tolerance)


async def test_another_score_than_the_verdicts_is_refused_beyond_the_tolerance() -> None:
    ctx = context()
    ctx = {**ctx, "verdict": verdict_on(ctx["heldout"], 12.0, ctx["checkpoint"].id)}
    await accept(ctx, 12.0)
    with pytest.raises(ProofError, match=r"has perplexity 12\.5.* in memory had 12\.0.*tolerance"):
        await accept(ctx, 12.5)
    await accept(ctx, 12.5, tolerance=0.1)


async def test_a_verdict_on_another_model_or_text_is_not_held_against_this_one(
    in_memory: dict[str, float],
) -> None:
    ctx = context()
    in_memory[ctx["checkpoint"].id] = 12.0
    await accept({**ctx, "verdict": verdict_on(ctx["heldout"], 1.5, ctx["dense"].id)}, 12.0)
    other = verdict_on(tiny_windows(3, seed=7), 1.5, ctx["checkpoint"].id)
    await accept({**ctx, "verdict": other}, 12.0)


async def test_without_a_verdict_the_model_is_scored_here(in_memory: dict[str, float]) -> None:
    ctx = context()
    in_memory[ctx["checkpoint"].id] = 12.0
    await accept(ctx, 12.0)
    with pytest.raises(ProofError, match=r"perplexity 11.*in memory had 12"):
        await accept(ctx, 11.0)


async def test_a_sound_model_passes(in_memory: dict[str, float]) -> None:
    await judge(context("quantize"), measured(12.0, 10.0), in_memory)


async def test_no_better_than_word_counts_is_refused(in_memory: dict[str, float]) -> None:
    ctx = context()
    bar = chance_perplexity(ctx["heldout"], [ctx["calibration"]], VOCAB)
    await judge(ctx, measured(bar * 0.99, 10.0), in_memory)
    with pytest.raises(GateError, match=r"no better than guessing by word counts \(6"):
        await judge(ctx, measured(bar, 10.0), in_memory)


async def test_text_from_elsewhere_is_held_against_memory_and_chance_too(
    in_memory: dict[str, float],
) -> None:
    ctx = {**context(), "elsewhere": tiny_windows(2, 24, seed=5, text="other words")}
    bar = chance_perplexity(ctx["elsewhere"], [ctx["calibration"]], VOCAB)

    def found(elsewhere: float) -> Measurement:
        one = measured(12.0, 10.0)
        light, dense = one.figures["light"], one.figures["dense"]
        return replace(
            one,
            figures={
                "light": {**light, "elsewhere_perplexity": elsewhere},
                "dense": {**dense, "elsewhere_perplexity": 10.0},
            },
        )

    await judge(ctx, found(12.0), in_memory)
    with pytest.raises(ProofError, match=r"perplexity 13.0000 on other words in a fresh process"):
        await judge(ctx, found(13.0), in_memory)
    in_memory[ctx["checkpoint"].id] = bar
    with pytest.raises(ProofError, match=r"perplexity 12.0000 on tiny words in a fresh process"):
        await acceptance.check_accepted(ctx, found(bar), dtype=torch.float32, tolerance=None)
    with pytest.raises(GateError, match="on other words is no better than guessing"):
        await acceptance.check_accepted(ctx, found(bar), dtype=torch.float32, tolerance=0.99)


async def test_a_dense_model_that_guesses_itself_is_no_measure(
    in_memory: dict[str, float],
) -> None:
    await judge(context(), measured(VOCAB, VOCAB), in_memory)


async def test_the_dense_model_is_measured_when_nobody_did(in_memory: dict[str, float]) -> None:
    ctx = context()
    in_memory[ctx["dense"].id] = 10.0
    with pytest.raises(GateError, match="no better than guessing"):
        await judge(ctx, measured(VOCAB), in_memory)
    in_memory[ctx["dense"].id] = float(VOCAB)
    await judge(ctx, measured(VOCAB), in_memory)


@pytest.mark.parametrize(
    ("light", "dense", "refused"),
    [
        (REPEATING, SPEAKING, True),
        (REPEATING[:3] + SPEAKING[:1], SPEAKING[:3] + REPEATING[:1], True),
        (REPEATING, REPEATING, False),
        (REPEATING[:2] + SPEAKING[:2], SPEAKING, False),
        (SPEAKING, SPEAKING, False),
    ],
)
async def test_collapse_is_judged_beside_the_dense_model(
    light: Any, dense: Any, refused: bool, in_memory: dict[str, float]
) -> None:
    found = measured(12.0, 10.0, decoded={"light": light, "dense": dense})
    if refused:
        with pytest.raises(GateError, match=r"only repeats itself.*prune less"):
            await judge(context(), found, in_memory)
    else:
        await judge(context(), found, in_memory)


async def test_a_promise_to_shrink_is_held(in_memory: dict[str, float]) -> None:
    grown = measured(12.0, 10.0, light_bytes=20.0, dense_bytes=20.0)
    with pytest.raises(GateError, match=r"^quantize promised a smaller model.*take 20 bytes"):
        await judge(context("quantize", "quantize"), grown, in_memory)
    await judge(context(), grown, in_memory)


async def test_the_promise_is_held_without_the_dense_folder_too(
    in_memory: dict[str, float],
) -> None:
    ctx = context("prune", "quantize")
    size = ctx["dense"].num_bytes
    with pytest.raises(GateError, match=f"prune and quantize promised .* ones {size:,}"):
        await judge(ctx, measured(12.0, light_bytes=float(size)), in_memory)
    await judge(ctx, measured(12.0, light_bytes=size - 1.0), in_memory)
