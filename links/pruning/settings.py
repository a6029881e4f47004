"""The settings of prune, and the two kinds of pattern: masks, and whole units."""

from __future__ import annotations

import warnings
from typing import Annotated, Any, Literal, TypeGuard, get_args

from pydantic import Field

from ...engine import BatchSize, Settings, changed

PruneMethod = Literal["admm", "alps", "sparsegpt", "wanda", "magnitude", "scores"]
UnitPattern = Literal["neurons", "groups", "experts", "layers"]

SPARSITY = 0.5
"""The default: of weights, or of units."""

_RANKING = ("wanda", "magnitude", "scores")


class PruneSettings(Settings):
    """The settings of prune."""

    sparsity: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Fraction to remove, 0.5 by default: for a mask, of the weights of each linear (a pattern n:m
    fixes it, then leave it out); otherwise of the units in every block."""

    pattern: str = "unstructured"
    """unstructured; n:m, which keeps n of every m weights (2:4); neurons of the feed-forward
    layers; groups, key/value heads with their query heads; experts, ranked by the change their
    absence causes; layers, whole blocks, ranked by the KL divergence their absence causes, with the
    block before a gap refitted."""

    choice: Literal["loss", "error"] = "loss"
    """Which neurons stay. loss: those that the loss needs most, by the squared gradient with
    respect to a factor on each (2204.09656), from one gradient pass of the whole model; error:
    those whose outputs the others can replace least (2302.04089), block by block, without
    gradients. Groups, and neurons of experts, are always chosen by error."""

    method: PruneMethod = "admm"
    """For masks: admm (2401.02938), mask and values together in a few iterations; alps
    (2406.07831), the same run to convergence, slower; sparsegpt (2301.00774); wanda (2306.11695);
    magnitude; scores, the per-weight scores of score(per_weight=True)."""

    allocation: Literal["uniform", "load"] = "uniform"
    """For masks: uniform, or load: blocks with more outliers keep more (OWL, 2310.05175)."""

    spread: Annotated[float, Field(ge=0, lt=0.5)] = 0.08
    """Largest deviation of a block's sparsity from the mean with allocation="load"; reduced, with
    a warning, if a sparsity near 0 or 1 leaves less room."""

    damping: Annotated[float, Field(gt=0)] = 0.01
    """Added to the diagonal of the Hessian, relative to its mean."""

    polish: Annotated[int, Field(ge=0)] = 0
    """For masks: steps of conjugate gradients on the least-squares fit of the kept weights."""

    matching: Annotated[float, Field(ge=0, le=1)] | None = None
    """Fraction of the upstream error each linear corrects (0 = none, 1 = all): the error that
    pruning earlier blocks caused (2504.02692). Costs a third run of every block; reduced if there
    are fewer than 20 tokens per input channel. By default 0.5 for admm, alps and smaller models,
    and 0 for the other methods, of which only sparsegpt supports it."""

    regrow: Annotated[float, Field(ge=0, le=1)] | None = None
    """For masks: maximum fraction of each linear's existing zeros that may regrow (1911.11134), the
    most important first, for methods that also solve for values; no limit by default. Zeros that
    may not regrow are kept even if the sparsity asks for fewer."""

    multiple: Annotated[int, Field(ge=1)] | None = None
    """For smaller models: the number of units left is a multiple of this. By default 64 for
    neurons, less in narrow models, and 1 for other units."""

    batch_size: BatchSize = 4
    """Windows per forward pass; halved where the device has no memory left."""


def takes_units(pattern: str) -> TypeGuard[UnitPattern]:
    """Whether a pattern removes whole units instead of single weights."""
    return pattern in get_args(UnitPattern)


def warn_of_unused(settings: PruneSettings) -> None:
    """Warn of settings that differ from their default and that the pattern or method ignores."""
    for name, value in changed(settings).items():
        why = _unused(name, value, settings)
        if why is not None:
            warnings.warn(f"prune({name}={value!r}) is not used: {why}", stacklevel=3)


def _unused(name: str, value: Any, settings: PruneSettings) -> str | None:
    """Why a setting has no effect; None if it has one, or asks for none."""
    if name == "matching" and not value:
        return None
    pattern, method = settings.pattern, settings.method
    if name == "choice" and pattern != "neurons":
        return f"pattern '{pattern}' is chosen otherwise"
    if takes_units(pattern):
        refits = pattern != "experts" or name not in ("damping", "matching")
        return None if refits else "experts are removed without refitting what remains"
    if name == "multiple":
        return f"it counts units, and pattern '{pattern}' leaves a mask"
    if name == "spread" and settings.allocation != "load":
        return f"allocation '{settings.allocation}' gives every block the same sparsity"
    if method in _RANKING and name == "matching":
        return f"method '{method}' does not change the weights it keeps"
    if method in _RANKING and name == "damping" and not settings.polish:
        return f"method '{method}' solves no equations"
    return None
