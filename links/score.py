"""score: the importance of every weight, averaged per linear and per block."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..checkpoints import Checkpoint, ranks
from ..contexts.flow import Partial, Profiled, Scoring
from ..contexts.forecast import Forecast
from ..contexts.profile import LinearProfile, Profile
from ..contexts.scores import LinearScore, Scores
from ..engine import Settings, announce, changed, in_thread, link
from ..errors import SettingError, SolverError
from ..models.blocks.linears import Linear, all_linears, linears_by_block, named
from ..models.passes.taylor import taylor_scores
from ..models.planning.effort import GRADIENT_PASSES, num_blocks
from ..models.planning.memory import factor_bytes, gradient_bytes
from ..solvers.factor import factorize
from ..solvers.gram import Gram
from ..solvers.saliency import magnitude_saliency, obs_saliency
from ..texts import Windows

_OUTLIER = 5.0  # times the linear's mean score, as OWL (2310.05175) counts outliers

_NONE = torch.empty(0)

_COPIES = 5  # of a weight in float32: it, its scores, those before it, and what they pass through

ScoreMethod = Literal["magnitude", "wanda", "sparsegpt", "taylor"]


class ScoreSettings(Settings):
    """The settings of score."""

    method: ScoreMethod = "wanda"
    """magnitude, |w|; wanda, |w| times the norm of its input (2306.11695); sparsegpt, the OBS
    saliency w^2 / U_jj^2 (2301.00774), from a profile with full moments; taylor, the first-order
    change of the loss |w dL/dw| (1906.10771), from gradients."""

    per_weight: bool = False
    """Also keep the score of every weight in the context, 4 bytes per weight, for
    prune(method="scores")."""

    windows: Annotated[int, Field(ge=1)] = 16
    """Number of calibration windows that taylor computes gradients on."""


@link(ScoreSettings)
async def score(ctx: Profiled, settings: ScoreSettings) -> Scoring:
    """Score the importance of every weight and average the scores per linear and per block."""
    if "windows" in changed(settings) and settings.method != "taylor":
        warnings.warn(
            f"score(windows={settings.windows}) is not used by method '{settings.method}', only by "
            f"'taylor'",
            stacklevel=2,
        )
    found = await in_thread(_score, ctx["checkpoint"], ctx["profile"], ctx["calibration"], settings)
    loads = {name: each.load for name, each in found.linears.items()}
    return {
        "scores": found,
        "metrics": {
            "most_loaded": max(loads, key=loads.__getitem__),
            "least_loaded": min(loads, key=loads.__getitem__),
        },
    }


def _score(
    checkpoint: Checkpoint,
    profile: Profile,
    calibration: Windows,
    settings: ScoreSettings,
) -> Scores:
    own: dict[str, tuple[float, float, Tensor]] = {}
    for linear, values in _weight_scores(checkpoint, profile, calibration, settings):
        mean = values.mean(dtype=torch.float64)
        outside = int((values > _OUTLIER * mean).count_nonzero()) / values.numel()
        weights = values.float().cpu() if settings.per_weight else _NONE
        own[linear.name] = float(mean), outside, weights
    found = ranks.merged(own)
    blocks = enumerate(linears_by_block(checkpoint))
    every = [(index, each) for index, block in blocks for each in block]
    means = {each.name: found[each.name][0] for _, each in every}
    outliers = {each.name: found[each.name][1] for _, each in every}
    sizes = {each.name: each.shape[0] * each.shape[1] for _, each in every}
    block_of = {each.name: index for index, each in every}
    kept = {each.name: found[each.name][2] for _, each in every} if settings.per_weight else {}
    total = sum(sizes.values())
    average = sum(means[name] * sizes[name] for name in means) / total or 1.0
    linears = {
        name: LinearScore(means[name] / average, outliers[name], sizes[name]) for name in means
    }
    return Scores(settings.method, linears, _block_loads(linears, block_of), kept)


def _block_loads(linears: dict[str, LinearScore], block_of: dict[str, int]) -> tuple[float, ...]:
    loads = []
    for index in range(max(block_of.values()) + 1):
        inside = [linears[name] for name, place in block_of.items() if place == index]
        weights = sum(each.num_weights for each in inside)
        loads.append(sum(each.load * each.num_weights for each in inside) / weights)
    return tuple(loads)


def _weight_scores(
    checkpoint: Checkpoint, profile: Profile, calibration: Windows, settings: ScoreSettings
) -> Iterator[tuple[Linear, Tensor]]:
    """Scores ``[out_features, in_features]`` of this rank's part of the linears, one at a time."""
    blocks = linears_by_block(checkpoint)
    gradients: dict[str, Tensor] = {}
    if settings.method == "taylor":
        tokens = calibration.tokens[: settings.windows]
        gradients = taylor_scores(
            checkpoint, tokens, lambda done, total: announce("taking gradients", done, total)
        )
    for index, linears in enumerate(blocks):
        for linear in linears[ranks.rank() :: ranks.size()]:
            stored = gradients.get(linear.tensor)
            if stored is None:
                weight = linear.view(checkpoint.tensors[linear.tensor]).float()
                yield linear, _saliency(weight, linear, profile, settings.method)
            else:
                yield linear, linear.view(stored)
        announce("scoring blocks", index + 1, len(blocks))


