"""The patterns of prune that leave a mask: single weights, or n kept of every m of them.

How much of each linear goes: the same of all, or less where the load is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ...checkpoints import Checkpoint, Coded
from ...contexts.flow import Pruned, Scored
from ...contexts.forecast import Forecast
from ...contexts.plan import LinearPlan, Plan
from ...contexts.scores import Scores
from ...engine import announce, in_thread, unfinished
from ...errors import SettingError
from ...models.blocks.linears import all_linears, named
from ...models.passes.resuming import Resuming
from ...models.passes.rewriting import rewrite_blocks
from ...models.planning.effort import SolverWork, remade, rewriting
from ...models.planning.memory import pass_bytes
from ...models.planning.outline import exchanged
from ...solvers.masks import Pattern, require_groups_of, require_sparsity
from ...texts import Windows
from .solve_masks import Method, Thinning

# Measured best of 0 and 0.5 on whole models; sparsegpt is left as published.
_MATCHING = 0.5

_WORK = {
    "admm": SolverWork(0.6, 9.0),
    "alps": SolverWork(1.0, 110.0),
    "sparsegpt": SolverWork(1.0, 4.0),
}
_RANKED = SolverWork(0.0, 3.0)  # methods that only rank weights


async def mask(
    ctx: Scored,
    *,
    sparsity: float | None,
    pattern: str,
    method: Method,
    allocation: Literal["uniform", "load"],
    spread: float,
    damping: float,
    polish: int,
    matching: float | None,
    regrow: float | None,
    batch_size: int,
) -> Pruned:
    """Zero the weights that carry least; the settings are prune's."""
    wanted = Pattern.parse(pattern)
    matched = _matching(method, matching)
    if matching and not matched:
        warnings.warn(
            f"prune(matching={matching}) is not used: method '{method}' changes no weight that "
            f"stays",
            stacklevel=2,
        )
    checkpoint, scores = ctx["checkpoint"], ctx["scores"]
    if method == "scores" or allocation == "load":
        _check_scores(checkpoint, scores)
    share = 0.5 if sparsity is None and wanted.n_of_m is None else sparsity
    mean = require_sparsity(share, wanted)
    allocate: Allocate = uniform
    if allocation == "load":
        allocate = by_load(scores, _fitting_spread(spread, mean))
    thinning = Thinning(
        method=method,
        pattern=wanted,
        shares={each.name: allocate(each.name, mean) for each in all_linears(checkpoint)},
        scores=scores,
        damping=damping,
        polish=polish,
        matching=matched,
        regrow=1.0 if regrow is None else regrow,
    )
    fresh = await in_thread(
        rewrite_blocks,
        checkpoint,
        ctx["calibration"],
        thinning,
        batch_size=batch_size,
        paired=matched > 0,
        resuming=Resuming(unfinished(), thinning),
        announce=lambda done, total: announce("pruning blocks", done, total),
    )
    return {
        "checkpoint": checkpoint.evolve(fresh),
        "plan": Plan(method, str(wanted), thinning.plans, kept_layers=kept_layers(ctx)),
        "metrics": _summary(thinning.plans, checkpoint, damping),
    }


def _matching(method: Method, given: float | None) -> float:
    """The share asked for, or what suits the method; none where no value is solved for."""
    if given is None:
        return _MATCHING if method in ("admm", "alps") else 0.0
    return given if method in ("admm", "alps", "sparsegpt") else 0.0


def _fitting_spread(spread: float, mean: float) -> float:
    """The spread, narrowed where it would lead below none of a linear or to all of it."""
    widest = min(mean, (1 - mean) / 2)
    if spread <= widest:
        return spread
    warnings.warn(
        f"prune(spread={spread}): around sparsity {mean} blocks may differ by {widest:.3g} at "
        f"most, which is used; set spread to that or less",
        stacklevel=2,
    )
    return widest


def kept_layers(ctx: Scored) -> tuple[int, ...] | None:
    """Which of the dense model's blocks earlier pruning left; later pruning must not forget."""
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
        "mean_relative_error": sum(errors.values()) / len(errors),
        "worst_layer": max(errors, key=errors.__getitem__),
        "worst_relative_error": max(errors.values()),
        "experts_topped_up": sum(plan.borrowed_tokens > 0 for plan in plans.values()),
        "dampings_raised": sum((plan.damping or 0.0) > damping for plan in plans.values()),
        "zeros_before": sum(plan.zeros_before for plan in plans.values()),
        "regrown": sum(plan.regrown for plan in plans.values()),
    }


