"""Figures on held-out text and on text from elsewhere, side by side, and what they leave open."""

from __future__ import annotations

from collections.abc import Mapping

from ..contexts.verdict import PREFIXES, rises_differ

_FIGURES = (
    ("perplexity", "perplexity", "{:,.3f}"),
    ("rise", "rise over dense", "{:.1%}"),
    ("mean_kl", "KL to dense, nats/token", "{:.4f}"),
    ("kl_99", "KL, 99th percentile", "{:.3f}"),
    ("kl_999", "KL, 99.9th percentile", "{:.3f}"),
    ("rms_dp", "next token's probability, RMS change", "{:.1%}"),
    ("agreement", "top-1 agreement", "{:.1%}"),
)
SHORT_NAMES: Mapping[str, str] = {"heldout": "held-out text", "elsewhere": "elsewhere"}
"""The texts that models are judged on, as short as a table needs."""

TEXT_ROWS: tuple[tuple[str, str, str], ...] = tuple(
    (f"{PREFIXES[text]}{key}", f"{label}, {SHORT_NAMES[text]}", form)
    for key, label, form in _FIGURES
    for text in PREFIXES
)
"""Of each figure on each text: its key, its label and its format."""

NOT_USED = "Text from elsewhere was not used for calibration or healing."
ONE_TEXT = (
    "There was no text from elsewhere, so the cost is known on held-out text of the calibration "
    "source alone; on other text it may be greater."
)


def text_remarks(figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Sentences on what the figures of a saved folder say of other text.

    Args:
        figures: as `Saved.figures` has them.
    """
    light = figures.get("light", {})
    if "perplexity" not in light:
        return []
    if "elsewhere_perplexity" not in light:
        return [ONE_TEXT]
    rises = [
        (light[f"{prefix}rise"], light.get(f"{prefix}rise_error", 0.0))
        for prefix in PREFIXES.values()
        if f"{prefix}rise" in light
    ]
    remark = rises_differ(*rises) if len(rises) == len(PREFIXES) else None
    return [] if remark is None else [f"{remark[0].upper()}{remark[1:]}."]
