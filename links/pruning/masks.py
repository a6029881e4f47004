"""Pruning to a mask: single weights, or n of every m, and the sparsity of each linear."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from ...checkpoints import Checkpoint, Coded
from ...contexts.flow import Partial, Pruned, Scored
from ...contexts.layer_errors import error_metrics
from ...contexts.plan import LinearPlan, Plan
from ...contexts.scores import Scores
from ...engine import announce, in_thread, unfinished
from ...errors import SettingError
from ...models.blocks.linears import all_linears, named
from ...models.passes.resuming import Resuming
from ...models.passes.rewriting import rewrite_blocks
from ...solvers.masks import Pattern, require_groups_of, require_sparsity
from .settings import SPARSITY, PruneSettings, warn_of_unused
from .solve_masks import Thinning

# Measured best of 0 and 0.5 on whole models; sparsegpt is left as published.
_MATCHING = 0.5


async def mask(ctx: Scored, settings: PruneSettings) -> Pruned:
    """Zero the least important weights; block by block, on the inputs of the pruned blocks."""
    pattern, matching = Pattern.parse(settings.pattern), mask_matching(settings)
    warn_of_unused(settings)
    checkpoint, scores = ctx["checkpoint"], ctx["scores"]
    if settings.method == "scores" or settings.allocation == "load":
        _check_scores(checkpoint, scores)
    free = settings.sparsity is None and pattern.n_of_m is None
    mean = require_sparsity(SPARSITY if free else settings.sparsity, pattern)
    allocate: Allocate = uniform
    if settings.allocation == "load":
        allocate = by_load(scores, _fitting_spread(settings.spread, mean))
    thinning = Thinning(
        method=settings.method,
        pattern=pattern,
        sparsities={each.name: allocate(each.name, mean) for each in all_linears(checkpoint)},
        scores=scores,
        damping=settings.damping,
        polish=settings.polish,
        matching=matching,
        regrow=1.0 if settings.regrow is None else settings.regrow,
    )
    fresh = await in_thread(
        rewrite_blocks,
        checkpoint,
        ctx["calibration"],
        thinning,
        batch_size=settings.batch_size,
        paired=matching > 0,
        resuming=Resuming(unfinished(), thinning),
        announce=lambda done, total: announce("pruning blocks", done, total),
    )
    return {
        "checkpoint": checkpoint.evolve(fresh),
        "plan": Plan(settings.method, str(pattern), thinning.plans, kept_layers=kept_layers(ctx)),
        "metrics": _summary(thinning.plans, checkpoint, settings.damping),
    }


def mask_matching(settings: PruneSettings) -> float:
    """The fraction of the upstream error that is corrected; 0 for methods that only rank."""
    if settings.matching is None:
        return _MATCHING if settings.method in ("admm", "alps") else 0.0
    return settings.matching if settings.method in ("admm", "alps", "sparsegpt") else 0.0


def _fitting_spread(spread: float, mean: float) -> float:
    """The spread, reduced if some sparsity would be below 0 or too near 1."""
    widest = min(mean, (1 - mean) / 2)
    if spread <= widest:
        return spread
    warnings.warn(
        f"prune(spread={spread}): around sparsity {mean} blocks may differ by at most "
        f"{widest:.3g}, which is used; set spread to that or less",
        stacklevel=2,
    )
    return widest


def kept_layers(ctx: Scored) -> tuple[int, ...] | None:
    """Indices of the original model's blocks that earlier pruning kept; None if it kept all."""
    earlier = ctx.get("plan")
    return None if earlier is None else earlier.kept_layers


def _summary(
    plans: Mapping[str, LinearPlan], checkpoint: Checkpoint, damping: float
) -> dict[str, Any]:
    sizes = {each.name: each.shape[0] * each.shape[1] for each in all_linears(checkpoint)}
    removed = sum(plan.sparsity * sizes[name] for name, plan in plans.items())
    errors = {name: plan.relative_error for name, plan in plans.items()}
    return {
        "linear_sparsity": removed / sum(sizes.values()),
        **error_metrics(errors),
        "experts_topped_up": sum(plan.borrowed_tokens > 0 for plan in plans.values()),
        "dampings_raised": sum((plan.damping or 0.0) > damping for plan in plans.values()),
        "zeros_before": sum(plan.zeros_before for plan in plans.values()),
        "regrown": sum(plan.regrown for plan in plans.values()),
    }


