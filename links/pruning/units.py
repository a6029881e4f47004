"""Pruning to a smaller model: fewer neurons, key/value groups, experts or blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...checkpoints import Checkpoint, ranks
from ...contexts.flow import Pruned, Scored
from ...contexts.layer_errors import error_metrics
from ...contexts.plan import LinearPlan, Plan
from ...engine import announce, in_thread, unfinished
from ...models.blocks.linears import all_linears
from ...models.blocks.skeleton import Skeleton
from ...models.passes.resuming import PassState, Resuming
from ...models.passes.unit_losses import unit_losses
from ...models.units.choose_layers import LayerChoice, choose_layers
from ...models.units.config_keys import UnitKind
from ...models.units.narrowing import Narrowing, narrowing
from ...models.units.remove_experts import ExpertChoice, choose_experts, keep_experts
from ...models.units.remove_layers import keep_layers
from ...models.units.remove_units import hollow_blocks
from ...texts import Windows
from .masks import kept_layers
from .settings import PruneSettings, UnitPattern, warn_of_unused
from .solve_units import Bridging, Removal
from .unit_sizes import layers_left, wanted_size

_MATCHING = 0.5
# The block before a gap corrects the whole error of the blocks removed after it.
_BRIDGED = 1.0
# Tokens that blocks and experts are ranked on: enough to rank them, and each is tried separately.
_CHOICE_TOKENS = 2048
_GRADIENT_WINDOWS = 32


async def remove_units(ctx: Scored, settings: PruneSettings, pattern: UnitPattern) -> Pruned:
    """Remove the least important units of every block, or the least important blocks."""
    warn_of_unused(settings)
    if pattern == "layers":
        return await in_thread(_remove_layers, ctx, settings)
    if pattern == "experts":
        return await in_thread(_remove_experts, ctx, settings)
    return await in_thread(_narrow, ctx, settings, pattern)


def unit_matching(settings: PruneSettings) -> float:
    """The fraction of the upstream error that the remaining weights correct."""
    return _MATCHING if settings.matching is None else settings.matching


def _narrow(ctx: Scored, settings: PruneSettings, kind: UnitKind) -> Pruned:
    checkpoint = ctx["checkpoint"]
    size = wanted_size(checkpoint, kind, settings)
    change = narrowing(checkpoint, kind, size.after)
    matching = unit_matching(settings)
    losses = _losses(ctx, change) if by_loss(checkpoint, settings) else {}
    removal = Removal(change, settings.damping, matching, losses)
    correction = Bridging(settings.damping, matching)
    smaller = hollow_blocks(
        checkpoint,
        ctx["calibration"],
        change,
        removal,
        batch_size=settings.batch_size,
        matched=matching > 0,
        announce=lambda done, total: announce("pruning blocks", done, total),
        correct=correction,
        resuming=Resuming(unfinished(), removal, correction),
    )
    counts = change.before, change.after
    plans = {**removal.plans, **correction.plans}
    plan = Plan("fisher" if losses else "obs", kind, plans, counts, kept_layers(ctx))
    return _pruned(checkpoint, smaller, plan)


def by_loss(checkpoint: Checkpoint, settings: PruneSettings) -> bool:
    """Whether neurons are chosen by the loss, which takes a gradient pass."""
    if settings.pattern != "neurons" or settings.choice != "loss":
        return False
    return all(linear.expert is None for linear in all_linears(checkpoint))


def choosing_windows(windows: Windows) -> Tensor:
    """The windows of the gradient pass, int64 [num_windows, length]."""
    return windows.tokens[:_GRADIENT_WINDOWS]


def _losses(ctx: Scored, change: Narrowing) -> dict[str, Tensor]:
    checkpoint = ctx["checkpoint"]
    tensors = f".{change.output.tensor}"
    names = [linear.name for linear in all_linears(checkpoint) if linear.tensor.endswith(tensors)]
    return unit_losses(
        checkpoint,
        choosing_windows(ctx["calibration"]),
        dict.fromkeys(names, change.output.size // change.before),
        lambda done, total: announce("taking gradients", done, total),
    )


def _remove_layers(ctx: Scored, settings: PruneSettings) -> Pruned:
    checkpoint, windows = ctx["checkpoint"], ctx["calibration"]
    keep = layers_left(checkpoint, settings)
    skeleton = Skeleton(checkpoint)
    matching = unit_matching(settings)
    bridging = Bridging(settings.damping, _BRIDGED)
    correction = Bridging(settings.damping, matching)
    choice = LayerChoice()
    resuming = Resuming(unfinished(), choice, bridging, correction)
    stopped = resuming.load(skeleton.device)

    def tried(done: int, total: int) -> None:
        resuming.save(PassState(0, [], None, {}))
        announce("ranking blocks", done, total)

    kept = ranks.from_first(
        lambda: choose_layers(skeleton, choice_windows(windows), keep, tried, choice)
    )
    shorter = keep_layers(
        checkpoint,
        windows,
        kept,
        bridging,
        correction if matching > 0 else None,
        batch_size=settings.batch_size,
        announce=lambda done, total: announce("refitting blocks", done, total),
        # A pass stopped while ranking has no hidden states.
        begin=stopped if stopped is not None and stopped.hidden else None,
        save=resuming.save,
    )
    resuming.exchange()
    earlier = kept_layers(ctx)
    places = kept if earlier is None else tuple(earlier[place] for place in kept)
    plans = _renamed({**bridging.plans, **correction.plans}, skeleton.path, kept)
    plan = Plan("kl", "layers", plans, (len(skeleton.blocks), keep), places)
    return _pruned(checkpoint, shorter, plan)


def _renamed(
    plans: Mapping[str, LinearPlan], path: str, kept: Sequence[int]
) -> dict[str, LinearPlan]:
    """Plans by the names of the linears after the blocks are renumbered."""
    new = {f"{path}.{old}.": f"{path}.{place}." for place, old in enumerate(kept)}
    return {
        fresh + name.removeprefix(stale): plan
        for name, plan in plans.items()
        for stale, fresh in new.items()
        if name.startswith(stale)
    }


def _remove_experts(ctx: Scored, settings: PruneSettings) -> Pruned:
    checkpoint = ctx["checkpoint"]
    change = wanted_size(checkpoint, "experts", settings)
    choice = ExpertChoice()
    kept = ranks.from_first(
        lambda: choose_experts(
            Skeleton(checkpoint),
            choice_windows(ctx["calibration"]),
            change,
            lambda done, total: announce("ranking experts", done, total),
            choice,
            Resuming(unfinished(), choice),
        )
    )
    smaller = keep_experts(checkpoint, change, kept)
    plan = Plan("load", "experts", {}, (change.before, change.after), kept_layers(ctx))
    return _pruned(checkpoint, smaller, plan)


def choice_windows(windows: Windows) -> Tensor:
    """The few windows that blocks and experts are ranked on, int64 [num_windows, length]."""
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
    """Relative output errors of the refitted linears."""
    return error_metrics({name: plan.relative_error for name, plan in plans.items()})
