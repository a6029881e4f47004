"""save: write the model as a folder that loads without birdbone, prove it, and publish it.

A fresh process opens the written folder with plain transformers, or a GGUF file with llama.cpp, and
scores it; those figures are reported. A model that fails is kept as ``PATH.refused``, and nothing
is published.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from ..contexts.flow import Partial, Savable, Written
from ..contexts.saved import Saved
from ..contexts.verdict import judged_texts
from ..engine import in_thread, link
from ..errors import GateError, NumericsError, ProofError
from ..models.writing.publishing import check_disk, private_folder, publish, publish_file
from ..reports.provenance import stands, without_paths
from .saving.examples import choose_examples, examples_record
from .saving.forecast import save_forecast
from .saving.formats import check_settings, chosen_form
from .saving.judging import judge_saved, probe_for, record_of, require_proven
from .saving.records import Described, conditions, describe, keep_refused
from .saving.settings import SaveSettings
from .saving.target import asked_format, check_output, is_file_name
from .saving.trial import save_trial
from .saving.writing import needed_bytes, write_as, write_as_folder

__all__ = ["save"]


@link(SaveSettings)
async def save(ctx: Savable, settings: SaveSettings) -> Written:
    """Save an ordinary Hugging Face folder, prove it in a fresh process, then publish it.

    Raises:
        SettingError: the folder may not be replaced, or the format does not hold the weights.
        ResourceError: the disk is too small.
        ProofError: the folder does not open, or does not compute what the model in memory does.
        GateError: the model is no better than chance or only repeats itself, while the original is
            and does not; or it did not shrink although a link declared that it does. A refused
            model is kept in a folder of the same name with the suffix ``.refused``.
    """
    checkpoint, dense = ctx["checkpoint"], ctx["dense"]
    form = chosen_form(checkpoint, asked_format(settings.path, settings.format), settings.kind)
    target = check_output(settings.path, settings.format, settings.force)
    check_disk(target, needed_bytes(checkpoint, dense if settings.compare else None))
    texts = judged_texts(ctx)
    examples = await in_thread(choose_examples, checkpoint, texts, settings)
    probe = probe_for(checkpoint, texts, examples)
    with ExitStack() as stack:
        folder = stack.enter_context(private_folder(target, "partial"))
        await write_as(form, checkpoint, folder, target, settings)
        beside = stack.enter_context(private_folder(target, "dense")) if settings.compare else None
        if beside is not None:
            await write_as_folder(dense, beside, settings)
        try:
            judged = await judge_saved(ctx, form, folder, target, beside, probe, settings)
            record = await record_of(judged, ctx.get("heldout"), settings.proof_tokens)
            on = conditions(judged.found, probe, texts)
            shown = examples_record(examples, judged.found, ctx.get("verdict"), checkpoint.id)
            described = Described(form, target.name, judged.found, on, record, shown)
            await in_thread(describe, ctx, folder, described, report=settings.report)
            await require_proven(folder, form, probe)
        except (ProofError, GateError, NumericsError) as error:
            raise await in_thread(keep_refused, ctx, folder, target, error) from error
        publishing = publish_file if is_file_name(target.name) else publish
        await in_thread(publishing, folder, target)
    light = judged.found.figures["light"]
    saved = Saved(target, int(light["weight_bytes"]), judged.found.figures, on)
    return {"saved": saved, "metrics": dict(light)}


@save.check
def _check(ctx: Partial, settings: SaveSettings) -> None:
    """A folder that may not be replaced, or a format that does not fit."""
    path, format = settings.path, settings.format
    check_output(path, format, settings.force)
    check_settings(ctx.get("checkpoint"), asked_format(path, format), settings.kind)


@save.intact
def _intact(ctx: Mapping[str, Any], added: Mapping[str, Any]) -> bool:
    """The folder is unchanged, and its record lists the same steps as this run."""
    steps = [(step.link, without_paths(step.as_dict()["settings"])) for step in ctx["history"]]
    return stands(added["saved"].path, ctx["checkpoint"], steps)


save.forecast(save_forecast)
save.trial(save_trial)
