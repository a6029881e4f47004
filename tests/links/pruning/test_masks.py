"""Pruning to a mask: the sparsity of each linear, what is refused, and what is reported."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_checkpoint
from tiny_contexts import scored, weight_of
from tiny_folders import quantized

from birdbone.contexts.plan import Plan
from birdbone.contexts.scores import LinearScore, Scores
from birdbone.engine import run
from birdbone.errors import LinkError, SettingError
from birdbone.links import prune
from birdbone.links.pruning.masks import (
    by_load,
    check_mask,
    kept_layers,
    mask_matching,
    require_floats,
    uniform,
)
from birdbone.links.pruning.settings import PruneSettings
from birdbone.models.blocks.linears import all_linears


def scores_with(outliers: dict[str, tuple[float, int]]) -> Scores:
    """Scores of linears with these outlier shares and sizes."""
    linears = {name: LinearScore(1.0, share, size) for name, (share, size) in outliers.items()}
    return Scores("wanda", linears, ())


UNEVEN = scores_with(
    {
        "layers.0.up": (0.01, 100),
        "layers.0.down": (0.03, 300),
        "layers.1.up": (0.2, 50),
        "layers.2.up": (0.0, 1000),
    }
)


@pytest.mark.parametrize("mean", [0.08, 0.5, 0.9])
def test_load_keeps_the_mean(mean: float) -> None:
    allocate = by_load(UNEVEN, 0.08)
    sizes = {name: each.num_weights for name, each in UNEVEN.linears.items()}
    removed = sum(allocate(name, mean) * size for name, size in sizes.items())
    assert removed / sum(sizes.values()) == pytest.approx(mean, abs=1e-12)


def test_less_where_outliers_are() -> None:
    allocate = by_load(UNEVEN, 0.08)
    shares = [allocate(name, 0.5) for name in ("layers.1.up", "layers.0.up", "layers.2.up")]
    assert shares == sorted(shares)
    assert shares[0] == pytest.approx(0.42)
    assert max(abs(share - 0.5) for share in shares) == pytest.approx(0.08)
    assert allocate("layers.0.up", 0.5) == allocate("layers.0.down", 0.5)


def test_differences_of_rounding() -> None:
    near = {"layers.0.up": (0.1, 3), "layers.1.up": (0.1 + 1e-16, 7), "layers.2.up": (0.1, 11)}
    allocate = by_load(scores_with(near), 0.08)
    assert [allocate(name, 0.5) for name in near] == [0.5, 0.5, 0.5]
    assert uniform("layers.0.up", 0.3) == 0.3


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 999)), min_size=1, max_size=6),
    st.floats(0.01, 0.99),
    st.floats(0, 1),
)
def test_load_is_a_mean_with_bounds(
    blocks: list[tuple[float, int]], mean: float, fraction: float
) -> None:
    """Whatever the outliers: the mean is kept, and no block differs by more than the spread."""
    spread = fraction * min(mean, 1 - mean)
    found = scores_with({f"layers.{place}.up": each for place, each in enumerate(blocks)})
    allocate = by_load(found, spread)
    sparsities = {name: allocate(name, mean) for name in found.linears}
    removed = sum(sparsities[name] * each.num_weights for name, each in found.linears.items())
    total = sum(each.num_weights for each in found.linears.values())
    assert removed / total == pytest.approx(mean, abs=1e-6)
    assert all(0 <= each <= 1 for each in sparsities.values())
    assert max(abs(each - mean) for each in sparsities.values()) <= spread + 1e-9


@pytest.mark.parametrize(
    ("method", "given_value", "used"),
    [
        ("admm", None, 0.5),
        ("alps", None, 0.5),
        ("sparsegpt", None, 0.0),
        ("sparsegpt", 0.25, 0.25),
        ("admm", 0.0, 0.0),
        ("wanda", None, 0.0),
        ("magnitude", 0.5, 0.0),
        ("scores", 1.0, 0.0),
    ],
)
def test_matching(method: Any, given_value: float | None, used: float) -> None:
    assert mask_matching(PruneSettings(method=method, matching=given_value)) == used


def test_layers_that_were_removed_before() -> None:
    ctx: Any = {"plan": Plan("kl", "layers", {}, (3, 2), (0, 2))}
    assert kept_layers(ctx) == (0, 2)
    nothing: Any = {}
    assert kept_layers(nothing) is None


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"pattern": "2:4", "sparsity": 0.4}, r"sparsity 0\.4 was given with pattern 2:4"),
        ({"pattern": "2:4", "allocation": "load"}, r"which pattern 2:4 fixes; use allocation='un"),
        ({"pattern": "2:4", "regrow": 0.5}, r"prune\(regrow=0\.5\) cannot limit regrowth, which p"),
        ({"pattern": "two"}, "pattern 'two' is not known; write 'unstructured', or n:m"),
        ({"pattern": "3:5"}, r"layer 'model\.layers\.0\.self_attn\.q_proj': .*5"),
    ],
)
def test_refused(given_settings: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        check_mask({"checkpoint": tiny_checkpoint()}, PruneSettings(**given_settings))


def test_scores_must_have_been_kept() -> None:
    with pytest.raises(
        SettingError, match=r"needs per-weight scores; use score\(per_weight=True\)"
    ):
        check_mask({"scores": UNEVEN}, PruneSettings(method="scores"))
    check_mask({}, PruneSettings(method="scores"))  # score may still run


def test_quantised_already() -> None:
    with pytest.raises(SettingError, match=r"q_proj' is quantised, and .*; put prune before quant"):
        require_floats(quantized(tiny_checkpoint()))
    require_floats(tiny_checkpoint())


async def test_scores_of_another_model() -> None:
    """Names may be the same where sizes are not."""
    ctx = await scored("llama")
    other = tiny_checkpoint(intermediate_size=48)
    with pytest.raises(LinkError, match=r"computed on a model of other sizes; put profile\(\) and"):
        await run(prune(method="scores"), {**ctx, "checkpoint": other, "dense": other})


async def test_the_summary() -> None:
    ctx = await scored("llama")
    after = await run(prune(sparsity=0.25, method="wanda"), ctx)
    again = await run(prune(sparsity=0.5, method="wanda"), after)
    metrics = again["history"][-1].metrics
    linears = all_linears(ctx["checkpoint"])
    weights = [weight_of(again["checkpoint"], each) for each in linears]
    total = sum(each.numel() for each in weights)
    zeros = sum(int((each == 0).sum()) for each in weights)
    assert metrics["linear_sparsity"] == pytest.approx(zeros / total)
    assert metrics["zeros_before"] == pytest.approx(total / 4, rel=1e-3)
    assert (metrics["regrown"], metrics["dampings_raised"], metrics["experts_topped_up"]) == (
        0,
    ) * 3
    assert metrics["worst_layer"] in again["plan"].linears
    assert str(again["plan"].pattern) == "unstructured"
