"""Verdicts as `validate` adds them, with figures that a test chooses."""

from __future__ import annotations

from birdbone.contexts.verdict import Judgement, Perplexity, Verdict
from birdbone.texts import Windows


def verdict_on(windows: Windows, perplexity: float, checkpoint: str) -> Verdict:
    """A verdict on held-out windows alone, of two models with the same perplexity.

    Args:
        checkpoint: id of the light model.
    """
    found = Perplexity(perplexity, 1.0, 45)
    held = Judgement(
        dense=found,
        light=found,
        rise=0.0,
        rise_error=0.0,
        mean_kl=0.0,
        agreement=1.0,
        text=windows.text,
        window=windows.length,
        num_windows=windows.num_windows,
        dtype="float32",
        windows=windows.digest,
    )
    return Verdict(held, None, checkpoint)
