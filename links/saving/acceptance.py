"""The checks of a written folder before it is published.

It must compute what the model in memory computes, be better than chance, not only repeat itself,
and be smaller if a link declared that it shrinks the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ...checkpoints import Checkpoint
from ...contexts.flow import Savable
from ...contexts.verdict import PREFIXES, judged_texts
from ...engine import announce, in_thread
from ...errors import GateError, ProofError
from ...models.blocks.empty_model import text_config
from ...models.evaluation.fresh_process import Measurement
from ...models.evaluation.scoring import own_perplexity, share_repeating
from ...models.writing.folder import weight_format
from ...texts import Windows, chance_perplexity

# Of the mean NLL in memory. LLM.int8 quantises activations too, NF4 computes in the dtype its
# scales are stored in, and bfloat16 on CUDA depends on the shape of the batch.
_NLL_OFF = {"dense": 1e-3, "packed": 1e-3, "nf4": 1e-2, "llm.int8": 2e-2}
_NLL_OFF_HALF = 5e-3
# Of the root mean square of single logits, which a mean does not even out.
_LOGITS_OFF = {"dense": 1e-3, "packed": 1e-3, "nf4": 2e-2, "llm.int8": 1e-1}
_LOGITS_OFF_HALF = 2e-2
_COLLAPSED = 0.75  # fraction of texts after which the light model only repeats itself
_SPEAKS = 0.5  # the original does so after at most this fraction


@dataclass(frozen=True)
class _Text:
    """A text to judge on, and what its perplexity is called among the figures."""

    windows: Windows
    figure: str

    def of(self, found: Measurement, side: str) -> float:
        """The perplexity that was measured of one side."""
        return found.figures[side][self.figure]


async def check_accepted(
    ctx: Savable, found: Measurement, *, dtype: torch.dtype, tolerance: float | None
) -> None:
    """Compare the figures of the fresh process with memory, with chance and with the dense size.

    Raises:
        ProofError: the folder does not score as the model in memory did.
        GateError: the model is no better than chance, only repeats itself, or did not shrink.
    """
    _check_size(ctx, found)
    for name, windows in judged_texts(ctx).items():
        text = _Text(windows, f"{PREFIXES[name]}perplexity")
        await _check_same(ctx, text, found, dtype, tolerance)
        await _check_sound(ctx, text, found)


async def _check_sound(ctx: Savable, text: _Text, found: Measurement) -> None:
    """Hold the model against guessing by word counts, and against repeating itself."""
    bar = _chance(ctx, text.windows)
    collapsed = _only_repeats(found)
    measured = text.of(found, "light")
    if (measured < bar and not collapsed) or await _dense_perplexity(ctx, text, found) >= bar:
        return  # an untrained original model is no measure
    if collapsed:
        raise GateError(
            "the light model, left to go on by itself, only repeats itself, where the dense one "
            "does not; prune less, keep more bits, or heal longer"
        )
    raise GateError(
        f"perplexity {measured:.1f} on {text.windows.text} is no better than guessing by word "
        f"counts ({bar:.1f}); prune less, keep more bits, or heal longer"
    )


def logits_tolerance(checkpoint: Checkpoint, dtype: torch.dtype, asked: float | None) -> float:
    """Maximum relative difference of logits from those in memory, for the weight format."""
    return asked or _default(_LOGITS_OFF, _LOGITS_OFF_HALF, checkpoint, dtype)


def _default(
    bounds: Mapping[str, float], half: float, checkpoint: Checkpoint, dtype: torch.dtype
) -> float:
    bound = bounds[weight_format(checkpoint)]
    return bound if dtype.itemsize >= 4 else max(bound, half)


def _check_size(ctx: Savable, found: Measurement) -> None:
    """A step with the metric ``shrinks`` must have made the model smaller."""
    promised = [step.link for step in ctx.get("history", ()) if step.metrics.get("shrinks")]
    light = int(found.figures["light"]["weight_bytes"])
    measured = found.figures.get("dense", {}).get("weight_bytes")
    dense = ctx["dense"].num_bytes if measured is None else int(measured)
    if promised and light >= dense:
        raise GateError(
            f"{' and '.join(dict.fromkeys(promised))} promised a smaller model, but its weights "
            f"take {light:,} bytes on disk and the dense ones {dense:,}"
        )


async def _check_same(
    ctx: Savable,
    text: _Text,
    found: Measurement,
    dtype: torch.dtype,
    asked: float | None,
) -> None:
    """Compare the perplexity of the fresh process with the one in memory."""
    bound = asked or _default(_NLL_OFF, _NLL_OFF_HALF, ctx["checkpoint"], dtype)
    expected = await _in_memory(ctx, text.windows, str(dtype).removeprefix("torch."))
    measured = text.of(found, "light")
    off = abs(math.log(measured) - math.log(expected)) / max(math.log(expected), 1e-9)
    if not off <= bound:
        raise ProofError(
            f"the saved folder has perplexity {measured:.4f} on {text.windows.text} in a fresh "
            f"process, the model in memory had {expected:.4f}: the mean NLL is off by {off:.2%}, "
            f"more than {bound:.2%}; raise tolerance if that much is expected"
        )


async def _in_memory(ctx: Savable, windows: Windows, dtype: str) -> float:
    """Perplexity in memory: that of the verdict if it has the same model, windows and dtype."""
    verdict, checkpoint = ctx.get("verdict"), ctx["checkpoint"]
    if verdict is not None and verdict.checkpoint == checkpoint.id:
        for judged in verdict.texts.values():
            if (judged.windows, judged.dtype) == (windows.digest, dtype):
                return judged.light.value
    return await in_thread(own_perplexity, checkpoint, windows, announce=announce)


async def _dense_perplexity(ctx: Savable, text: _Text, found: Measurement) -> float:
    """Perplexity of the original, measured now if unknown; needed only if a check fails."""
    verdict = ctx.get("verdict")
    if "dense" in found.figures:
        return text.of(found, "dense")
    for judged in () if verdict is None else verdict.texts.values():
        if judged.windows == text.windows.digest:
            return judged.dense.value
    return await in_thread(own_perplexity, ctx["dense"], text.windows, announce=announce)


def _chance(ctx: Mapping[str, Any], judged: Windows) -> float:
    seen = [ctx[name] for name in ("calibration", "healing") if ctx.get(name) is not None]
    return chance_perplexity(judged, seen, int(text_config(ctx["checkpoint"]).vocab_size))


def _only_repeats(found: Measurement) -> bool:
    light, dense = (share_repeating(found.decoded.get(name, ())) for name in ("light", "dense"))
    return light >= _COLLAPSED and dense <= _SPEAKS
