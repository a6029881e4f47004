"""The verdict: a model compared with the original on held-out text and on text from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from ..texts import Windows
from ..texts.worst_windows import WorstWindow
from .task_scores import Recovery, TaskScores

JUDGED_ON: Mapping[str, str] = MappingProxyType(
    {
        "heldout": "held-out text",
        "elsewhere": "text from elsewhere (not used for calibration or healing)",
    }
)
"""The context keys of the texts that models are judged on, and their descriptions."""

PREFIXES: Mapping[str, str] = MappingProxyType({"heldout": "", "elsewhere": "elsewhere_"})
"""Prefix of the names of a text's figures in metrics, records and reports."""


def judged_texts(ctx: Mapping[str, Any]) -> dict[str, Windows]:
    """Return the texts of a context to judge on, by key; ``elsewhere`` only if it is there."""
    return {key: ctx[key] for key in JUDGED_ON if ctx.get(key) is not None}


@dataclass(frozen=True)
class Reference:
    """The original model's outputs on the texts to judge on, stored so that they are computed once.

    Attributes:
        checkpoint: id of the original checkpoint.
        hidden: output of its last block, ``[num_windows, length, hidden_size]`` in the dtype it was
            computed in, on the CPU, by digest of the windows.
        tasks: its scores on tasks of lm-eval, by a digest of which tasks and how.
    """

    checkpoint: str
    hidden: Mapping[str, Tensor] = field(repr=False)
    tasks: Mapping[str, tuple[TaskScores, ...]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood per predicted token.

    Attributes:
        value: the perplexity.
        standard_error: of the value, from the spread of the windows' means (delta method).
        num_tokens: predicted tokens.
    """

    value: float
    standard_error: float
    num_tokens: int


@dataclass(frozen=True)
class Judgement:
    """The model and the original on the same tokens of one text.

    Attributes:
        dense: perplexity of the original model.
        light: perplexity of the model.
        rise: light over dense perplexity, minus one; from the mean of paired per-token differences.
        rise_error: standard error of ``rise``, from the windows' paired differences.
        mean_kl: mean KL(dense || light) per token, in nats.
        agreement: fraction of tokens on which both rank the same token first.
        text: name of the text.
        window: tokens per window.
        num_windows: number of windows.
        dtype: dtype it was computed in.
        windows: digest of the windows.
        median_kl, kl_99, kl_999: median, 99 % and 99.9 % quantile of KL(dense || light) over the
            predicted tokens, nats; NaN if unknown.
        rms_dp: root mean square change of the probability of the token that follows.
        worst: the windows with the largest mean KL divergence, the worst first.
    """

    dense: Perplexity
    light: Perplexity
    rise: float
    rise_error: float
    mean_kl: float
    agreement: float
    text: str
    window: int
    num_windows: int
    dtype: str
    windows: str
    median_kl: float = math.nan
    kl_99: float = math.nan
    kl_999: float = math.nan
    rms_dp: float = math.nan
    worst: tuple[WorstWindow, ...] = ()

    @property
    def margin(self) -> float:
        """Two standard errors of the rise; 0 for a single window, whose error is unknown."""
        return _margin(self.rise_error)

    def holds(self, bound: float) -> bool:
        """Return whether the rise is not measurably above ``bound``; False for NaN."""
        return self.rise - self.margin <= bound


@dataclass(frozen=True)
class Verdict:
    """A model judged on one or two texts; the worse of the two decides.

    Attributes:
        heldout: on held-out text of the calibration source.
        elsewhere: on text from elsewhere; None if the context has none.
        checkpoint: id of the judged model.
        tasks: what is left of the original's score in each metric of each task of lm-eval; empty if
            there are no tasks.
    """

    heldout: Judgement
    elsewhere: Judgement | None
    checkpoint: str
    tasks: tuple[Recovery, ...] = ()

    @property
    def texts(self) -> Mapping[str, Judgement]:
        """The judgements, by the context key of their text."""
        found = {"heldout": self.heldout, "elsewhere": self.elsewhere}
        return {name: each for name, each in found.items() if each is not None}

    @property
    def worse(self) -> Judgement:
        """The judgement with the larger rise; NaN counts as the largest."""
        return max(self.texts.values(), key=_badness)

    @property
    def rise(self) -> float:
        """The larger rise."""
        return self.worse.rise

    @property
    def rise_error(self) -> float:
        """Standard error of the larger rise."""
        return self.worse.rise_error

    def broken(self, bound: float) -> Judgement | None:
        """Return the worst judgement whose rise is measurably above ``bound``, or None."""
        faults = [each for each in self.texts.values() if not each.holds(bound)]
        return max(faults, key=_badness, default=None)

    def holds(self, bound: float) -> bool:
        """Return whether no text's rise is measurably above ``bound``."""
        return self.broken(bound) is None

    @property
    def remark(self) -> str | None:
        """A warning if the two rises differ by much, else None."""
        if self.elsewhere is None:
            return None
        first, second = self.heldout, self.elsewhere
        return rises_differ((first.rise, first.rise_error), (second.rise, second.rise_error))


def rises_differ(heldout: tuple[float, float], elsewhere: tuple[float, float]) -> str | None:
    """Return a warning if two rises differ by more than twice the smaller one and beyond noise.

    Args:
        heldout, elsewhere: rise and its standard error on each text.
    """
    (first, first_error), (second, second_error) = heldout, elsewhere
    noise = math.hypot(_margin(first_error), _margin(second_error))
    if not abs(second - first) > max(2 * min(first, second), noise):
        return None
    subject = "calibration text is narrow" if second > first else "the cost depends on the text"
    advice = "; calibrate on broader text" if second > first else ""
    return (
        f"{subject}: perplexity rose by {first:.2%} on held-out text of its source and by "
        f"{second:.2%} on {JUDGED_ON['elsewhere']}{advice}"
    )


def _margin(error: float) -> float:
    return 2 * error if math.isfinite(error) else 0.0


def _badness(judgement: Judgement) -> tuple[bool, float]:
    return math.isnan(judgement.rise), judgement.rise
