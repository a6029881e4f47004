"""validate: its figures against plain transformers in float64, and the gate from both sides."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_configs, tiny_windows
from tiny_contexts import calibrated
from torch import Tensor

from birdbone.checkpoints import Checkpoint
from birdbone.contexts.verdict import Verdict
from birdbone.engine import Chain, run
from birdbone.errors import GateError, LinkError, SettingError
from birdbone.links import validate
from birdbone.models.blocks.skeleton import Skeleton


def lighter(checkpoint: Checkpoint, factor: float = 0.5) -> Checkpoint:
    """A worse model: every block matrix of the first block scaled down."""
    path = Skeleton(checkpoint).path
    return checkpoint.evolve(
        {
            name: tensor * factor
            for name, tensor in checkpoint.tensors.items()
            if name.startswith(f"{path}.0.") and tensor.ndim > 1
        }
    )


def judged(arch: str = "llama", factor: float = 0.5) -> dict[str, Any]:
    """A context whose model stands worse than the dense one."""
    ctx = calibrated(tiny_checkpoint(arch))
    return {**ctx, "checkpoint": lighter(ctx["dense"], factor)}


def overconfident() -> dict[str, Any]:
    """A context whose model is surely worse: it says what the dense one says, too loudly."""
    ctx = calibrated(tiny_checkpoint())
    head = ctx["dense"].tensors["lm_head.weight"] * 4
    return {**ctx, "checkpoint": ctx["dense"].evolve({"lm_head.weight": head})}


def plain_log_probabilities(checkpoint: Checkpoint, tokens: Tensor) -> Tensor:
    """What the whole model says of the next token: float64 ``[windows, length - 1, vocab]``."""
    model = Skeleton(checkpoint).fill()
    with torch.no_grad():
        return model(tokens, use_cache=False).logits[:, :-1].double().log_softmax(-1)


@pytest.mark.parametrize("arch", tiny_configs)
async def test_the_figures_are_those_of_plain_transformers(arch: str) -> None:
    ctx = judged(arch)
    verdict: Verdict = (await run(validate(batch_size=3), ctx))["verdict"]
    found = verdict.heldout
    tokens = ctx["heldout"].tokens
    dense, light = (plain_log_probabilities(ctx[key], tokens) for key in ("dense", "checkpoint"))
    nll = [-each.gather(-1, tokens[:, 1:, None]).squeeze(-1) for each in (dense, light)]
    assert found.dense.value == pytest.approx(math.exp(nll[0].mean()), rel=1e-5)
    assert found.light.value == pytest.approx(math.exp(nll[1].mean()), rel=1e-5)
    assert found.rise == pytest.approx(math.exp((nll[1] - nll[0]).mean()) - 1, abs=1e-5)
    kl = (dense.exp() * (dense - light)).sum(-1)
    assert found.mean_kl == pytest.approx(float(kl.mean()), rel=1e-4)
    for value, fraction in ((found.median_kl, 0.5), (found.kl_99, 0.99), (found.kl_999, 0.999)):
        assert value == pytest.approx(float(kl.double().quantile(fraction)), rel=1e-3)
    change = (-nll[1]).exp() - (-nll[0]).exp()
    assert found.rms_dp == pytest.approx(float(change.square().mean().sqrt()), rel=1e-3)
    assert found.agreement == float((dense.argmax(-1) == light.argmax(-1)).double().mean())
    means = (nll[1] - nll[0]).mean(1)
    error = math.exp(means.mean()) * float(means.std()) / math.sqrt(len(means))
    assert found.rise_error == pytest.approx(error, rel=1e-3)
    assert found.mean_kl > 0
    assert found.light.num_tokens == 4 * 15


async def test_a_model_beside_itself_has_not_changed() -> None:
    found = (await run(validate(), calibrated(tiny_checkpoint())))["verdict"].heldout
    assert (found.rise, found.rise_error, found.mean_kl, found.agreement) == (0.0, 0.0, 0.0, 1.0)
    assert (found.median_kl, found.kl_999, found.rms_dp) == (0.0, 0.0, 0.0)
    assert found.light == found.dense


async def test_the_verdict_says_what_it_was_measured_on() -> None:
    after = await run(validate(), judged())
    found = after["verdict"].heldout
    assert (found.text, found.window, found.num_windows) == ("heldout", 16, 4)
    assert found.dtype in ("float32", "bfloat16")
    metrics = after["history"][-1].metrics
    assert metrics["perplexity"] == found.light.value
    assert metrics["rise"] == found.rise
    assert metrics["tokens"] == 60


async def test_windows_may_be_cut_into_any_batches() -> None:
    ctx = judged()
    one, five = [(await run(validate(batch_size=size), ctx))["verdict"].heldout for size in (1, 5)]
    assert one.light.value == pytest.approx(five.light.value, rel=1e-6)
    assert one.mean_kl == pytest.approx(five.mean_kl, rel=1e-4)


async def test_the_dense_run_is_made_once_and_used_again() -> None:
    first = await run(validate(), judged())
    second = await run(validate(), first)
    assert second["reference"] is first["reference"]
    assert second["verdict"] == first["verdict"]
    # A reference that lies is believed, so it was not made again.
    hidden = {key: states * 0 for key, states in first["reference"].hidden.items()}
    wrong = replace(first["reference"], hidden=hidden)
    fooled = await run(validate(), {**first, "reference": wrong})
    assert fooled["verdict"].heldout.dense != first["verdict"].heldout.dense


async def test_a_dense_run_of_other_text_or_another_model_is_not_used() -> None:
    first = await run(validate(), judged())
    other_text = {**first, "heldout": tiny_windows(4, 16, seed=9)}
    other_model = {**first, "dense": tiny_checkpoint(seed=5)}
    for ctx in (other_text, other_model):
        fresh = {key: value for key, value in ctx.items() if key != "reference"}
        found, expected = [(await run(validate(), each)) for each in (ctx, fresh)]
        assert found["reference"] is not first["reference"]
        assert found["verdict"] == expected["verdict"]


async def test_the_gate_lets_pass_what_holds_and_stops_what_does_not() -> None:
    ctx = overconfident()
    found = (await run(validate(), ctx))["verdict"]
    least = found.rise - 2 * found.rise_error
    assert least > 0
    passed = await run(validate(max_rise=least * 1.01), ctx)
    assert passed["verdict"] == found
    message = r"perplexity rose by \S+% \(standard error \S+%\) .* max_rise=.*; prune less"
    with pytest.raises(LinkError, match=message) as caught:
        await run(validate(max_rise=least * 0.99), ctx)
    assert isinstance(caught.value.__cause__, GateError)


async def test_one_window_knows_no_error_so_the_rise_itself_must_hold() -> None:
    ctx = {**overconfident(), "heldout": tiny_windows(1, 32, seed=2)}
    found = (await run(validate(), ctx))["verdict"]
    assert found.rise_error == math.inf
    assert found.rise > 0
    await run(validate(max_rise=found.rise * 1.01), ctx)
    with pytest.raises(LinkError, match="more than max_rise"):
        await run(validate(max_rise=found.rise * 0.99), ctx)


async def test_figures_that_are_not_numbers_never_pass_the_gate() -> None:
    ctx = calibrated(tiny_checkpoint())
    head = ctx["dense"].tensors["lm_head.weight"].clone()
    head[0] = float("nan")
    broken = {**ctx, "checkpoint": ctx["dense"].evolve({"lm_head.weight": head})}
    with pytest.raises(LinkError, match=r"rose by nan%|NaN or infinite"):
        await run(validate(max_rise=100.0), broken)


async def test_broken_activations_name_the_block() -> None:
    ctx = calibrated(tiny_checkpoint())
    name = "model.layers.1.mlp.up_proj.weight"
    bad = ctx["dense"].tensors[name].clone()
    bad[0, 0] = float("inf")
    broken = {**ctx, "checkpoint": ctx["dense"].evolve({name: bad})}
    with pytest.raises(LinkError, match=r"model\.layers\.1 gave \d+ values that are NaN"):
        await run(validate(), broken)


@pytest.mark.parametrize("bound", [0.0, -0.1])
def test_a_bound_that_nothing_can_keep_is_refused(bound: float) -> None:
    with pytest.raises(SettingError, match=r"validate\(max_rise="):
        validate(max_rise=bound)


async def test_a_chain_of_two_judges_both_models() -> None:
    async def spoil(ctx: dict[str, Any]) -> dict[str, Any]:
        return {**ctx, "checkpoint": lighter(ctx["checkpoint"], 0.2)}

    after = await run(Chain(validate(), spoil, validate()), calibrated(tiny_checkpoint()))
    first, second = (step.metrics for step in after["history"])
    assert first["rise"] == 0.0
    assert second["mean_kl"] > 0.0


def two_texts(ctx: dict[str, Any]) -> dict[str, Any]:
    """The context with text from elsewhere, of another length than held-out text."""
    return {**ctx, "elsewhere": tiny_windows(3, 24, seed=7, text="elsewhere")}


async def test_each_text_is_judged_as_it_would_be_alone() -> None:
    ctx = two_texts(judged())
    after = await run(validate(), ctx)
    verdict, metrics = after["verdict"], after["history"][-1].metrics
    alone = await run(validate(), {**ctx, "heldout": ctx["elsewhere"], "elsewhere": None})
    for found, expected in (
        (verdict.heldout, (await run(validate(), judged()))["verdict"].heldout),
        (verdict.elsewhere, alone["verdict"].heldout),
    ):
        assert (found.text, found.windows) == (expected.text, expected.windows)
        assert found.rise == pytest.approx(expected.rise, rel=1e-4)
        assert found.mean_kl == pytest.approx(expected.mean_kl, rel=1e-4)
    assert metrics["rise"] == verdict.heldout.rise
    assert metrics["elsewhere_rise"] == verdict.elsewhere.rise
    assert metrics["elsewhere_tokens"] == 3 * 23
    assert (metrics["texts"], metrics["worse_rise"]) == (2, verdict.rise)
    one = alone["history"][-1].metrics
    assert one["texts"] == 1
    assert "elsewhere_rise" not in one


@pytest.mark.filterwarnings("ignore:validate. the rises:UserWarning")
async def test_the_dense_run_of_one_text_is_kept_when_another_comes() -> None:
    first = await run(validate(), judged())
    wrong = {key: states * 0 for key, states in first["reference"].hidden.items()}
    ctx = {**two_texts(first), "reference": replace(first["reference"], hidden=wrong)}
    after = await run(validate(), ctx)
    digests = {ctx["heldout"].digest, ctx["elsewhere"].digest}
    assert after["reference"].hidden.keys() == digests
    assert not after["reference"].hidden[ctx["heldout"].digest].any()
    assert after["reference"].hidden[ctx["elsewhere"].digest].any()
    again = await run(validate(), after)
    assert again["reference"] is after["reference"]


async def test_the_gate_stops_what_fails_on_text_from_elsewhere_alone() -> None:
    ctx = {**overconfident(), "elsewhere": tiny_windows(4, 16, seed=7, text="elsewhere")}
    found = (await run(validate(), ctx))["verdict"]
    bounds = {name: each.rise - each.margin for name, each in found.texts.items()}
    (easy, harder), worse = sorted(bounds.values()), max(bounds, key=bounds.__getitem__)
    assert easy > 0
    await run(validate(max_rise=harder * 1.01), ctx)
    with pytest.raises(LinkError, match=f"over dense on {found.texts[worse].text}, more than max"):
        await run(validate(max_rise=(easy + harder) / 2), ctx)


async def test_rises_that_differ_much_are_warned_of() -> None:
    ctx = overconfident()
    # On text that the dense model would write itself, saying the same more loudly is an advantage.
    tokens = tiny_windows(4, 2, seed=7).tokens
    for _ in range(14):
        last = plain_log_probabilities(ctx["dense"], torch.cat([tokens, tokens[:, :1]], 1))[:, -1:]
        tokens = torch.cat([tokens, last.argmax(-1)], 1)
    ctx["elsewhere"] = replace(ctx["heldout"], tokens=tokens)
    with pytest.warns(UserWarning, match="differ by more than twice the smaller one"):
        after = await run(validate(), ctx)
    assert "cost depends on the text" in after["history"][-1].metrics["remark"]


def test_the_estimates_count_the_second_text() -> None:
    one = judged()
    two = {**one, "elsewhere": tiny_windows(4, 16, seed=7)}
    foretell = validate.hooks.forecast
    assert foretell is not None
    first, second = (foretell(ctx, validate().settings) for ctx in (one, two))
    assert second.memory_bytes > first.memory_bytes
    assert second.block_passes == 2 * first.block_passes
    assert second.adds["verdict"].elsewhere is not None