def check_mask(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Settings that contradict each other or the model's widths are refused before any work."""
    pattern = Pattern.parse(settings["pattern"])
    if pattern.n_of_m is not None:
        require_sparsity(settings["sparsity"], pattern)
        if settings["allocation"] == "load":
            raise SettingError(
                f"prune(allocation='load') cannot vary sparsity, which pattern {pattern} fixes; "
                f"use allocation='uniform'"
            )
        if settings["regrow"] is not None:
            raise SettingError(
                f"prune(regrow={settings['regrow']}) cannot say which zeros come back, where "
                f"pattern {pattern} does; leave it out, or take pattern 'unstructured'"
            )
    scores: Scores | None = ctx.get("scores")
    if settings["method"] == "scores" and scores is not None and not scores.weights:
        raise SettingError(
            "prune(method='scores') needs every weight's score; use score(per_weight=True)"
        )
    checkpoint: Checkpoint | None = ctx.get("checkpoint")
    if checkpoint is not None:
        _check_linears(checkpoint, 1 if pattern.n_of_m is None else pattern.n_of_m[1])


def _check_scores(checkpoint: Checkpoint, scores: Scores) -> None:
    """Scores taken before whole units went speak of other weights by the same names.

    Not foreseen, since score may yet run again.
    """
    sizes = {each.name: each.shape[0] * each.shape[1] for each in all_linears(checkpoint)}
    if sizes != {name: score.num_weights for name, score in scores.linears.items()}:
        raise SettingError(
            "the scores are of a model of other sizes than it now has; put profile() and score() "
            "before this prune"
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


def mask_bytes(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    """The pass, and the thinned weights, which stay in memory until the last block is done."""
    checkpoint: Checkpoint = ctx["checkpoint"]
    windows: Windows = ctx["calibration"]
    thinned = sum(each.shape[0] * each.shape[1] for each in all_linears(checkpoint))
    kept = thinned * checkpoint.num_bytes // checkpoint.num_parameters
    paired = _matching(settings["method"], settings["matching"]) > 0
    return kept + pass_bytes(checkpoint, windows, settings["batch_size"], grams=True, paired=paired)


def mask_forecast(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> Forecast:
    """One pass, its solver's work in factorisations, and every linear new."""
    checkpoint: Checkpoint = ctx["checkpoint"]
    paired = _matching(settings["method"], settings["matching"]) > 0
    solver = _WORK.get(settings["method"], _RANKED)
    light = exchanged(checkpoint, remade(checkpoint, all_linears(checkpoint)))
    return Forecast(
        adds={"checkpoint": light, "plan": Plan(settings["method"], settings["pattern"], {})},
        **rewriting(checkpoint, ctx["calibration"], paired=paired, solver=solver),
    )


Allocate = Callable[[str, float], float]

# Outlier shares nearer than this are equal but for rounding, which must not be blown up to spread.
_NO_DIFFERENCE = 1e-9


def uniform(name: str, mean: float) -> float:
    """The same share of every linear."""
    return mean


def by_load(scores: Scores, spread: float) -> Allocate:
    """Shares that fall with a block's outliers, their mean over all weights kept (OWL).

    The block whose outlier share lies farthest from the mean of all differs from the mean sparsity
    by ``spread``, the others in proportion (https://arxiv.org/abs/2310.05175, eq. 3); all linears
    of a block get one share. ``spread`` must be no more than the mean sparsity asked for and no
    more than what is left to 1: a share cut off there would move the mean.
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
        share = mean - spread * (ratio[_block(name)] - centre) / widest
        return min(max(share, 0.0), 1.0)  # against rounding alone, see above

    return allocate


def _block(name: str) -> str:
    """The block a linear belongs to: its name up to the first number."""
    parts = name.split(".")
    first = next(place for place, part in enumerate(parts) if part.isdigit())
    return ".".join(parts[: first + 1])
