"""score: every method against its formula, and loads that average to one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_configs
from tiny_contexts import calibrated, scored, weight_of

from birdbone.checkpoints import InMemory
from birdbone.engine import Chain, run
from birdbone.errors import LinkError, SettingError, SolverError
from birdbone.links import profile, score
from birdbone.links.score import ScoreSettings, _score
from birdbone.models.blocks.linears import all_linears

METHODS = ("magnitude", "wanda", "sparsegpt", "taylor")


async def scores_of(arch: str, method: Any, **settings: Any) -> dict[str, Any]:
    """The context after profile and score, every weight's score kept."""
    chain = Chain(profile(moments="full"), score(method=method, per_weight=True, **settings))
    return await run(chain, calibrated(tiny_checkpoint(arch)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("arch", ["llama", "gpt2", "mixtral", "gpt_oss"])
async def test_loads_average_to_one_over_all_weights(arch: str, method: str) -> None:
    ctx = await scores_of(arch, method)
    linears = ctx["scores"].linears
    total = sum(each.num_weights for each in linears.values())
    mean = sum(each.load * each.num_weights for each in linears.values()) / total
    assert mean == pytest.approx(1.0)
    assert total == sum(a * b for a, b in (each.shape for each in all_linears(ctx["checkpoint"])))
    assert len({round(each.load, 6) for each in linears.values()}) > 1


@pytest.mark.parametrize("arch", tiny_configs)
async def test_wanda_scores_are_weights_times_the_root_mean_square_of_their_inputs(
    arch: str,
) -> None:
    ctx = await scored(arch)
    for linear in all_linears(ctx["checkpoint"]):
        seen = ctx["profile"].linears[linear.name].second_moment
        expected = weight_of(ctx["checkpoint"], linear).abs() * seen.sqrt()
        torch.testing.assert_close(ctx["scores"].weights[linear.name], expected)


async def test_sparsegpt_scores_are_squared_weights_over_the_inverse_hessian() -> None:
    ctx = await scores_of("llama", "sparsegpt")
    name = "model.layers.1.mlp.down_proj"
    seen, weight = ctx["profile"].linears[name], ctx["checkpoint"].tensors[f"{name}.weight"]
    hessian = seen.second_moment.double() * seen.num_tokens
    hessian.diagonal().add_(0.01 * hessian.diagonal().mean())
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    expected = (weight.double() / upper.diagonal()).square()
    # float32 factorisation of a Hessian damped to a condition of some hundreds
    found = ctx["scores"].weights[name].double()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
async def test_linears_and_blocks_are_their_weights_scores_reduced(method: str) -> None:
    scores = (await scores_of("llama", method))["scores"]
    average = torch.cat([each.flatten() for each in scores.weights.values()]).double().mean()
    for name, values in scores.weights.items():
        mean = values.double().mean()
        each = scores.linears[name]
        assert each.load == pytest.approx(float(mean / average), rel=1e-5)
        assert each.outliers == pytest.approx(float((values > 5 * mean).double().mean()), abs=1e-9)
    for index, load in enumerate(scores.blocks):
        inside = [v.flatten() for n, v in scores.weights.items() if f"layers.{index}." in n]
        assert load == pytest.approx(float(torch.cat(inside).double().mean() / average), rel=1e-5)
    assert len(scores.blocks) == 3


async def test_per_weight_scores_are_kept_only_when_asked_for() -> None:
    ctx = await scored("llama")
    bare = await run(score(method="wanda"), ctx)
    assert bare["scores"].weights == {}
    assert bare["scores"].linears == ctx["scores"].linears


async def test_the_history_names_the_most_and_the_least_loaded_linear() -> None:
    ctx = await scored("llama")
    metrics, linears = ctx["history"][-1].metrics, ctx["scores"].linears
    loads = [each.load for each in linears.values()]
    assert linears[metrics["most_loaded"]].load == max(loads)
    assert linears[metrics["least_loaded"]].load == min(loads)


async def test_sparsegpt_needs_whole_moments() -> None:
    chain = Chain(profile(), score(method="sparsegpt"))
    with pytest.raises(LinkError, match=r"use profile\(moments='full'\)") as caught:
        await run(chain, calibrated(tiny_checkpoint()))
    assert isinstance(caught.value.__cause__, SettingError)


async def test_taylor_takes_as_many_windows_as_it_is_told() -> None:
    one, all_four = [
        (await scores_of("llama", "taylor", windows=windows))["scores"] for windows in (1, 4)
    ]
    name = "model.layers.0.mlp.up_proj"
    assert (all_four.weights[name] >= one.weights[name]).all()
    assert not torch.equal(all_four.weights[name], one.weights[name])


async def test_a_profile_of_another_model_is_refused() -> None:
    ctx = await scored("llama")
    other = calibrated(tiny_checkpoint("phi3"))
    with pytest.raises(LinkError, match=r"layer '.*' is not in the profile; put profile"):
        await run(score(), {**ctx, "checkpoint": other["checkpoint"]})


async def test_a_hessian_that_cannot_be_factorised_names_its_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(gram: Any) -> None:
        raise SolverError("not positive definite")

    monkeypatch.setitem(score.function.__globals__, "factorize", refuse)
    with pytest.raises(LinkError, match=r"layer 'model\.layers\.0\.\S+': not positive definite"):
        await scores_of("llama", "sparsegpt")


class Unreadable(InMemory):
    """A tensor that must not be asked for."""

    def load(self) -> torch.Tensor:
        raise AssertionError("it was read")


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
async def test_nothing_outside_the_blocks_is_read(method: Any) -> None:
    """Embeddings of a great vocabulary would be most of what scoring holds."""
    ctx = await run(Chain(profile(moments="full")), calibrated(tiny_checkpoint()))
    refs = dict(ctx["checkpoint"].refs)
    outside = [name for name in refs if ".layers." not in name]
    assert len(outside) >= 2
    refs |= {name: Unreadable(refs[name].load()) for name in outside}
    blind = replace(ctx["checkpoint"], refs=refs)
    assert _score(
        blind, ctx["profile"], ctx["calibration"], ScoreSettings(method=method, windows=1)
    ).linears


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("wanda", 20 * 32 * 64),
        ("sparsegpt", 20 * 32 * 64 + 24 * 64**2),
    ],
)
async def test_memory_is_of_the_largest_weight_alone(method: Any, expected: int) -> None:
    asked = score(method=method)
    assert asked.factory.hooks.forecast is not None
    assert (
        asked.factory.hooks.forecast(calibrated(tiny_checkpoint()), asked.settings).memory_bytes
        == expected
    )


async def test_taylor_needs_the_whole_model_and_its_scores() -> None:
    asked, ctx = score(method="taylor"), calibrated(tiny_checkpoint())
    assert asked.factory.hooks.forecast is not None
    need = asked.factory.hooks.forecast(ctx, asked.settings).memory_bytes
    inside = sum(a * b for a, b in (each.shape for each in all_linears(ctx["checkpoint"])))
    assert need > 4 * (ctx["checkpoint"].num_parameters + inside)


async def test_windows_are_for_taylor() -> None:
    with pytest.warns(
        UserWarning, match=r"score\(windows=2\) is not used by method 'magnitude', on"
    ):
        await scores_of("llama", "magnitude", windows=2)
