"""validate: the current model compared with the original on held-out text, with a gate."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field

from ..checkpoints import Checkpoint
from ..contexts.flow import Validatable, Validated
from ..contexts.forecast import Forecast
from ..contexts.verdict import Perplexity, Reference, Verdict
from ..engine import Settings, announce, in_thread, link
from ..errors import GateError
from ..models.blocks.device import default_device, judged_dtype
from ..models.blocks.empty_model import text_config
from ..models.evaluation.scoring import compare, last_hidden, perplexity, rise, skeleton_pair
from ..models.planning.effort import num_blocks
from ..models.planning.memory import pass_bytes
from ..texts import Windows


class ValidateSettings(Settings):
    """The settings of validate."""

    max_rise: Annotated[float, Field(gt=0)] | None = None
    """Fail if perplexity rose by more than this fraction over the original model. A rise within two
    standard errors of the limit passes, since the text cannot tell them apart; with a single window
    there is no standard error, and the rise itself must not exceed the limit."""

    batch_size: Annotated[int, Field(ge=1)] = 4
    """Windows per forward pass."""


@link(ValidateSettings)
async def validate(ctx: Validatable, settings: ValidateSettings) -> Validated:
    """Measure perplexity, KL divergence and agreement with the original on the held-out windows.

    Raises:
        GateError: perplexity rose by more than max_rise.
    """
    max_rise = settings.max_rise
    verdict, reference = await in_thread(
        _judge,
        ctx["dense"],
        ctx["checkpoint"],
        ctx["heldout"],
        ctx.get("reference"),
        settings.batch_size,
    )
    if max_rise is not None and not verdict.holds(max_rise):
        raise GateError(
            f"perplexity rose by {verdict.rise:.2%} (standard error {verdict.rise_error:.2%}) over "
            f"dense on {verdict.text}, more than max_rise={max_rise:.2%} allows; "
            f"prune less, keep more bits, or heal longer"
        )
    return {
        "verdict": verdict,
        "reference": reference,
        "metrics": {
            "dense_perplexity": verdict.dense.value,
            "perplexity": verdict.light.value,
            "perplexity_error": verdict.light.standard_error,
            "rise": verdict.rise,
            "rise_error": verdict.rise_error,
            "mean_kl": verdict.mean_kl,
            "agreement": verdict.agreement,
            "tokens": verdict.light.num_tokens,
        },
    }


def _judge(
    dense: Checkpoint,
    light: Checkpoint,
    windows: Windows,
    reference: Reference | None,
    batch_size: int,
) -> tuple[Verdict, Reference]:
    first, second = skeleton_pair(dense, light)
    if (
        reference is None
        or (reference.checkpoint, reference.windows) != (dense.id, windows.digest)
        or reference.hidden.dtype != first.dtype
    ):
        hidden = last_hidden(
            first, windows, batch_size=batch_size, label="dense blocks", announce=announce
        )
        reference = Reference(dense.id, windows.digest, hidden)
    hidden = reference.hidden
    if second is not first:
        hidden = last_hidden(
            second, windows, batch_size=batch_size, label="light blocks", announce=announce
        )
    found = compare(
        (first, reference.hidden),
        (second, hidden),
        windows,
        announce=announce,
    )
    count = found.kl.numel()
    risen, risen_error = rise(found.dense_nll, found.light_nll)
    verdict = Verdict(
        dense=Perplexity(*perplexity(found.dense_nll), count),
        light=Perplexity(*perplexity(found.light_nll), count),
        rise=risen,
        rise_error=risen_error,
        mean_kl=float(found.kl.mean()),
        agreement=found.agreement,
        text=windows.text,
        window=windows.length,
        num_windows=windows.num_windows,
        dtype=str(second.dtype).removeprefix("torch."),
        checkpoint=light.id,
        windows=windows.digest,
    )
    return verdict, reference


# Tensors of one window's logits: of both models, their log-probabilities, and those of KL.
_LOGITS_HELD = 6


@validate.forecast
def _forecast(ctx: Validatable, settings: ValidateSettings) -> Forecast:
    """Both models through their blocks to logits; the original's blocks only if not run before."""
    light, windows = ctx["checkpoint"], ctx["heldout"]
    models = 1 if "reference" in ctx else 2
    runs = windows.num_windows * num_blocks(light)
    hidden = torch.empty(
        windows.num_windows, windows.length, text_config(light).hidden_size, device="meta"
    )
    unknown = Perplexity(math.nan, math.nan, windows.num_tokens)
    return Forecast(
        adds={
            "reference": Reference("", "", hidden),
            "verdict": Verdict(
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
                checkpoint="",
                windows="",
            ),
        },
        block_passes=models * runs,
        head_passes=2 * windows.num_windows + 2 * settings.batch_size,
        memory_bytes=_memory_bytes(ctx, settings),
    )


def _memory_bytes(ctx: Validatable, settings: ValidateSettings) -> int:
    """The larger of a pass and of one window's logits; embeddings, heads and states of both."""
    light, windows = ctx["checkpoint"], ctx["heldout"]
    config = text_config(light)
    width = judged_dtype(light, default_device()).itemsize
    outside = 2 * int(config.vocab_size) * int(config.hidden_size) * width
    states = 2 * windows.num_tokens * int(config.hidden_size) * width
    logits = _LOGITS_HELD * windows.length * int(config.vocab_size) * 4
    passed = pass_bytes(light, windows, settings.batch_size, grams=False)
    return max(passed + outside // 2, outside + states + logits)
