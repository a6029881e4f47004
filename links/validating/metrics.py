"""A verdict as figures for the history, and one in outline for estimates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from ...checkpoints import Checkpoint
from ...contexts.verdict import PREFIXES, Judgement, Perplexity, Reference, Verdict
from ...models.blocks.empty_model import text_config
from ...texts import Windows


def metrics(verdict: Verdict) -> dict[str, Any]:
    """The figures of each text; those from elsewhere under names that begin with elsewhere_."""
    found: dict[str, Any] = {}
    for name, judged in verdict.texts.items():
        figures = {
            "dense_perplexity": judged.dense.value,
            "perplexity": judged.light.value,
            "perplexity_error": judged.light.standard_error,
            "rise": judged.rise,
            "rise_error": judged.rise_error,
            "mean_kl": judged.mean_kl,
            "median_kl": judged.median_kl,
            "kl_99": judged.kl_99,
            "kl_999": judged.kl_999,
            "rms_dp": judged.rms_dp,
            "agreement": judged.agreement,
            "tokens": judged.light.num_tokens,
        }
        found |= {f"{PREFIXES[name]}{key}": value for key, value in figures.items()}
    return {
        **found,
        "texts": len(verdict.texts),
        "worse_rise": verdict.rise,
        "worse_text": verdict.worse.text,
        **({} if verdict.remark is None else {"remark": verdict.remark}),
        **_on_tasks(verdict),
    }


def _on_tasks(verdict: Verdict) -> dict[str, Any]:
    """What is left on each task, and the smallest of these fractions."""
    if not verdict.tasks:
        return {}
    known = [each.recovery for each in verdict.tasks if math.isfinite(each.recovery)]
    return {
        "worst_recovery": min(known, default=math.nan),
        "tasks": {f"{each.task} {each.metric}": each.as_dict() for each in verdict.tasks},
    }


def outlined_verdict(checkpoint: Checkpoint, texts: Mapping[str, Windows]) -> dict[str, Any]:
    """What validate adds to a context, by shapes alone."""
    width = int(text_config(checkpoint).hidden_size)
    hidden = {
        name: torch.empty(*windows.tokens.shape, width, device="meta")
        for name, windows in texts.items()
    }
    judged = {name: _unknown(windows) for name, windows in texts.items()}
    verdict = Verdict(judged["heldout"], judged.get("elsewhere"), "")
    return {"reference": Reference("", hidden), "verdict": verdict}


def _unknown(windows: Windows) -> Judgement:
    unknown = Perplexity(math.nan, math.nan, windows.num_tokens)
    return Judgement(
        dense=unknown,
        light=unknown,
        rise=math.nan,
        rise_error=math.nan,
        mean_kl=math.nan,
        agreement=math.nan,
        text=windows.text,
        window=windows.length,
        num_windows=windows.num_windows,
        dtype="",
        windows="",
    )
