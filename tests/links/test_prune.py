"""prune: exact sparsity in every linear of every architecture, and nothing else touched."""

import asyncio
import math
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_configs, tiny_windows
from tiny_contexts import block_matrices, calibrated, scored, weight_of
from torch import Tensor, nn

from birdbone.checkpoints import Checkpoint
from birdbone.engine import Chain, run
from birdbone.errors import DataError, LinkError, SettingError, SolverError
from birdbone.links import profile, prune, quantize, score
from birdbone.links.pruning import solve_masks as thinning
from birdbone.models.blocks.linears import Linear, all_linears
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.passes.stacking import stacked
from birdbone.models.planning.memory import pass_bytes
from birdbone.models.reading.opening import as_checkpoint
from birdbone.solvers.gram import Gram
from birdbone.solvers.sparsegpt import prune_sparsegpt

METHODS = ("admm", "alps", "sparsegpt", "wanda", "magnitude", "scores")


def count_zeros(weight: Tensor) -> int:
    """How many weights are exactly zero."""
    return int((weight == 0).sum())


def zeros_wanted(method: str, shape: tuple[int, int], sparsity: float) -> int:
    """Wanda counts row by row, the others over the whole layer."""
    rows, cols = shape
    return rows * round(sparsity * cols) if method == "wanda" else round(sparsity * rows * cols)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("arch", tiny_configs)
async def test_every_linear_loses_exactly_its_share(arch: str, method: str) -> None:
    ctx = await scored(arch)
    after = await run(prune(sparsity=0.4, method=method), ctx)
    for linear in all_linears(ctx["checkpoint"]):
        zeros = count_zeros(weight_of(after["checkpoint"], linear))
        assert zeros == zeros_wanted(method, linear.shape, 0.4), linear.name
        assert after["plan"].linears[linear.name].sparsity == pytest.approx(
            zeros / (linear.shape[0] * linear.shape[1])
        )


@pytest.mark.parametrize("arch", tiny_configs)
async def test_all_weight_matrices_of_blocks_change_and_nothing_else(arch: str) -> None:
    ctx = await scored(arch)
    before, after = ctx["checkpoint"], (await run(prune(sparsity=0.4), ctx))["checkpoint"]
    changed = {name for name in before.refs if after.refs[name] is not before.refs[name]}
    assert changed == block_matrices(before)
    assert after.parent == before.id
    assert {n: (r.shape, r.dtype) for n, r in after.refs.items()} == {
        n: (r.shape, r.dtype) for n, r in before.refs.items()
    }


@pytest.mark.parametrize(
    ("arch", "method"), [(a, "sparsegpt") for a in tiny_configs] + [("llama", m) for m in METHODS]
)
async def test_two_of_every_four_inputs_stay(arch: str, method: str) -> None:
    ctx = await scored(arch)
    after = await run(prune(pattern="2:4", method=method), ctx)
    for linear in all_linears(ctx["checkpoint"]):
        groups = weight_of(after["checkpoint"], linear).unflatten(1, (-1, 4))
        assert ((groups != 0).sum(-1) == 2).all(), linear.name
    assert after["plan"].pattern == "2:4"


async def test_half_goes_where_no_sparsity_is_given() -> None:
    ctx = await scored("llama")
    assert (await run(prune(), ctx))["history"][-1].metrics["linear_sparsity"] == 0.5


async def test_sparsity_zero_changes_no_weight_by_wanda() -> None:
    ctx = await scored("llama")
    after = await run(prune(sparsity=0.0, method="wanda"), ctx)
    assert after["checkpoint"].id == ctx["checkpoint"].id


async def test_scores_decide_which_weights_stay_and_the_rest_keep_their_values() -> None:
    ctx = await scored("llama")
    after = await run(prune(sparsity=0.5, method="scores"), ctx)
    for linear in all_linears(ctx["checkpoint"]):
        dense, light = (weight_of(c, linear) for c in (ctx["checkpoint"], after["checkpoint"]))
        values, kept = ctx["scores"].weights[linear.name], light != 0
        assert values[kept].min() >= values[~kept].max()
        assert torch.equal(light[kept], dense[kept])


async def test_weights_keep_the_dtype_they_are_stored_in() -> None:
    dense = tiny_checkpoint()
    halves = dense.evolve({n: t.bfloat16() for n, t in dense.tensors.items()})
    after = await run(Chain(profile(), score(), prune(sparsity=0.5)), calibrated(halves))
    assert {ref.dtype for ref in after["checkpoint"].refs.values()} == {torch.bfloat16}
    assert after["history"][-1].metrics["linear_sparsity"] == 0.5


