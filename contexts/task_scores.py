"""Scores of two models on tasks of lm-eval, and how much of the original's score is left.

Every score that is a mean over samples is the ratio of two sums, ``m = Σ value / Σ weight``, or a
function of it: accuracy is ``m`` with weights of 1, perplexity is ``exp(m)`` of negative
log-likelihoods with the number of tokens, words or bytes as weights, and bits are ``m / ln 2``.
Standard errors follow from the samples by the delta method; those of differences and of the
recovery use that both models answered the same samples (paired).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class MetricScore:
    """One metric of one model on one task.

    Attributes:
        metric: its name, with lm-eval's filter in brackets if there is one.
        higher_is_better: False for perplexities.
        score: what lm-eval reports.
        scale: how the score follows from the samples: ``mean``, ``perplexity`` or ``bits``;
            ``other`` if it does not, and then it has no error.
        values, weights: of each sample; empty for ``other``.
    """

    metric: str
    higher_is_better: bool
    score: float
    scale: str
    values: Sequence[float] = field(repr=False)
    weights: Sequence[float] = field(repr=False)

    @property
    def error(self) -> float:
        """Standard error of the score; NaN if it is unknown."""
        return _spread(self.influences())

    def influences(self) -> list[float]:
        """How much each sample moves the score away from its value, times the samples' number."""
        count = len(self.values)
        if not count:
            return []
        total = math.fsum(self.weights)
        mean = math.fsum(self.values) / total
        slope = {"mean": 1.0, "perplexity": math.exp(mean), "bits": 1 / math.log(2)}[self.scale]
        pairs = zip(self.values, self.weights, strict=True)
        return [slope * count * (value - mean * weight) / total for value, weight in pairs]


@dataclass(frozen=True)
class TaskScores:
    """One model on one task.

    Attributes:
        task: name of the task.
        definition: hash of its definition and samples.
        num_samples: how many samples were evaluated.
        num_fewshot: examples in each prompt.
        samples: hash of each sample, in order.
        metrics: the scores.
        lm_eval: version of lm-eval.
        environment: runtime, device, dtype and versions.
    """

    task: str
    definition: str
    num_samples: int
    num_fewshot: int
    samples: Sequence[str] = field(repr=False)
    metrics: tuple[MetricScore, ...]
    lm_eval: str
    environment: Mapping[str, str]


def task_scores(found: Mapping[str, Any]) -> TaskScores:
    """The scores of one task from the result of a fresh process, or from a file with it.

    Raises:
        KeyError, TypeError: it has another form.
    """
    metrics = tuple(MetricScore(**each) for each in found["metrics"])
    return TaskScores(**{**found, "metrics": metrics})


def task_document(scores: TaskScores) -> dict[str, Any]:
    """The same as types of JSON, read back by `task_scores`."""
    return {**asdict(scores), "metrics": [asdict(each) for each in scores.metrics]}


@dataclass(frozen=True)
class Recovery:
    """One metric of the original and of the light model on the same samples.

    Attributes:
        task, metric: their names.
        num_samples: samples of the task.
        dense, light: the scores.
        dense_error, light_error: their standard errors; NaN if unknown.
        difference: light minus dense; ``difference_error``: standard error, from paired samples.
        recovery: fraction of the original's score that is left: light over dense, or dense over
            light where lower is better; NaN if the original scores 0.
        recovery_error: standard error, from paired samples; NaN if unknown.
        higher_is_better: False for perplexities.
    """

    task: str
    metric: str
    num_samples: int
    dense: float
    dense_error: float
    light: float
    light_error: float
    difference: float
    difference_error: float
    recovery: float
    recovery_error: float
    higher_is_better: bool

    def holds(self, bound: float) -> bool:
        """Whether the recovery is not measurably below ``bound``; False for NaN."""
        margin = 2 * self.recovery_error if math.isfinite(self.recovery_error) else 0.0
        return self.recovery + margin >= bound

    def as_dict(self) -> dict[str, Any]:
        """The fields, JSON-compatible: null where a figure is unknown."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def recorded_recovery(found: Mapping[str, Any]) -> Recovery:
    """The `Recovery` of `Recovery.as_dict`."""
    known: dict[str, Any] = {
        name: math.nan if each is None else each for name, each in found.items()
    }
    return Recovery(**known)


def recoveries(dense: Iterable[TaskScores], light: Iterable[TaskScores]) -> tuple[Recovery, ...]:
    """Every metric that both models have, task by task."""
    known = {scores.task: scores for scores in dense}
    return tuple(
        _recovery(first, second, one, other)
        for second in light
        if (first := known.get(second.task)) is not None
        for other in second.metrics
        for one in first.metrics
        if one.metric == other.metric
    )


def below(found: Iterable[Recovery], bound: float, *, advice: str = "") -> str | None:
    """In words, the metric whose recovery is furthest below a bound; None if all of them hold.

    Args:
        advice: what to do about it, at the end of the sentence.
    """
    faults = [each for each in found if not each.holds(bound)]
    if not faults:
        return None
    worst = min(faults, key=lambda each: each.recovery if each.recovery == each.recovery else -1.0)
    if math.isnan(worst.recovery):
        return (
            f"the original scores {worst.dense:g} in {worst.metric} of {worst.task}, so that no "
            f"recovery is defined; leave this task out"
        )
    error = "unknown" if math.isnan(worst.recovery_error) else f"{worst.recovery_error:.2%}"
    return (
        f"{worst.metric} of {worst.task} fell from {worst.dense:.4g} to {worst.light:.4g}"
        if worst.higher_is_better
        else f"{worst.metric} of {worst.task} rose from {worst.dense:.4g} to {worst.light:.4g}"
    ) + (
        f", a recovery of {worst.recovery:.2%} (standard error {error}), less than "
        f"min_recovery={bound:.2%} asks for{advice}"
    )


def _recovery(
    first: TaskScores, second: TaskScores, dense: MetricScore, light: MetricScore
) -> Recovery:
    paired = (first.definition, first.samples) == (second.definition, second.samples)
    before, after = dense.influences(), light.influences()
    paired &= len(before) == len(after) > 0
    top, bottom = (light, dense) if light.higher_is_better else (dense, light)
    recovery = top.score / bottom.score if bottom.score else math.nan
    error = difference_error = math.nan
    if paired:
        difference_error = _spread([b - a for a, b in zip(before, after, strict=True)])
        pairs = zip(*((after, before) if top is light else (before, after)), strict=True)
        if bottom.score:
            error = _spread([(above - recovery * below) / bottom.score for above, below in pairs])
    return Recovery(
        task=second.task,
        metric=light.metric,
        num_samples=second.num_samples,
        dense=dense.score,
        dense_error=dense.error,
        light=light.score,
        light_error=light.error,
        difference=light.score - dense.score,
        difference_error=difference_error,
        recovery=recovery,
        recovery_error=error,
        higher_is_better=light.higher_is_better,
    )


def _spread(influences: Sequence[float]) -> float:
    """Standard error of a mean of zero-mean influences; NaN for fewer than two samples."""
    count = len(influences)
    if count < 2:
        return math.nan
    return math.sqrt(math.fsum(each * each for each in influences) / (count * (count - 1)))
