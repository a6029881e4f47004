"""Whether healing is kept: if the loss fell on one text and rose measurably on none.

The texts are the last healing windows, which were not trained on, and text from elsewhere if the
context has it. Differences are paired per token; a rise is measurable above two standard errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...checkpoints import Checkpoint, ranks
from ...contexts.flow import Healable
from ...engine import announce
from ...models.evaluation.scoring import LossChange, TextScore, text_scores
from ...texts import Windows

_PREFIXES = {"healing": "", "elsewhere": "elsewhere_"}


def judged_parts(ctx: Healable, heldout: int) -> dict[str, Windows]:
    """The texts that decide, by context key.

    Args:
        heldout: how many of the last healing windows were not trained on.
    """
    healing, elsewhere = ctx["healing"], ctx.get("elsewhere")
    parts = {"healing": Windows(healing.tokens[-heldout:], healing.text)}
    return parts if elsewhere is None else {**parts, "elsewhere": elsewhere}


@dataclass(frozen=True)
class HealingOutcome:
    """Whether healing is kept, why, and the figures of each text for the history."""

    kept: bool
    metrics: Mapping[str, Any]


def judge_healing(
    dense: Checkpoint,
    models: tuple[Checkpoint, Checkpoint],
    texts: Mapping[str, Windows],
    kl_weight: float,
) -> HealingOutcome:
    """Compare the model before and after healing on every text.

    Args:
        models: before and after.
        kl_weight: fraction of KL in the loss, as in training.
    """
    found = _scores(dense, models, list(texts.values()))
    changes: dict[str, LossChange] = {}
    metrics: dict[str, Any] = {}
    for name, (before, after) in zip(texts, found, strict=True):
        change = LossChange.between(before.loss(kl_weight), after.loss(kl_weight))
        figures = _figures(change, (before, after))
        metrics |= {f"{_PREFIXES[name]}{key}": value for key, value in figures.items()}
        changes[name] = change
    worse = [texts[name].text for name, change in changes.items() if change.worse]
    better = [texts[name].text for name, change in changes.items() if change.better]
    kept = bool(better) and not worse
    return HealingOutcome(kept, {"kept": kept, "reason": _reason(better, worse), **metrics})


def _scores(
    dense: Checkpoint, models: Sequence[Checkpoint], texts: Sequence[Windows]
) -> list[list[TextScore]]:
    """The scores by text and model; by rank 0 alone where a text has fewer windows than ranks."""

    def scores() -> list[list[TextScore]]:
        return text_scores(dense, models, texts, announce=announce)

    few = any(each.num_windows < ranks.size() for each in texts)
    return ranks.from_first(scores) if few else scores()


def _figures(change: LossChange, pair: Sequence[TextScore]) -> dict[str, float]:
    before, after = pair
    return {
        "loss_before": change.before,
        "loss_after": change.after,
        "loss_change_error": change.error,
        "kl_before": float(before.kl.mean()),
        "kl_after": float(after.kl.mean()),
        "nll_before": float(before.nll.mean()),
        "nll_after": float(after.nll.mean()),
    }


def _reason(better: Sequence[str], worse: Sequence[str]) -> str:
    if worse:
        return f"the loss rose measurably on {' and '.join(worse)}"
    if better:
        return f"the loss fell on {' and '.join(better)} and rose measurably on no text"
    return "the loss fell on no text"
