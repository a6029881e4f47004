"""waves: what is kept, what is reverted and why, when it ends; most verdicts are planted."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from tiny_contexts import calibrated, digests

from birdbone.chains import waves
from birdbone.checkpoints import Checkpoint
from birdbone.contexts.flow import Calibrated, Changed, Validatable, Validated, WithModel
from birdbone.contexts.steps import Step
from birdbone.contexts.verdict import Judgement, Perplexity, Reference, Verdict
from birdbone.engine import Chain, link, run
from birdbone.errors import DataError, GateError, LinkError, NumericsError, SettingError
from birdbone.journal import RunFolder
from birdbone.links import heal, profile, prune, score, validate
from birdbone.links.healing.settings import HealSettings
from birdbone.links.pruning.settings import PruneSettings
from birdbone.models.blocks.linears import all_linears
from birdbone.models.evaluation.footprint import footprint
from birdbone.texts import Windows

NOISE = 0.001
AS_IT_CAME = 0.0

Planted = float | tuple[float, float] | Exception


@dataclass
class Plant:
    """Links that do as they are told: one rise (with its error) or failure for every judgement."""

    rises: Sequence[Planted]
    elsewhere: Sequence[tuple[float, float]] = ()
    judged: Iterator[Planted] = field(init=False)
    other: Iterator[tuple[float, float]] = field(init=False)
    sparsities: list[float] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.judged = iter([AS_IT_CAME, *self.rises])
        self.other = iter(self.elsewhere)

    def body(self) -> Chain:
        plant = self

        @link(PruneSettings)
        async def prune(ctx: WithModel, settings: PruneSettings) -> Changed:
            assert settings.sparsity is not None
            plant.sparsities.append(settings.sparsity)
            return {"checkpoint": masked(ctx["checkpoint"], settings.sparsity)}

        @link(HealSettings)
        async def heal(ctx: Calibrated, settings: HealSettings) -> Changed:
            assert settings.epochs is not None
            plant.epochs.append(settings.epochs)
            return {"checkpoint": ctx["checkpoint"]}

        @link
        async def validate(ctx: Validatable, *, max_rise: float | None = None) -> Validated:
            return {"verdict": plant.verdict(ctx), "reference": reference(ctx)}

        return Chain(prune(), heal(epochs=3), validate())

    def verdict(self, ctx: Mapping[str, Any]) -> Verdict:
        found = next(self.judged)
        if isinstance(found, Exception):
            raise found
        pair = found if isinstance(found, tuple) else (found, NOISE if found else 0.0)
        other = next(self.other, None)
        return Verdict(
            judgement(ctx["heldout"], *pair),
            None if other is None else judgement(ctx["elsewhere"], *other),
            ctx["checkpoint"].id,
        )


def judgement(windows: Windows, rise: float, error: float) -> Judgement:
    dense, light = Perplexity(20.0, 1.0, 60), Perplexity(20.0 * (1 + rise), 1.0, 60)
    return Judgement(
        *(dense, light, rise, error, 0.1, 0.9, windows.text, windows.length),
        *(windows.num_windows, "float32", windows.digest),
    )


def reference(ctx: Mapping[str, Any]) -> Reference:
    return Reference(ctx["dense"].id, {ctx["heldout"].digest: torch.zeros(1)})


def masked(checkpoint: Any, sparsity: float) -> Any:
    """Every linear without its smallest weights."""
    fresh = {}
    for linear in all_linears(checkpoint):
        weight = checkpoint.tensors[linear.tensor].clone()
        order = weight.abs().flatten().argsort(stable=True)
        weight.view(-1)[order[: round(sparsity * weight.numel())]] = 0.0
        fresh[linear.tensor] = weight
    return checkpoint.evolve(fresh)


@pytest.fixture(scope="module")
def ctx() -> dict[str, Any]:
    return calibrated(tiny_checkpoint())


async def ran(ctx: Mapping[str, Any], rises: Sequence[Planted], **settings: Any) -> Any:
    """The plant and the context after waves over it; what waves warns of is not looked at."""
    plant = Plant(rises)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return plant, await run(waves(body=plant.body(), **settings), ctx)


def records(after: Mapping[str, Any]) -> list[Step]:
    return [step for step in after["history"] if step.link == "wave"]


def kept(after: Mapping[str, Any]) -> list[bool]:
    return [bool(step.metrics["kept"]) for step in records(after)]


async def test_each_wave_takes_a_step_of_what_remains_from_what_held(ctx: dict[str, Any]) -> None:
    plant, after = await ran(ctx, [0.01, 0.02, 0.025], step=0.2, max_waves=3)
    assert plant.sparsities == pytest.approx([0.2, 0.36, 0.488], abs=1e-3)
    assert plant.epochs == [3, 3, 3]
    assert kept(after) == [True] * 4
    assert footprint(after["checkpoint"]).zero_share == pytest.approx(0.488, abs=1e-3)
    assert after["verdict"].checkpoint == after["checkpoint"].id
    assert records(after)[0].metrics["perplexity"] == 20.0


async def test_a_wave_that_breaks_the_stop_loss_is_reverted_and_the_next_is_gentler(
    ctx: dict[str, Any],
) -> None:
    plant, after = await ran(ctx, [0.01, 0.5, 0.02, 0.02], step=0.2, max_waves=4)
    # From 0.2 again by half the step, and once that held, on by it.
    assert plant.sparsities == pytest.approx([0.2, 0.36, 0.28, 0.352], abs=1e-3)
    assert plant.epochs == [3, 3, 6, 6]
    assert kept(after) == [True, True, False, True, True]
    assert after["verdict"].rise == 0.02


@pytest.mark.parametrize(
    ("strikes", "reason"),
    [
        (4.0, r"perplexity rose by 400.00% \(standard error 0.10%\) over dense on heldout, more"),
        (float("nan"), "perplexity rose by nan% "),
        (NumericsError("the loss is nan"), "link 'validate' failed: the loss is nan"),
    ],
    ids=["rise", "no number", "failure"],
)
async def test_a_planted_disaster_leaves_the_last_good_wave_byte_for_byte(
    strikes: Planted, reason: str, ctx: dict[str, Any]
) -> None:
    _, good = await ran(ctx, [0.01], step=0.1, max_waves=1)
    strike = iter([0.1, 0.6])

    @link(PruneSettings)
    async def prune(ctx: WithModel, settings: PruneSettings) -> Changed:
        return {"checkpoint": masked(ctx["checkpoint"], next(strike))}

    disaster = Chain(prune(), *Plant([0.01, strikes]).body().links[1:])
    with pytest.warns(UserWarning, match="short of target=50.0%"):
        after = await run(waves(body=disaster, patience=1, target=0.5), ctx)
    assert kept(after) == [True, True, False]
    struck = records(after)[2]
    assert re.match(reason, str(struck.metrics["reason"]))
    if not isinstance(strikes, Exception):
        assert struck.metrics["parameters_left"] < 0.6
        assert struck.metrics["perplexity"] == pytest.approx(20.0 * (1 + strikes), nan_ok=True)  # type: ignore[operator]
    assert struck.checkpoint != after["checkpoint"].id
    assert_same_model(after["checkpoint"], good["checkpoint"])
    assert after["verdict"].checkpoint == good["checkpoint"].id


def assert_same_model(checkpoint: Checkpoint, other: Checkpoint) -> None:
    assert checkpoint.id == other.id
    assert checkpoint.config == other.config
    assert digests(checkpoint) == digests(other)


def counting(first: int, last: int, text: str) -> Windows:
    """Windows in which every token is the last one plus one: soon learnt, and soon forgotten."""
    starts = torch.randperm(124, generator=torch.Generator().manual_seed(0))[first:last, None]
    return Windows((starts + torch.arange(16)) % 124 + 4, text)


async def test_a_wave_of_60_percent_is_reverted_by_what_real_links_find() -> None:
    texts = {"calibration": counting(0, 8, "a"), "healing": counting(8, 72, "b")}
    untaught = {**calibrated(tiny_checkpoint()), **texts, "heldout": counting(72, 88, "c")}
    lesson = heal(method="full", kl_weight=0.0, epochs=6, learning_rate=1e-2, batch_size=4)
    dense = (await run(lesson, untaught))["checkpoint"]
    taught = {**untaught, "checkpoint": dense, "dense": dense}
    body = Chain(prune(pattern="neurons"), heal(epochs=1), validate())
    gentle = waves(body=body, step=0.1, max_waves=1, stop_loss=0.5)
    good = await run(Chain(profile(), score(), gentle), taught)
    assert kept(good) == [True, True]
    with pytest.warns(UserWarning, match="no wave was kept"):
        after = await run(waves(body=body, step=0.6, patience=1, stop_loss=0.5), good)
    disaster = records(after)[-1]
    assert disaster.metrics["kept"] is False
    assert disaster.settings["share"] == pytest.approx(0.6, abs=0.03)
    assert "perplexity rose by" in str(disaster.metrics["reason"])
    assert disaster.metrics["perplexity"] > good["verdict"].heldout.light.value
    assert disaster.metrics["parameters_left"] < records(good)[-1].metrics["parameters_left"]
    assert disaster.checkpoint != good["checkpoint"].id
    assert_same_model(after["checkpoint"], good["checkpoint"])


async def test_patience_ends_it_with_the_best_that_held(ctx: dict[str, Any]) -> None:
    plant, after = await ran(ctx, [0.01, 1.0, 1.0, 1.0], step=0.2, patience=3)
    assert kept(after) == [True, True, False, False, False]
    assert plant.sparsities == pytest.approx([0.2, 0.36, 0.28, 0.24], abs=1e-3)
    assert plant.epochs == [3, 3, 6, 12]
    assert footprint(after["checkpoint"]).zero_share == pytest.approx(0.2, abs=1e-3)
    assert (
        after["history"][-1].metrics["ended"]
        == "patience ran out: too many waves in a row were reverted"
    )


async def test_a_wave_that_holds_renews_the_patience(ctx: dict[str, Any]) -> None:
    _, after = await ran(ctx, [1.0, 0.01, 1.0, 0.01, 1.0, 1.0], patience=2)
    assert kept(after)[1:] == [False, True, False, True, False, False]


@pytest.mark.parametrize("fault", [NumericsError("the loss is nan"), GateError("too much")])
async def test_numbers_that_break_down_revert_the_wave_and_the_reason_is_kept(
    ctx: dict[str, Any], fault: Exception
) -> None:
    _, after = await ran(ctx, [fault, 0.01], max_waves=2)
    assert kept(after) == [True, False, True]
    assert records(after)[1].metrics["reason"] == f"link 'validate' failed: {fault}"
    assert records(after)[1].checkpoint is None


async def test_a_loss_of_nan_in_healing_reverts_the_wave(ctx: dict[str, Any]) -> None:
    body = Chain(prune(method="magnitude"), heal(learning_rate=1e20), validate())
    known = await run(Chain(profile(), score()), ctx)
    with pytest.warns(UserWarning, match="no wave was kept"):
        after = await run(waves(body=body, patience=1, stop_loss=5.0), known)
    assert "lower learning_rate, now 1e+20" in str(records(after)[1].metrics["reason"])
    assert after["checkpoint"].id == ctx["checkpoint"].id


async def test_where_no_wave_holds_the_model_is_as_it_came_and_that_is_said(
    ctx: dict[str, Any],
) -> None:
    with pytest.warns(UserWarning, match="no wave was kept .* because patience ran out"):
        after = await run(waves(body=Plant([1.0]).body(), patience=1), ctx)
    assert after["checkpoint"] is ctx["checkpoint"]
    assert after["verdict"].rise == AS_IT_CAME


async def test_a_rise_that_is_no_number_never_holds(ctx: dict[str, Any]) -> None:
    _, after = await ran(ctx, [(float("nan"), 0.0)], patience=1)
    assert kept(after) == [True, False]


async def test_other_failures_end_the_run(ctx: dict[str, Any]) -> None:
    with pytest.raises(LinkError, match="unfit") as caught:
        await ran(ctx, [DataError("unfit")])
    assert caught.value.link == "validate"


async def test_the_rule_is_the_gate_of_validate(ctx: dict[str, Any]) -> None:
    # Two standard errors are taken off the rise.
    _, after = await ran(ctx, [(0.0499, 0.01), (0.0501, 0.01)], stop_loss=0.03, max_waves=2)
    assert kept(after) == [True, True, False]
    reason = str(records(after)[2].metrics["reason"])
    assert reason.startswith("perplexity rose by 5.01% (standard error 1.00%) over dense")


async def test_a_wave_is_kept_only_where_both_texts_hold(ctx: dict[str, Any]) -> None:
    both = {**ctx, "elsewhere": tiny_windows(4, 16, seed=7, text="other")}
    rises = [(0.0, 0.0), (0.02, NOISE), (0.04, NOISE), (0.0, 0.02)]
    plant = Plant([0.01, 0.01, 0.01], elsewhere=rises)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        after = await run(waves(body=plant.body(), stop_loss=0.03, max_waves=3), both)
    assert kept(after) == [True, True, False, False]
    reasons = [str(step.metrics["reason"]) for step in records(after)]
    assert reasons[2].startswith(
        "perplexity rose by 4.00% (standard error 0.10%) over dense on other"
    )
    assert "two standard errors of the rise are 4.00%" in reasons[3]
    assert "about 8 such windows (elsewhere_windows)" in reasons[3]
    first = records(after)[1].metrics
    assert (first["rise"], first["elsewhere_rise"], first["elsewhere_rise_error"]) == (
        *(0.01, 0.02, NOISE),
    )
    assert first["elsewhere_perplexity"] == pytest.approx(20.4)
    own = after["history"][-1].metrics
    assert (own["rise"], own["worse_text"]) == (0.02, "other")


async def test_a_stop_loss_smaller_than_the_noise_is_refused_and_says_how_much_text_it_takes(
    ctx: dict[str, Any],
) -> None:
    message = r"stop_loss=1.00% .* errors of the rise are 4.00% on 4 windows .* about 64 such"
    with pytest.raises(LinkError, match=message) as caught:
        await ran(ctx, [(0.02, 0.02)], stop_loss=0.01)
    assert isinstance(caught.value.__cause__, DataError)
    # Later it is no reason to lose what held.
    _, after = await ran(ctx, [(0.005, 0.001), (0.02, 0.02)], stop_loss=0.01, max_waves=2)
    assert kept(after) == [True, True, False]
    assert "smaller than the noise" in str(records(after)[2].metrics["reason"])


async def test_a_model_that_is_past_the_stop_loss_when_it_comes_is_refused(
    ctx: dict[str, Any],
) -> None:
    plant = Plant([])
    plant.judged = iter([(0.2, 0.01)])
    with pytest.raises(LinkError, match=r"before the first wave perplexity rose by 20.00%"):
        await run(waves(body=plant.body()), ctx)


async def test_the_last_wave_is_cut_to_hit_the_target(ctx: dict[str, Any]) -> None:
    plant, after = await ran(ctx, [0.01] * 9, target=0.75, step=0.2)
    weight, dense = footprint(after["checkpoint"]), footprint(ctx["dense"])
    assert weight.of("parameters") / dense.of("parameters") == pytest.approx(0.75, abs=1e-3)
    assert len(plant.sparsities) == 2
    metrics = after["history"][-1].metrics
    assert metrics["ended"] == "the target is reached"
    assert metrics["parameters_left"] == pytest.approx(0.75, abs=1e-3)
    assert metrics["bytes_left"] == 1.0


async def test_a_model_at_its_target_is_left_as_it_is(ctx: dict[str, Any]) -> None:
    light = {**ctx, "checkpoint": masked(ctx["checkpoint"], 0.5)}
    plant, after = await ran(light, [], target=0.7)
    assert plant.sparsities == []
    assert after["checkpoint"].id == light["checkpoint"].id


async def test_a_target_out_of_reach_is_refused_with_the_nearest_before_any_work(
    ctx: dict[str, Any],
) -> None:
    plant = Plant([])
    with pytest.raises(
        LinkError, match=r"target=0.1, .* cannot be reached.* set target to 0.23\d\d or"
    ):
        await run(waves(body=plant.body(), target=0.1), ctx)
    for measure in ("bytes", "flops"):
        with pytest.raises(LinkError, match=f"of='{measure}'.* 100.0% of the {measure} remain"):
            await run(waves(body=plant.body(), target=0.5, of=measure), ctx)
    assert next(plant.judged) == AS_IT_CAME


async def test_a_step_too_small_for_the_model_does_not_go_on_for_ever(ctx: dict[str, Any]) -> None:
    _, after = await ran(ctx, [0.001] * 5, step=1e-6)
    assert kept(after) == [True, False, False]
    assert "nothing was removed: the step is too small" in str(records(after)[1].metrics["reason"])


async def test_text_that_cannot_judge_is_refused_before_any_work(ctx: dict[str, Any]) -> None:
    one = {**ctx, "heldout": tiny_windows(1, 16, seed=2)}
    same = {**ctx, "healing": tiny_windows(3, 16, seed=2)}
    other = {**ctx, "elsewhere": tiny_windows(1, 16, seed=7, text="other")}
    for found, message in (
        (one, "held-out text 'tiny words' has one window"),
        (same, r"3 of 4 windows .* are in healing"),
        (other, r"'other' has one window.* \(elsewhere_windows\)"),
    ):
        plant = Plant([])
        with pytest.raises(LinkError, match=message) as caught:
            await run(waves(body=plant.body()), found)
        assert isinstance(caught.value.__cause__, DataError)
        assert next(plant.judged) == AS_IT_CAME


async def test_every_wave_is_in_the_history_with_figures_settings_and_cost(
    ctx: dict[str, Any],
) -> None:
    before = {**ctx, "history": (Step("load", {}, None),)}  # type: ignore[arg-type]
    _, after = await ran(before, [0.01, 0.5, 0.02], step=0.2, max_waves=3)
    names = [step.link for step in after["history"]]
    chain = ["prune", "heal", "validate", "wave"]
    assert names == ["load", "validate", "wave", *chain, "wave", *chain, "waves"]
    assert [step.within for step in after["history"]] == [None, *["waves"] * 11, None]
    first, second = records(after)[1:3]
    assert first.settings == {"share": 0.2, "healing": 1}
    assert second.metrics["wave"] == 2
    assert second.metrics["rise"] == 0.5
    assert {"parameters", "bytes", "flops", "perplexity", "rise_error"} <= second.metrics.keys()
    assert second.cost.seconds > 0
    own = after["history"][-1]
    assert own.metrics["waves"] == 3
    assert own.metrics["kept"] == 2
    pruned, healed, validated = own.settings["body"]
    assert pruned == {"prune": dict(PruneSettings())}
    assert healed == {"heal": dict(HealSettings(epochs=3))}
    assert validated == {"validate": {"max_rise": None}}
    assert all(step.as_dict() for step in after["history"][1:])


async def test_a_run_folder_replays_waves_whole_and_one_by_one(
    ctx: dict[str, Any], tmp_path: Path
) -> None:
    body = Chain(profile(), score(), prune(method="magnitude"), validate())

    async def kept_run(max_waves: int) -> Any:
        loop = waves(body=body, max_waves=max_waves, stop_loss=9.0)
        with RunFolder(tmp_path / "run") as store:
            return await run(loop, ctx, store=store)

    first = await kept_run(1)
    again = await kept_run(1)
    assert again["history"] == first["history"]
    assert again["checkpoint"].id == first["checkpoint"].id
    # One wave more: waves runs anew, and every link of the wave that was there is replayed.
    more = await kept_run(2)
    assert kept(more) == [True] * 3
    old = [step.cost for step in first["history"] if step.link == "prune"]
    new = [step.cost for step in more["history"] if step.link == "prune"]
    assert new[:1] == old
    assert len(new) == 2


async def test_what_it_was_given_stays_as_it_was(ctx: dict[str, Any]) -> None:
    before = digests(ctx["checkpoint"])
    keys = set(ctx)
    await ran(ctx, [0.01, 1.0, 0.02], max_waves=3)
    assert digests(ctx["checkpoint"]) == before
    assert set(ctx) == keys


async def test_real_links_thin_heal_and_judge_on_a_tiny_model(ctx: dict[str, Any]) -> None:
    known = await run(Chain(profile(), score()), ctx)
    body = Chain(prune(), heal(epochs=1), validate())
    after = await run(waves(body=body, target=0.85, stop_loss=3.0), known)
    weight, dense = footprint(after["checkpoint"]), footprint(ctx["dense"])
    assert weight.of("parameters") / dense.of("parameters") == pytest.approx(0.85, abs=1e-3)
    judged = await run(validate(), after)
    assert judged["verdict"] == after["verdict"]


@pytest.mark.parametrize("regrow", [None, 0.0])
async def test_no_more_zeros_of_earlier_waves_come_back_than_regrow_says(
    ctx: dict[str, Any], regrow: float | None
) -> None:
    known = await run(Chain(profile(), score()), ctx)
    body = Chain(prune(matching=1.0), heal(epochs=1), validate())
    loop = waves(body=body, step=0.3, max_waves=3, stop_loss=9.0, regrow=regrow)
    after = await run(loop, known)
    assert kept(after) == [True] * 4
    prunes = [step.metrics for step in after["history"] if step.link == "prune"]
    assert [metrics["zeros_before"] > 0 for metrics in prunes] == [False, True, True]
    assert (sum(metrics["regrown"] for metrics in prunes) == 0) == (regrow == 0.0)


async def test_regrow_of_whole_units_is_refused_before_any_work() -> None:
    body = Chain(prune(pattern="neurons"), validate())
    with pytest.raises(LinkError, match=r"waves\(regrow=0.1\) .* removed neurons cannot") as caught:
        await run(Chain(hours_of_work, waves(body=body, regrow=0.1)), {})
    assert isinstance(caught.value.__cause__, SettingError)


async def hours_of_work(ctx: Any) -> Any:
    raise AssertionError("reached")


async def test_waves_of_whole_units_leave_a_smaller_model(ctx: dict[str, Any]) -> None:
    known = await run(Chain(profile(), score()), ctx)
    body = Chain(prune(pattern="neurons"), heal(epochs=1), validate())
    after = await run(waves(body=body, target=0.8, step=0.15, stop_loss=9.0), known)
    widths = [step.metrics["neurons_after"] for step in after["history"] if step.link == "prune"]
    # Of 64, 56 and 48 multiples of 8 are taken, one size down where 15 % is less; then of 4.
    assert widths == [56, 48, 44, 40]
    shares = [step.settings["share"] for step in records(after)[1:]]
    assert shares == pytest.approx([1 / 8, 1 / 7, 1 / 12, 1 / 11])
    left = after["checkpoint"].num_bytes / ctx["dense"].num_bytes
    assert left == pytest.approx(records(after)[-1].metrics["bytes_left"])
    # 36 would be further below the target than this is above it.
    assert left == pytest.approx(0.808, abs=1e-3)
    assert after["checkpoint"].config["intermediate_size"] == 40
    assert after["history"][-1].metrics["ended"] == "the target is reached"


@pytest.mark.parametrize(
    ("pattern", "measure", "target"),
    [("layers", "flops", 0.5), ("groups", "bytes", 0.88), ("neurons", "flops", 0.8)],
)
async def test_units_lead_to_targets_of_every_measure(
    ctx: dict[str, Any], pattern: str, measure: Any, target: float
) -> None:
    known = await run(Chain(profile(), score()), ctx)
    body = Chain(prune(pattern=pattern), heal(epochs=1), validate())
    after = await run(waves(body=body, target=target, of=measure, stop_loss=9.0), known)
    assert after["history"][-1].metrics["ended"] == "the target is reached"
    before, light = (footprint(after[key]).of(measure) for key in ("dense", "checkpoint"))
    sizes = [step.metrics[f"{measure}_left"] for step in records(after)]
    assert light / before == pytest.approx(sizes[-1])
    # Whole steps lead there, and the last of them is the nearest.
    assert abs(sizes[-1] - target) < abs(sizes[-2] - target)
    assert sizes == sorted(sizes, reverse=True)


async def test_waves_end_where_no_smaller_size_is_left(ctx: dict[str, Any]) -> None:
    known = await run(Chain(profile(), score()), ctx)
    body = Chain(prune(pattern="groups"), validate())
    after = await run(waves(body=body, stop_loss=9.0), known)
    assert kept(after) == [True, True]
    assert after["history"][-1].metrics["ended"] == "there is no smaller size"
    with pytest.raises(LinkError, match=r"target=0.3, .* in sizes the model can have") as caught:
        await run(waves(body=body, target=0.3, stop_loss=9.0), known)
    # The nearest that it names is what all waves together left, and can be asked for.
    nearest = float(str(caught.value).partition("set target to ")[2].split()[0])
    assert nearest == pytest.approx(records(after)[-1].metrics["parameters_left"], abs=1e-4)
    reached = await run(waves(body=body, target=nearest, stop_loss=9.0), known)
    assert reached["history"][-1].metrics["ended"] == "the target is reached"


async def test_a_body_may_profile_and_score_what_each_wave_starts_from(
    ctx: dict[str, Any],
) -> None:
    body = Chain(profile(), score(), prune(method="magnitude"), validate())
    bound = waves(body=body, max_waves=2, stop_loss=5.0)
    assert bound.needs == {"checkpoint", "dense", "calibration", "healing", "heldout"}
    after = await run(bound, ctx)
    zeros = [step.metrics["linear_sparsity"] for step in after["history"] if step.link == "prune"]
    assert zeros == pytest.approx([0.1, 0.19], abs=2e-3)
    assert after["scores"].linears.keys() == after["plan"].linears.keys()


def test_what_the_body_needs_waves_needs() -> None:
    bound = waves(body=Chain(prune(), validate()))
    assert bound.needs >= {"profile", "scores"}
    assert "plan" not in bound.adds
    assert bound.adds == {"checkpoint", "verdict", "reference"}


@pytest.mark.parametrize(
    "settings",
    [
        *({"step": 0.0}, {"step": 1.0}, {"stop_loss": 0.0}, {"patience": 0}, {"target": 1.0}),
        *({"regrow": -0.1}, {"regrow": 1.1}),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=rf"waves\({next(iter(settings))}="):
        waves(body=Chain(prune(), validate()), **settings)
