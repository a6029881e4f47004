"""select: the best candidate on the worse text is kept; every candidate is recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tiny import tiny_checkpoint, tiny_windows
from tiny_contexts import calibrated
from tiny_gguf import gguf_checkpoint

from birdbone.contexts.allocation import Allocation, Candidate, LinearGrid
from birdbone.contexts.forecast import Forecast
from birdbone.engine import Chain, run
from birdbone.engine.rebuilding import rebuilt
from birdbone.errors import ChainError, GateError, LinkError, SolverError
from birdbone.links import (
    allocate,
    heal,
    load,
    profile,
    prune,
    quantize,
    score,
    select,
    sensitivity,
    validate,
)
from birdbone.models.blocks.linears import all_linears

pytestmark = pytest.mark.filterwarnings("ignore:validate. the rises on held-out text and on text")

_BODY = Chain(quantize(group_size="auto", matching=0.0), validate())


def _candidate(bits: int, **more: Any) -> Candidate:
    names = [each.name for each in all_linears(tiny_checkpoint("llama"))]
    grids = dict.fromkeys(names, LinearGrid(bits, 16))
    given = {"embedding_bits": None, "num_bytes": 1000 * bits, "loss": 1.0 / bits, **more}
    return Candidate(f"{bits} bits", True, grids, **given)


def _context(*bits: int) -> dict[str, Any]:
    allocation = Allocation(50_000, tuple(map(_candidate, bits)))
    elsewhere = tiny_windows(4, 16, seed=9, text="elsewhere")
    return {
        **calibrated(tiny_checkpoint("llama")),
        "allocation": allocation,
        "elsewhere": elsewhere,
    }


def _records(ctx: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(step.metrics) for step in ctx["history"] if step.link == "candidate"]


@pytest.mark.parametrize("order", [(2, 8, 3), (8, 2, 3), (3, 2, 8)])
async def test_best_is_kept(order: tuple[int, ...]) -> None:
    ctx = await run(select(body=_BODY), _context(*order))
    assert ctx["allocation"].current.name == "8 bits"
    assert ctx["verdict"].checkpoint == ctx["checkpoint"].id
    records = _records(ctx)
    assert [each["candidate"] for each in records] == [f"{bits} bits" for bits in order]
    assert [each["kept"] for each in records] == [bits == 8 for bits in order]
    rises = [each["worse_rise"] for each in records]
    assert min(rises) == ctx["verdict"].rise
    for each in records:
        assert each["worse_rise"] == max(each["rise"], each["elsewhere_rise"])
        best = f"and '8 bits' by {min(rises):.1%}"
        assert each["kept"] or each["reason"] == f"rises by {each['worse_rise']:.1%}, {best}"
    assert ctx["history"][-1].metrics["kept"] == "8 bits"


async def test_records_of_the_kept_one() -> None:
    """The history holds the links of the candidate that was kept, once."""
    ctx = await run(select(body=_BODY), _context(2, 8, 3))
    inner = [step for step in ctx["history"] if step.within == "select"]
    names = [step.link for step in inner]
    assert names == ["quantize", "validate", "candidate", "candidate", "candidate"]
    assert inner[0].checkpoint == ctx["checkpoint"].id


async def test_same_bytes_again() -> None:
    """The context that was given stays as it was."""
    ctx = _context(2, 8)
    before = dict(ctx)
    first, second = [await run(select(body=_BODY), ctx) for _ in range(2)]
    assert first["checkpoint"].id == second["checkpoint"].id
    assert ctx.keys() == before.keys()
    assert all(ctx[key] is before[key] for key in before)


async def test_the_worse_text_decides() -> None:
    """A text from elsewhere on which the candidates differ is judged on too."""
    ctx = _context(2, 4)
    one = await run(select(body=_BODY), {k: v for k, v in ctx.items() if k != "elsewhere"})
    assert "elsewhere_rise" not in _records(one)[0]


async def _only_8_bits(ctx: dict[str, Any]) -> dict[str, Any]:
    if ctx["allocation"].current.name != "8 bits":
        raise SolverError("too few bits")
    return ctx


async def test_failed_candidates_are_passed_over() -> None:
    body = Chain(quantize(group_size="auto", matching=0.0), _only_8_bits, validate())
    ctx = await run(select(body=body), _context(2, 8))
    first, second = _records(ctx)
    assert "too few bits" in first["reason"]
    assert "perplexity" not in first
    assert (first["kept"], second["kept"]) == (False, True)
    with pytest.raises(LinkError, match="none of 1 candidates passes; the last one, '2 bits'") as e:
        await run(select(body=body), _context(2))
    assert isinstance(e.value.__cause__, GateError)


def _ladder(rises: dict[int, float], max_rise: float) -> tuple[dict[str, Any], Chain]:
    """Candidates of 2, 3, ... bits, and a body that makes up their rises."""

    async def judged(ctx: dict[str, Any]) -> dict[str, Any]:
        bits = int(ctx["allocation"].current.name.split()[0])
        verdict = ctx["verdict"]
        worse = replace(verdict.heldout, rise=rises[bits])
        return {**ctx, "verdict": replace(verdict, heldout=worse, elsewhere=None)}

    ctx = _context(*rises)
    ladder = replace(ctx["allocation"], max_rise=max_rise)
    body = Chain(quantize(group_size="auto", method="rtn"), validate(), judged)
    return {**ctx, "allocation": ladder}, body


@pytest.mark.parametrize(
    ("max_rise", "tried"),
    [(0.05, [5, 3, 4]), (0.25, [5, 3, 2]), (0.5, [5, 3, 2]), (0.002, [5, 7, 8])],
)
async def test_smallest_within_a_rise(max_rise: float, tried: list[int]) -> None:
    """Bisection over seven sizes tries three."""
    rises = {2: 0.4, 3: 0.2, 4: 0.1, 5: 0.04, 6: 0.02, 7: 0.01, 8: 0.001}
    kept = min(bits for bits, rise in rises.items() if rise <= max_rise)
    ctx, body = _ladder(rises, max_rise)
    found = await run(select(body=body), ctx)
    assert found["allocation"].current.name == f"{kept} bits"
    assert found["allocation"].max_rise is None
    records = _records(found)
    assert [each["candidate"] for each in records if each["kept"]] == [f"{kept} bits"]
    assert [each["candidate"] for each in records] == [f"{bits} bits" for bits in tried]
    for each in records:
        bits = int(each["candidate"].split()[0])
        if each["kept"]:
            assert "smallest that rises by at most" in each["reason"]
        elif rises[bits] <= max_rise:
            assert each["reason"] == "holds, but is larger"
        else:
            assert "rises by >" in each["reason"]


async def test_no_size_is_good_enough() -> None:
    ctx, body = _ladder({2: 0.4, 3: 0.2, 4: 0.1}, 0.01)
    with pytest.raises(LinkError, match=r"the smallest rise is 10\.00%, of '4 bits'"):
        await run(select(body=body), ctx)


_REMOVAL = Chain(
    *(profile(), score(), prune(pattern="neurons"), heal(epochs=1, batch_size=2)),
    *(sensitivity(bits=(4, 8), group_sizes=(16,)), allocate(variants=1, uniform=0)),
)


def _judged(rises: dict[str, float]) -> Any:
    """A link that makes up the rise of each candidate by a part of its name."""

    async def judged(ctx: dict[str, Any]) -> dict[str, Any]:
        name, verdict = ctx["allocation"].current.name, ctx["verdict"]
        rise = next(rise for part, rise in rises.items() if part in name)
        worse = replace(verdict.heldout, rise=rise)
        return {**ctx, "verdict": replace(verdict, heldout=worse, elsewhere=None)}

    return judged


@pytest.mark.parametrize(
    ("rises", "kept"),
    [
        ({"bits": 0.1, "48 of": 0.2, "32 of 64 neurons, healed": 0.15, "32 of": 0.18}, "4 bits"),
        ({"bits": 0.2, "48 of": 0.05, "32 of": 0.06}, "48 of 64 neurons, allocated"),
        ({"healed": 0.1, "bits": 0.2, "48": 0.3, "32": 0.25}, "32 of 64 neurons, healed, alloc"),
    ],
)
async def test_removal_competes(rises: dict[str, float], kept: str) -> None:
    """It wins where it rises less; only the better fraction is healed."""
    body = Chain(quantize(group_size="auto", method="rtn"), validate(), _judged(rises))
    ctx = await run(select(removal=_REMOVAL, remove=(0.25, 0.5), body=body), _context(4))
    records, current = _records(ctx), ctx["allocation"].current
    names = [each["candidate"].removesuffix("ated") for each in records]
    healed = min((48, 32), key=lambda width: rises.get(f"{width} of", rises.get(str(width), 9.0)))
    assert names == [
        *("4 bits", "48 of 64 neurons, alloc", "32 of 64 neurons, alloc"),
        f"{healed} of 64 neurons, healed, alloc",
    ]
    assert current.name.startswith(kept)
    assert [each["candidate"] for each in records if each["kept"]] == [current.name]
    assert all(each["predicted_bytes"] <= 50_000 for each in records)
    inner = [step for step in ctx["history"] if step.within == "select"]
    links = [step.link for step in inner if step.link != "candidate"]
    removing = ["profile", "score", "prune", *(["heal"] if "healed" in kept else [])]
    smaller = "neurons" in kept
    assert links == [
        *([*removing, "sensitivity", "allocate"] if smaller else []),
        *("quantize", "validate"),
    ]
    width = int(kept.split()[0]) if smaller else 64
    assert ctx["checkpoint"].config["intermediate_size"] == width
    assert ctx["dense"].config["intermediate_size"] == 64


async def test_forecast_of_removal() -> None:
    """Each fraction and the healed one cost a pass of removal and one of the body."""

    def foretold(remove: tuple[float, ...], body: Chain) -> Forecast:
        settings = select(removal=_REMOVAL, remove=remove, body=body).settings
        found: Forecast = select.hooks.forecast(_context(4), settings)  # type: ignore[misc]
        return found

    longer = Chain(*_BODY.links, validate())
    without, one, two = (foretold(remove, _BODY) for remove in ((), (0.25,), (0.25, 0.5)))
    assert ("3 candidates are built and judged" in one.notes, len(without.notes)) == (True, 1)
    assert without.block_passes < one.block_passes < two.block_passes
    more = foretold((), longer).block_passes - without.block_passes
    assert foretold((0.25,), longer).block_passes - one.block_passes == 3 * more
    assert one.adds["checkpoint"].config["intermediate_size"] == 64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"remove": (0.1,)}, r"select\(remove=\[0.1\]\) has no removal; give the chain"),
        ({"remove": (0.25, 0.25), "removal": _REMOVAL}, "names a fraction twice"),
        ({"remove": (0.25,), "removal": _REMOVAL, "rise": 0.1}, "has none; give a budget"),
    ],
)
async def test_removal_refused(settings: dict[str, Any], message: str) -> None:
    ctx = _context(4)
    ctx["allocation"] = replace(ctx["allocation"], max_rise=settings.pop("rise", None))
    with pytest.raises(LinkError, match=message):
        await run(select(body=_BODY, **settings), ctx)


async def test_other_failures_end_the_run() -> None:
    ctx = _context(4)
    unknown = replace(ctx["allocation"].current, grids={"model.nowhere": LinearGrid(4, 16)})
    with pytest.raises(LinkError, match=r"grid for layer 'model.nowhere', which the model does"):
        await run(select(body=_BODY), {**ctx, "allocation": Allocation(1, (unknown,))})


async def test_forecast_counts_every_candidate() -> None:
    one, three = (
        select.hooks.forecast(_context(*bits), select(body=_BODY).settings)  # type: ignore[misc]
        for bits in ((4,), (4, 4, 4))
    )
    assert one.block_passes < three.block_passes < 3 * one.block_passes
    assert three.adds["checkpoint"].num_bytes < tiny_checkpoint("llama").num_bytes
    assert "3 candidates are built and judged" in three.notes


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda: Chain(validate()), "has no quantize link"),
        (lambda: Chain(quantize()), "has no validate link"),
        (lambda: Chain(load(model="m"), quantize(), validate()), "contains load; put it before"),
        (lambda: Chain(quantize(), validate(), heal()), "changes the model after validate"),
        (lambda: Chain(select(body=_BODY), quantize(), validate()), "contains select"),
    ],
)
def test_bodies(body: Any, message: str) -> None:
    with pytest.raises(Exception, match=message) as refused:
        select(body=body())
    assert isinstance(refused.value, ChainError)


@pytest.mark.usefixtures("made_up_machine")
async def test_only_smaller_models_are_fast_enough() -> None:
    """The whole model is recorded as too slow and not built; with less removed it all is."""
    checkpoint = gguf_checkpoint("llama tied")
    estimated = sensitivity(format="gguf", types=("q8_0", "q4_0"), windows=2)
    budget = allocate(speed=2.4)
    removal = Chain(profile(), score(), prune(pattern="neurons"), heal(), estimated, budget)
    chain = Chain(
        *(estimated, budget),
        select(
            removal=removal,
            remove=(0.5,),
            body=Chain(quantize(grid="allocated", matching=0.0), validate()),
        ),
    )
    ctx = await run(chain, calibrated(checkpoint))
    whole, *smaller = _records(ctx)
    assert whole["speed"] < 2.4 <= min(each["speed"] for each in smaller)
    assert "perplexity" not in whole
    assert "no ggml types make the model run 2.4 times as fast" in whole["reason"]
    assert [each["kept"] for each in smaller].count(True) == 1
    with pytest.raises(LinkError, match=r"none of 2 candidates passes; .* runs 2\.\d+ times"):
        await run(_with(chain, budget, 6), calibrated(checkpoint))


def _with(chain: Chain, budget: Any, speed: float) -> Chain:
    return rebuilt(chain, lambda each: {"speed": speed} if each.__name__ == budget.__name__ else {})
