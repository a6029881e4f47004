"""validate: the model as it stands beside the dense one, on held-out text, and a gate if wanted."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..checkpoints import Checkpoint
from ..contexts.flow import Validatable, Validated
from ..contexts.verdict import Perplexity, Reference, Verdict
from ..engine import announce, in_thread, link
from ..errors import GateError
from ..models.scoring import compare, last_hidden, perplexity, rise, skeleton_pair
from ..texts import Windows


@link
async def validate(
    ctx: Validatable,
    *,
    max_rise: Annotated[float, Field(gt=0)] | None = None,
    batch_size: Annotated[int, Field(ge=1)] = 4,
) -> Validated:
    """Measure perplexity, KL and agreement with dense on the held-out windows.

    Settings:
        max_rise: the gate; fail if perplexity rose by more than this share over dense. A rise
            within two standard errors of the bound passes: the text cannot tell. One window alone
            has no standard error, and then the rise itself must hold.
        batch_size: windows per forward.

    Raises:
        GateError: perplexity rose by more than max_rise.
    """
    verdict, reference = await in_thread(
        _judge, ctx["dense"], ctx["checkpoint"], ctx["heldout"], ctx.get("reference"), batch_size
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
    if reference is None or (reference.checkpoint, reference.windows) != (dense.id, windows.digest):
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