def _saliency(weight: Tensor, linear: Linear, profile: Profile, method: ScoreMethod) -> Tensor:
    seen = profile.linears.get(linear.name)
    if seen is None:
        raise SettingError(
            f"layer '{linear.name}' is not in the profile; put profile() before this score()"
        )
    if method == "magnitude":
        return magnitude_saliency(weight)
    if method == "wanda":
        return magnitude_saliency(weight) * seen.mean_square.sqrt()
    return _obs(weight, linear, seen)


def _obs(weight: Tensor, linear: Linear, seen: LinearProfile) -> Tensor:
    gram = Gram(seen.second_moment * seen.num_tokens, seen.num_tokens)
    try:
        return obs_saliency(weight, factorize(gram))
    except SolverError as error:
        raise named(linear, error) from error


@score.on_every_rank
def _on_every_rank(settings: ScoreSettings) -> bool:
    """The linears are divided, and the windows of taylor."""
    return True


@score.check
def _check(ctx: Partial, settings: ScoreSettings) -> None:
    """The sparsegpt score needs full second moments."""
    if "profile" not in ctx or settings.method != "sparsegpt":
        return
    if any(each.second_moment.ndim != 2 for each in ctx["profile"].linears.values()):
        raise SettingError(
            "score(method='sparsegpt') needs full second moments; use profile(moments='full')"
        )


@score.forecast
def _forecast(ctx: Profiled, settings: ScoreSettings) -> Forecast:
    """Reading every weight; for taylor also gradients, a forward and two backward passes."""
    checkpoint = ctx["checkpoint"]
    linears, blocks = all_linears(checkpoint), num_blocks(checkpoint)
    kept = {each.name: torch.empty(each.shape, device="meta") for each in linears}
    found = Scores(
        settings.method,
        {each.name: LinearScore(1.0, 0.0, each.shape[0] * each.shape[1]) for each in linears},
        (1.0,) * blocks,
        kept if settings.per_weight else {},
    )
    windows = min(settings.windows, ctx["calibration"].num_windows)
    passes = GRADIENT_PASSES * windows if settings.method == "taylor" else 0
    return Forecast(
        adds={"scores": found},
        block_passes=passes * blocks,
        head_passes=passes,
        solves=blocks if settings.method == "sparsegpt" else 0,
        moved_bytes=8 * checkpoint.num_parameters,
        memory_bytes=_memory_bytes(ctx, settings.method),
    )


def _memory_bytes(ctx: Profiled, method: ScoreMethod) -> int:
    """The largest weight and its scores; for taylor all weights and scores, and one window."""
    checkpoint = ctx["checkpoint"]
    shapes = [each.shape for each in all_linears(checkpoint)]
    weights = [rows * columns for rows, columns in shapes]
    one = 4 * _COPIES * max(weights)
    if method == "sparsegpt":
        return one + factor_bytes(max(columns for _, columns in shapes))
    if method != "taylor":
        return one
    return gradient_bytes(checkpoint, ctx["calibration"]) + 4 * sum(weights) + one