def inputs_of(checkpoint: Checkpoint, name: str, tokens: Tensor) -> Tensor:
    """What flows into one ``nn.Linear`` of the whole model: ``[tokens, in_features]``."""
    model = Skeleton(checkpoint).fill()
    seen: list[Tensor] = []
    module = model.get_submodule(name)
    assert isinstance(module, nn.Linear)
    module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(tokens, use_cache=False)
    return seen[0].flatten(0, -2)


async def test_each_block_is_solved_for_what_the_pruned_blocks_before_it_feed_it() -> None:
    dense = tiny_checkpoint(num_hidden_layers=2)
    chain = Chain(profile(), score(), prune(sparsity=0.5, method="sparsegpt", batch_size=4))
    light = (await run(chain, ctx := calibrated(dense)))["checkpoint"]
    first = {n: t for n, t in light.tensors.items() if n.startswith("model.layers.0.")}
    half_way, tokens = dense.evolve(first), ctx["calibration"].tokens
    for linear in (each for each in all_linears(dense) if ".1." in each.name):
        found = weight_of(light, linear)
        weight = weight_of(dense, linear)
        expected, careless = (
            prune_sparsegpt(weight, Gram(rows.T @ rows, len(rows)), sparsity=0.5).weight
            for rows in (inputs_of(each, linear.name, tokens) for each in (half_way, dense))
        )
        # The Gram's sum runs in another order: a few units in the last place.
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
        assert not torch.allclose(found, careless, atol=1e-3)


async def test_the_plan_says_how_far_each_output_moved() -> None:
    ctx = await scored("llama")
    after = await run(prune(sparsity=0.5, matching=0.0), ctx)
    name = "model.layers.0.mlp.up_proj"  # of the first block, whose inputs are the dense ones
    rows = inputs_of(ctx["checkpoint"], name, ctx["calibration"].tokens).double()
    dense, light = (
        ctx_.tensors[f"{name}.weight"].double() for ctx_ in (ctx["checkpoint"], after["checkpoint"])
    )
    error = (rows @ (dense - light).T).square().sum() / (rows @ dense.T).square().sum()
    plan = after["plan"].linears[name]
    assert plan.relative_error == pytest.approx(float(error), rel=1e-4)
    assert plan.damping == 0.01


async def test_allocation_by_load_keeps_the_models_sparsity() -> None:
    ctx = await scored("gemma3")
    after = await run(prune(sparsity=0.5, allocation="load", spread=0.2), ctx)
    shares = {plan.sparsity for plan in after["plan"].linears.values()}
    assert max(shares) - min(shares) > 0.1
    # Each linear is rounded to whole weights; the smallest here has 512.
    assert after["history"][-1].metrics["linear_sparsity"] == pytest.approx(0.5, abs=1e-3)


async def test_a_spread_that_would_empty_a_block_is_narrowed_with_a_warning() -> None:
    ctx = await scored("gemma3")
    link = prune(sparsity=0.9, allocation="load", spread=0.2, method="magnitude")
    with pytest.warns(UserWarning, match=r"prune\(spread=0.2\).*0\.9.*at most 0\.05.*set spread"):
        after = await run(link, ctx)
    assert max(plan.sparsity for plan in after["plan"].linears.values()) < 0.96
    assert after["history"][-1].metrics["linear_sparsity"] == pytest.approx(0.9, abs=1e-3)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"sparsity": 0.5, "pattern": "2:4"}, r"sparsity 0\.5 was given with pattern 2:4"),
    ({"pattern": "4:4"}, r"pattern 4:4 keeps 4 of 4"),
    ({"pattern": "half"}, r"pattern 'half' is not known"),
    ({"pattern": "2:4", "allocation": "load"}, r"use allocation='uniform'"),
    (
        {"pattern": "2:4", "regrow": 0.1},
        r"prune\(regrow=0.1\) cannot limit regrowth.* 'unstructured'",
    ),
    ({"pattern": "neurons", "regrow": 0.1}, r"prune\(regrow=0.1\) is for masks, and .* 'neurons'"),
    (
        {"pattern": "2:5"},
        r"layer 'model\.layers\.0\.self_attn\.q_proj': width 32 .* groups of 5; take a pattern",
    ),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
