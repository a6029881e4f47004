"""prune: thin every linear of every block, each judged on what the thinner prefix feeds it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from ..checkpoints import BitsAndBytes, Checkpoint, Quantized
from ..contexts.flow import Pruned, Scored
from ..contexts.plan import LinearPlan, Plan
from ..contexts.scores import Scores
from ..engine import announce, in_thread, link
from ..errors import SettingError, SolverError
from ..models.linears import Linear, all_linears, named
from ..models.memory import pass_bytes
from ..models.rewriting import rewrite_blocks
from ..solvers.factor import Factor, factorize
from ..solvers.gram import Gram
from ..solvers.masks import Pattern, pattern_mask, require_groups_of, require_sparsity
from ..solvers.output_error import relative_output_error
from ..solvers.results import Pruned as Thinned
from ..solvers.table import PRUNERS, USES_FACTOR
from ..texts import Windows
from .allocation import Allocate, by_load, uniform

Method = Literal["sparsegpt", "wanda", "magnitude", "scores"]


@link
async def prune(
    ctx: Scored,
    *,
    sparsity: Annotated[float, Field(ge=0, lt=1)] | None = None,
    pattern: str = "unstructured",
    method: Method = "sparsegpt",
    allocation: Literal["uniform", "load"] = "uniform",
    spread: Annotated[float, Field(ge=0, lt=0.5)] = 0.08,
    damping: Annotated[float, Field(gt=0)] = 0.01,
    batch_size: Annotated[int, Field(ge=1)] = 4,
) -> Pruned:
    """Zero the weights that carry least and let those that stay make up for them.

    The result is a mask: zeros in dense tensors, neither fewer bytes nor more speed by itself.

    Settings:
        sparsity: share of each linear's weights to remove; 0.5 where none is given. A pattern
            n:m fixes it, and then none may be given.
        pattern: unstructured, or n:m, n kept of every m: 2:4.
        method: sparsegpt (2301.00774), wanda (2306.11695), magnitude, or scores, by the
            per-weight scores score(per_weight=True) left.
        allocation: uniform, or load: blocks that carry more outliers keep more (2310.05175).
        spread: the most a block's sparsity may differ from the mean with allocation="load";
            narrowed, with a warning, where a sparsity near 0 or 1 leaves less room.
        damping: what sparsegpt adds to the Hessian, relative to its mean diagonal.
        batch_size: windows per forward.
    """
    wanted = Pattern.parse(pattern)
    checkpoint, scores = ctx["checkpoint"], ctx["scores"]
    share = 0.5 if sparsity is None and wanted.n_of_m is None else sparsity
    mean = require_sparsity(share, wanted)
    allocate: Allocate = uniform
    if allocation == "load":
        allocate = by_load(scores, _fitting_spread(spread, mean))
    shares = {name: allocate(name, mean) for name in scores.linears}
    plans: dict[str, LinearPlan] = {}

    def solve(weights: Sequence[tuple[Linear, Tensor]], gram: Gram) -> Mapping[Linear, Tensor]:
        solved = {}
        factor: Factor | None = None
        for linear, weight in weights:
            given = shares[linear.name] if wanted.n_of_m is None else None
            try:
                if method in USES_FACTOR:
                    factor = factor or factorize(gram, damping=damping)
                if method == "scores":
                    thinned = _by_scores(scores, linear, weight, gram, given, wanted)
                else:
                    thinned = PRUNERS[method](
                        weight, gram, sparsity=given, pattern=wanted, factor=factor
                    )
            except SolverError as error:
                raise named(linear, error) from error
            zeros = 1 - float(thinned.mask.double().mean())
            plans[linear.name] = LinearPlan(zeros, thinned.relative_error, thinned.damping)
            solved[linear] = thinned.weight
        return solved

    fresh = await in_thread(
        rewrite_blocks,
        checkpoint,
        ctx["calibration"],
        solve,
        batch_size=batch_size,
        announce=lambda done, total: announce("pruning blocks", done, total),
    )
    return {
        "checkpoint": checkpoint.evolve(fresh),
        "plan": Plan(method, str(wanted), plans),
        "metrics": _summary(plans, scores),
    }


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


def _summary(plans: Mapping[str, LinearPlan], scores: Scores) -> dict[str, Any]:
    sizes = {name: scores.linears[name].num_weights for name in plans}
    removed = sum(plan.sparsity * sizes[name] for name, plan in plans.items())
    errors = {name: plan.relative_error for name, plan in plans.items()}
    return {
        "linear_sparsity": removed / sum(sizes.values()),
        "mean_relative_error": sum(errors.values()) / len(errors),
        "worst_layer": max(errors, key=errors.__getitem__),
        "worst_relative_error": max(errors.values()),
    }


def _by_scores(
    scores: Scores,
    linear: Linear,
    weight: Tensor,
    gram: Gram,
    share: float | None,
    pattern: Pattern,
) -> Thinned:
    """Remove what the score link scored lowest; no remaining weight is changed."""
    values = scores.weights[linear.name].to(weight.device)
    mask = pattern_mask(values, sparsity=share, pattern=pattern)
    thinned = weight.masked_fill(~mask, 0.0)
    return Thinned(thinned, mask, relative_output_error(weight, thinned, gram))


@prune.foresee
def _fits(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Settings that contradict each other or the model's widths are refused before any work."""
    pattern = Pattern.parse(settings["pattern"])
    if pattern.n_of_m is not None:
        require_sparsity(settings["sparsity"], pattern)
        if settings["allocation"] == "load":
            raise SettingError(
                f"prune(allocation='load') cannot vary sparsity, which pattern {pattern} fixes; "
                f"use allocation='uniform'"
            )
    scores: Scores | None = ctx.get("scores")
    if settings["method"] == "scores" and scores is not None and not scores.weights:
        raise SettingError(
            "prune(method='scores') needs every weight's score; use score(per_weight=True)"
        )
    checkpoint: Checkpoint | None = ctx.get("checkpoint")
    if checkpoint is not None:
        _check_linears(checkpoint, 1 if pattern.n_of_m is None else pattern.n_of_m[1])


def _check_linears(checkpoint: Checkpoint, m: int) -> None:
    for linear in all_linears(checkpoint):
        if isinstance(checkpoint.refs[linear.tensor], Quantized | BitsAndBytes):
            raise SettingError(
                f"layer '{linear.name}' is quantised, and pruning would store it as floats "
                f"again; put prune before quantize"
            )
        try:
            require_groups_of(m, linear.shape[1])
        except SettingError as error:
            raise named(linear, error) from error


@prune.memory
def _need(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    """The pass, and the thinned weights, which stay in memory until the last block is done."""
    checkpoint: Checkpoint = ctx["checkpoint"]
    windows: Windows = ctx["calibration"]
    scores: Scores = ctx["scores"]
    thinned = sum(each.num_weights for each in scores.linears.values())
    kept = thinned * checkpoint.num_bytes // checkpoint.num_parameters
    return kept + pass_bytes(checkpoint, windows, settings["batch_size"], grams=True)