def check_mask(ctx: Partial, settings: PruneSettings) -> None:
    """Refuse settings that contradict each other or do not fit the model's widths.

    Raises:
        SettingError: naming the setting, or the layer.
    """
    pattern = Pattern.parse(settings.pattern)
    if pattern.n_of_m is not None:
        require_sparsity(settings.sparsity, pattern)
        if settings.allocation == "load":
            raise SettingError(
                f"prune(allocation='load') cannot vary sparsity, which pattern {pattern} fixes; "
                f"use allocation='uniform'"
            )
        if settings.regrow is not None:
            raise SettingError(
                f"prune(regrow={settings.regrow}) cannot limit regrowth, which pattern {pattern} "
                f"determines; leave it out, or use pattern 'unstructured'"
            )
    scores = ctx.get("scores")
    if settings.method == "scores" and scores is not None and not scores.weights:
        raise SettingError(
            "prune(method='scores') needs per-weight scores; use score(per_weight=True)"
        )
    checkpoint = ctx.get("checkpoint")
    if checkpoint is not None:
        _check_linears(checkpoint, 1 if pattern.n_of_m is None else pattern.n_of_m[1])


def _check_scores(checkpoint: Checkpoint, scores: Scores) -> None:
    """Scores computed before units were removed do not match the weights of the same names.

    Not part of the early check, because score may run again before prune.
    """
    sizes = {each.name: each.shape[0] * each.shape[1] for each in all_linears(checkpoint)}
    if sizes != {name: score.num_weights for name, score in scores.linears.items()}:
        raise SettingError(
            "the scores were computed on a model of other sizes; put profile() and score() before "
            "this prune"
        )


def require_floats(checkpoint: Checkpoint) -> None:
    """Refuse a model that is quantised already.

    Raises:
        SettingError: it is, naming the layer.
    """
    for linear in all_linears(checkpoint):
        if isinstance(checkpoint.refs[linear.tensor], Coded):
            raise SettingError(
                f"layer '{linear.name}' is quantised, and pruning would store it as floats "
                f"again; put prune before quantize"
            )


def _check_linears(checkpoint: Checkpoint, m: int) -> None:
    require_floats(checkpoint)
    for linear in all_linears(checkpoint):
        try:
            require_groups_of(m, linear.shape[1])
        except SettingError as error:
            raise named(linear, error) from error


Allocate = Callable[[str, float], float]

# Outlier fractions closer than this differ by rounding alone, which must not be scaled to spread.
_NO_DIFFERENCE = 1e-9


def uniform(name: str, mean: float) -> float:
    """The same sparsity for every linear."""
    return mean


def by_load(scores: Scores, spread: float) -> Allocate:
    """Sparsities that decrease with a block's fraction of outliers, at a given mean (OWL).

    The block whose outlier fraction is farthest from the mean differs from the mean sparsity by
    ``spread``, the others in proportion (https://arxiv.org/abs/2310.05175, eq. 3); all linears of a
    block get the same sparsity. ``spread`` must be at most the mean sparsity and at most one minus
    it: clipping would change the mean.
    """
    outliers: dict[str, list[tuple[float, int]]] = {}
    for name, score in scores.linears.items():
        outliers.setdefault(_block(name), []).append((score.outliers, score.num_weights))
    weights = {block: sum(w for _, w in pairs) for block, pairs in outliers.items()}
    ratio = {b: sum(o * w for o, w in pairs) / weights[b] for b, pairs in outliers.items()}
    centre = sum(ratio[b] * weights[b] for b in ratio) / sum(weights.values())
    widest = max(abs(value - centre) for value in ratio.values())
    if widest <= _NO_DIFFERENCE:
        return uniform

    def allocate(name: str, mean: float) -> float:
        fraction = mean - spread * (ratio[_block(name)] - centre) / widest
        return min(max(fraction, 0.0), 1.0)  # rounding only, see above

    return allocate


def _block(name: str) -> str:
    """The block of a linear: its name up to the first number."""
    parts = name.split(".")
    first = next(place for place, part in enumerate(parts) if part.isdigit())
    return ".".join(parts[: first + 1])