async def test_settings_that_cannot_work_are_refused_as_soon_as_there_is_a_model(
    settings: dict[str, Any], message: str
) -> None:
    async def hours_of_work(ctx: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError("reached")

    async def give(ctx: dict[str, Any]) -> dict[str, Any]:
        return {**ctx, **calibrated(tiny_checkpoint())}

    with pytest.raises(LinkError, match=message) as caught:
        await run(Chain(give, hours_of_work, prune(**settings)))
    assert caught.value.link == "prune"
    assert isinstance(caught.value.__cause__, SettingError)


@pytest.mark.parametrize("sparsity", [1.0, -0.1, float("nan")])
def test_a_sparsity_out_of_range_is_refused_at_once(sparsity: float) -> None:
    with pytest.raises(SettingError, match=r"prune\(sparsity="):
        prune(sparsity=sparsity)


async def test_scores_must_have_been_kept_for_the_method_that_goes_by_them() -> None:
    chain = Chain(profile(), score(), prune(method="scores"))
    with pytest.raises(LinkError, match=r"use score\(per_weight=True\)"):
        await run(chain, calibrated(tiny_checkpoint()))


@pytest.mark.filterwarnings("ignore:quantize does not quantise")
@pytest.mark.parametrize("asked", [{"method": "rtn", "group_size": 16}, {"method": "nf4"}])
async def test_a_quantised_model_is_refused(asked: Any) -> None:
    wide = calibrated(tiny_checkpoint(hidden_size=64))
    ctx = {**await scored("llama"), **await run(quantize(**asked), wide)}
    with pytest.raises(LinkError, match=r"q_proj' is quantised.*put prune before quantize"):
        await run(prune(), ctx)


async def test_experts_that_saw_few_tokens_borrow_from_their_fellows_and_say_so() -> None:
    ctx = await scored("mixtral")
    few = {**ctx, "calibration": tiny_windows(1, 8)}
    after = await run(prune(sparsity=0.5), few)
    plans = after["plan"].linears
    experts = {name: plan.borrowed_tokens for name, plan in plans.items() if "experts" in name}
    others = {plan.borrowed_tokens for name, plan in plans.items() if "experts" not in name}
    widths = {each.name: each.shape[1] for each in all_linears(ctx["checkpoint"])}
    assert others == {0}
    assert all(0 < borrowed <= widths[name] for name, borrowed in experts.items())
    assert after["history"][-1].metrics["experts_topped_up"] == len(experts)


async def test_a_layer_that_saw_too_few_tokens_is_named() -> None:
    ctx = await scored("llama")
    few = {**ctx, "calibration": tiny_windows(1, 2)}
    with pytest.raises(
        LinkError, match=r"mlp\.down_proj' received 2 .* for \d+ inputs.*more windows"
    ) as caught:
        await run(prune(), few)
    assert isinstance(caught.value.__cause__, DataError)


async def test_a_layer_whose_hessian_cannot_be_factorised_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(gram: Gram, *, damping: float) -> None:
        raise SolverError(f"not positive definite at damping {damping}")

    monkeypatch.setattr(thinning, "PREPARE", {"admm": refuse})
    with pytest.raises(LinkError, match=r"layer 'model\.layers\.0\..*': not positive definite"):
        await run(prune(), await scored("llama"))


class CancelAfter:
    """Cancels the task that runs once a number of blocks are done."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.seen: list[int] = []
        self.loop, self.task = asyncio.get_running_loop(), asyncio.current_task()

    async def before(self, link: Any, ctx: Any, notes: Any) -> None:
        self.task = asyncio.current_task()

    def progress(self, link: Any, progress: Any, notes: Any) -> None:
        self.seen.append(progress.done)
        if progress.done == self.blocks:
            cancelled = asyncio.run_coroutine_threadsafe(self.cancel(), self.loop)
            cancelled.result()

    async def cancel(self) -> None:
        assert self.task is not None
        self.task.cancel()


async def test_cancelling_stops_at_the_next_block_and_leaves_the_context_as_it_was() -> None:
    ctx = await scored("llama")
    before = dict(ctx)
    chain = Chain(prune(sparsity=0.5))
    watcher = CancelAfter(blocks=1)
    chain.use(watcher)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(run(chain, ctx))
    assert watcher.seen == [1]
    assert ctx.keys() == before.keys()
    assert all(ctx[key] is before[key] for key in before)


async def test_the_memory_stated_counts_the_thinned_weights_too() -> None:
    ctx = await scored("gpt_oss")
    link, checkpoint = prune(), ctx["checkpoint"]
    assert link.factory.hooks.forecast is not None
    beyond = link.factory.hooks.forecast(ctx, link.settings).memory_bytes - pass_bytes(
        checkpoint, ctx["calibration"], 4, grams=True, paired=True
    )
    assert beyond == sum(checkpoint.refs[name].num_bytes for name in block_matrices(checkpoint))


@pytest.mark.parametrize("regrow", [None, 0.0, 0.001])
async def test_no_more_zeros_come_back_than_regrow_says(regrow: float | None) -> None:
    once = await run(prune(sparsity=0.4), await scored("llama"))
    after = await run(prune(sparsity=0.5, matching=1.0, polish=2, regrow=regrow), once)
    back, bounds, before = 0, [], 0
    for linear in all_linears(once["checkpoint"]):
        old, new = (weight_of(ctx["checkpoint"], linear) for ctx in (once, after))
        zeros, woken = int((old == 0).sum()), int(((old == 0) & (new != 0)).sum())
        assert after["plan"].linears[linear.name].zeros_before == zeros
        assert after["plan"].linears[linear.name].regrown == woken
        bounds.append(woken <= math.floor((1.0 if regrow is None else regrow) * zeros))
        back, before = back + woken, before + zeros
    assert all(bounds)
    metrics = after["history"][-1].metrics
    assert (metrics["zeros_before"], metrics["regrown"]) == (before, back)
    assert metrics["linear_sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert (back > 0) == (regrow is None)


@pytest.mark.parametrize("regrow", [-0.1, 1.5, float("nan")])
def test_a_regrow_that_is_no_share_is_refused_at_once(regrow: float) -> None:
    with pytest.raises(SettingError, match=r"prune\(regrow="):
        prune(regrow=regrow)


async def test_embeddings_stay_tied_and_counted_once() -> None:
    ctx = await scored("llama_tied")
    after = (await run(prune(sparsity=0.5), ctx))["checkpoint"]
    assert "lm_head.weight" not in after.refs
    assert after.num_parameters == ctx["checkpoint"].num_parameters
    model = Skeleton(after).fill()
    assert as_checkpoint(model).num_parameters == after.num_parameters


async def test_matching_answers_for_what_earlier_blocks_changed() -> None:
    ctx = await scored("llama")
    alone, matched = [
        (await run(prune(sparsity=0.6, matching=share), ctx))["checkpoint"] for share in (0.0, 1.0)
    ]
    first = "model.layers.0.self_attn.q_proj.weight"
    later = "model.layers.2.self_attn.q_proj.weight"
    assert torch.equal(alone.tensors[first], matched.tensors[first])
    assert not torch.equal(alone.tensors[later], matched.tensors[later])


async def test_matching_is_half_where_none_is_given_and_none_for_a_baseline() -> None:
    ctx = await scored("llama")
    for method, share in (("admm", 0.5), ("sparsegpt", 0.0)):
        default, said = [
            await run(prune(sparsity=0.5, method=method, **given), ctx)
            for given in ({}, {"matching": share})
        ]
        assert default["checkpoint"].id == said["checkpoint"].id


async def test_matching_that_cannot_be_used_is_said() -> None:
    ctx = await scored("llama")
    with pytest.warns(UserWarning, match=r"prune\(matching=0.5\) is not used: method 'wanda'"):
        await run(prune(sparsity=0.5, method="wanda", matching=0.5), ctx)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
async def test_polish_keeps_the_mask_and_lowers_every_error(method: str) -> None:
    ctx = await scored("llama")
    bare, polished = [
        await run(prune(sparsity=0.5, method=method, polish=steps), ctx) for steps in (0, 5)
    ]
    for linear in all_linears(ctx["checkpoint"]):
        if ".0." not in linear.name:
            continue  # later blocks are fed by other blocks before them
        before, after = (weight_of(each["checkpoint"], linear) for each in (bare, polished))
        assert torch.equal(before == 0, after == 0), linear.name
        errors = [each["plan"].linears[linear.name].relative_error for each in (bare, polished)]
        assert errors[1] < errors[0]


async def test_linears_on_one_input_are_solved_as_one_and_each_to_its_share() -> None:
    ctx = await scored("llama")
    solved: list[tuple[int, ...]] = []

    def watch(weight: Tensor, gram: Gram, *, heights: tuple[int, ...], **asked: Any) -> Any:
        solved.append(tuple(heights))
        return prune_sparsegpt(weight, gram, heights=heights, **{**asked, "factor": None})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thinning, "PRUNERS", {"sparsegpt": watch})
        await run(prune(sparsity=0.5, method="sparsegpt"), ctx)
    per_block = len(solved) // 3
    assert sorted(len(heights) for heights in solved[:per_block]) == [1, 1, 2, 3]


def test_the_linear_that_is_not_finite_is_named_though_it_is_stacked() -> None:
    fine, broken = Linear("layers.0.k.weight", (2, 4)), Linear("layers.0.v.weight", (3, 4))
    weights = [(fine, torch.ones(2, 4)), (broken, torch.full((3, 4), float("nan")))]
    with pytest.raises(SolverError, match=r"layer 'layers.0.v': weight .* holds 12 NaN"):
        stacked(weights)
