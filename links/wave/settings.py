"""The settings of waves."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ...engine import Settings
from ...models.evaluation.footprint import Measure
from .body import Body


class WavesSettings(Settings):
    """The settings of waves."""

    body: Body
    """The chain of one wave, with prune and validate at least; waves sets prune.sparsity and
    multiplies heal.epochs. Scores and profile stay those of the input model unless the body
    computes them again."""

    target: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Fraction of the original model to keep. The last wave removes just enough to reach it, or the
    nearest size for whole units. Without a target the waves go as far as stop_loss allows."""

    of: Measure = "parameters"
    """What target is a fraction of: parameters (without those masked to zero), bytes, or flops per
    token."""

    step: Annotated[float, Field(gt=0, lt=1)] = 0.10
    """Maximum fraction of the remaining model that a wave removes; at least one size down if units
    are coarser than that."""

    stop_loss: Annotated[float, Field(gt=0)] = 0.03
    """Maximum relative rise of perplexity over the original model, all waves together."""

    patience: Annotated[int, Field(ge=1)] = 2
    """Number of reverted waves in a row after which the best model so far is returned."""

    regrow: Annotated[float, Field(ge=0, le=1)] | None = None
    """Maximum fraction of each linear's existing zeros that may regrow in a wave; no limit by
    default. Removed units never come back."""

    max_waves: Annotated[int, Field(ge=1)] = 20
    """Maximum number of waves, reverted ones included."""
