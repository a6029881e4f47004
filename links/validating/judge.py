"""Judging a model beside the dense one on each text; the dense one's run is made once."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...checkpoints import Checkpoint
from ...contexts.verdict import Judgement, Perplexity, Reference, Verdict
from ...engine import announce
from ...models.blocks.skeleton import Skeleton
from ...models.evaluation.scoring import (
    Comparison,
    compare,
    last_hiddens,
    perplexity,
    rise,
    skeleton_pair,
)
from ...texts import Windows


def judge(
    models: tuple[Checkpoint, Checkpoint],
    texts: Mapping[str, Windows],
    known: Reference | None,
    batch_size: int,
) -> tuple[Verdict, Reference]:
    """Judge the light model of (dense, light) on each text.

    Args:
        texts: windows by the context key of their text, ``heldout`` among them.
        known: an earlier run of the dense model, used as far as it is of the same model and text.

    Returns:
        The verdict, and the dense model's run over all of the texts.
    """
    dense, light = skeleton_pair(*models)

    def through(skeleton: Skeleton, windows: list[Windows], label: str) -> list[Tensor]:
        if not windows:
            return []
        return last_hiddens(
            skeleton, windows, batch_size=batch_size, label=label, announce=announce
        )

    wanted = {windows.digest: windows for windows in texts.values()}
    usable = known is not None and known.checkpoint == models[0].id
    hidden = {
        digest: states
        for digest, states in (known.hidden.items() if known is not None and usable else ())
        if states.dtype == dense.dtype
    }
    missing = [windows for digest, windows in wanted.items() if digest not in hidden]
    for windows, states in zip(missing, through(dense, missing, "dense blocks"), strict=True):
        hidden[windows.digest] = states
    reached: Mapping[str, Tensor] = hidden
    if light is not dense:
        states_of_all = through(light, list(wanted.values()), "light blocks")
        reached = dict(zip(wanted, states_of_all, strict=True))
    judged = {}
    for name, windows in texts.items():
        digest = windows.digest
        pair = (dense, hidden[digest]), (light, reached[digest])
        found = compare(*pair, windows, announce=announce)
        judged[name] = _judgement(found, windows, str(light.dtype).removeprefix("torch."))
    verdict = Verdict(judged["heldout"], judged.get("elsewhere"), models[1].id)
    if known is not None and not missing:
        return verdict, known
    tasks = known.tasks if known is not None and usable else {}
    return verdict, Reference(models[0].id, {digest: hidden[digest] for digest in wanted}, tasks)


def _judgement(found: Comparison, windows: Windows, dtype: str) -> Judgement:
    count = found.kl.numel()
    median_kl, kl_99, kl_999 = found.kl_quantiles(0.5, 0.99, 0.999)
    risen, risen_error = rise(found.dense_nll, found.light_nll)
    return Judgement(
        dense=Perplexity(*perplexity(found.dense_nll), count),
        light=Perplexity(*perplexity(found.light_nll), count),
        rise=risen,
        rise_error=risen_error,
        mean_kl=float(found.kl.mean()),
        agreement=found.agreement,
        text=windows.text,
        window=windows.length,
        num_windows=windows.num_windows,
        dtype=dtype,
        windows=windows.digest,
        median_kl=median_kl,
        kl_99=kl_99,
        kl_999=kl_999,
        rms_dp=found.rms_dp,
        worst=found.worst_windows(),
    )
