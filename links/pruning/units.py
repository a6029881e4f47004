"""The patterns of prune that leave a smaller model: fewer neurons, groups, experts or blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...checkpoints import Checkpoint
from ...contexts.flow import Pruned, Scored
from ...contexts.forecast import Forecast
from ...contexts.plan import LinearPlan, Plan
from ...engine import announce, in_thread, unfinished
from ...models.blocks.skeleton import Skeleton
from ...models.passes.resuming import Resuming, Standing
from ...models.planning.effort import SolverWork, num_blocks, rewriting
from ...models.planning.memory import pass_bytes
from ...models.planning.outline import outlined
from ...models.units.choose_layers import LayerChoice, choose_layers
from ...models.units.config_keys import Kind
from ...models.units.narrowing import narrowing
from ...models.units.remove_experts import ExpertChoice, choose_experts, keep_experts
from ...models.units.remove_layers import keep_layers, shorter_config
from ...models.units.remove_units import hollow_blocks
from ...texts import Windows
from .masks import kept_layers
from .solve_units import Bridging, Removal
from .unit_sizes import UnitPattern, layers_left, wanted_size

_MATCHING = 0.5
# What blocks that are gone gave is to be given whole.
_BRIDGED = 1.0
# What blocks and experts are chosen on: enough to rank them, and each is tried by itself.
_CHOICE_TOKENS = 2048


@dataclass(frozen=True)
class Hollowing:
    """The settings of prune that concern whole units; its docstring says what they mean."""

    pattern: UnitPattern
    sparsity: float | None
    damping: float
    matching: float | None
    multiple: int | None
    batch_size: int


async def hollow(ctx: Scored, wanted: Hollowing) -> Pruned:
    """Take the units that carry least out."""
    if wanted.pattern == "layers":
        return await in_thread(_shorten, ctx, wanted)
    if wanted.pattern == "experts":
        return await in_thread(_leave_experts, ctx, wanted)
    return await in_thread(_narrow, ctx, wanted, wanted.pattern)


def _narrow(ctx: Scored, wanted: Hollowing, kind: Kind) -> Pruned:
    checkpoint = ctx["checkpoint"]
    size = wanted_size(checkpoint, kind, wanted.sparsity, wanted.multiple)
    change = narrowing(checkpoint, kind, size.after)
    share = _MATCHING if wanted.matching is None else wanted.matching
    removal = Removal(change, wanted.damping, share)
    mending = Bridging(wanted.damping, share)
    smaller = hollow_blocks(
        checkpoint,
        ctx["calibration"],
        change,
        removal,
        batch_size=wanted.batch_size,
        matched=share > 0,
        announce=lambda done, total: announce("hollowing blocks", done, total),
        mend=mending,
        resuming=Resuming(unfinished(), removal, mending),
    )
    counts = change.before, change.after
    plans = {**removal.plans, **mending.plans}
    plan = Plan("obs", kind, plans, counts, kept_layers(ctx))
    return _pruned(checkpoint, smaller, plan)


def _shorten(ctx: Scored, wanted: Hollowing) -> Pruned:
    checkpoint, windows = ctx["checkpoint"], ctx["calibration"]
    keep = layers_left(checkpoint, wanted.sparsity, wanted.multiple)
    skeleton = Skeleton(checkpoint)
    share = _MATCHING if wanted.matching is None else wanted.matching
    bridging, mending = Bridging(wanted.damping, _BRIDGED), Bridging(wanted.damping, share)
    choice = LayerChoice()
    resuming = Resuming(unfinished(), choice, bridging, mending)
    stopped = resuming.load(skeleton.device)

    def left_out(done: int, total: int) -> None:
        resuming.save(Standing(0, [], None, {}))
        announce("leaving blocks out", done, total)

    kept = choose_layers(skeleton, _few(windows), keep, left_out, choice)
    shorter = keep_layers(
        checkpoint,
        windows,
        kept,
        bridging,
        mending if share > 0 else None,
        batch_size=wanted.batch_size,
        announce=lambda done, total: announce("bridging gaps", done, total),
        # A choice that was stopped left no hidden states.
        begin=stopped if stopped is not None and stopped.hidden else None,
        save=resuming.save,
    )
    earlier = kept_layers(ctx)
    places = kept if earlier is None else tuple(earlier[place] for place in kept)
    plans = _renamed({**bridging.plans, **mending.plans}, skeleton.path, kept)
    plan = Plan("kl", "layers", plans, (len(skeleton.blocks), keep), places)
    return _pruned(checkpoint, shorter, plan)


def _renamed(
    plans: Mapping[str, LinearPlan], path: str, kept: Sequence[int]
) -> dict[str, LinearPlan]:
    """Plans by the names that linears have once the blocks are renumbered."""
    new = {f"{path}.{old}.": f"{path}.{place}." for place, old in enumerate(kept)}
    return {
        fresh + name.removeprefix(stale): plan
        for name, plan in plans.items()
        for stale, fresh in new.items()
        if name.startswith(stale)
    }


def _leave_experts(ctx: Scored, wanted: Hollowing) -> Pruned:
    checkpoint = ctx["checkpoint"]
    change = wanted_size(checkpoint, "experts", wanted.sparsity, wanted.multiple)
    choice = ExpertChoice()
    kept = choose_experts(
        Skeleton(checkpoint),
        _few(ctx["calibration"]),
        change,
        lambda done, total: announce("leaving experts out", done, total),
        choice,
        Resuming(unfinished(), choice),
    )
    smaller = keep_experts(checkpoint, change, kept)
    plan = Plan("load", "experts", {}, (change.before, change.after), kept_layers(ctx))
    return _pruned(checkpoint, smaller, plan)


def _few(windows: Windows) -> Tensor:
    return windows.tokens[: max(1, _CHOICE_TOKENS // windows.length)]


def _pruned(checkpoint: Checkpoint, smaller: Checkpoint, plan: Plan) -> Pruned:
    before, after = plan.units or (0, 0)
    return {
        "checkpoint": smaller,
        "plan": plan,
        "metrics": {
            f"{plan.pattern}_before": before,
            f"{plan.pattern}_after": after,
            "parameters_before": checkpoint.num_parameters,
            "parameters_after": smaller.num_parameters,
            "shrinks": after < before,
            **_errors(plan.linears),
        },
    }


def _errors(plans: Mapping[str, LinearPlan]) -> dict[str, Any]:
    """How far outputs moved, of the linears that were refitted."""
    if not plans:
        return {}
    errors = {name: plan.relative_error for name, plan in plans.items()}
    return {
        "mean_relative_error": sum(errors.values()) / len(errors),
        "worst_layer": max(errors, key=errors.__getitem__),
        "worst_relative_error": max(errors.values()),
    }


def hollow_bytes(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    """The pass, and the tensors cut, which stay in memory until the last block is done."""
    checkpoint: Checkpoint = ctx["checkpoint"]
    windows: Windows = ctx["calibration"]
    paired = settings["matching"] != 0
    passed = pass_bytes(checkpoint, windows, settings["batch_size"], grams=True, paired=paired)
    return checkpoint.num_bytes + passed


_WORK = SolverWork(3.0, 0.0)  # of one block


def hollow_forecast(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> Forecast:
    """One pass, and a model of the smaller config; choosing layers or experts tries each once."""
    checkpoint: Checkpoint = ctx["checkpoint"]
    pattern: UnitPattern = settings["pattern"]
    blocks = num_blocks(checkpoint)
    tried = 0.0
    if pattern == "layers":
        keep = layers_left(checkpoint, settings["sparsity"], settings["multiple"])
        config: Mapping[str, Any] = shorter_config(checkpoint, range(keep))
        tried = (blocks - keep) * blocks**2 / 2
    else:
        size = wanted_size(checkpoint, pattern, settings["sparsity"], settings["multiple"])
        config = size.config
        tried = size.before * blocks if pattern == "experts" else 0
    dtype = max((ref.dtype for ref in checkpoint.refs.values()), key=lambda each: each.itemsize)
    work = rewriting(checkpoint, ctx["calibration"], paired=settings["matching"] != 0, solver=_WORK)
    few = len(_few(ctx["calibration"]))
    return Forecast(
        adds={
            "checkpoint": outlined(checkpoint, dtype, held=True, config=config),
            "plan": Plan("obs", pattern, {}),
        },
        **{**work, "block_passes": work["block_passes"] + tried * few},
    )
