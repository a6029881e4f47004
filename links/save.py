"""save: write the model as a folder that loads without birdbone, prove it, and publish it.

A fresh process opens the written folder with plain transformers, or a GGUF file with llama.cpp, and
scores it; those figures are reported. A model that fails is kept as ``PATH.refused``, and nothing
is published.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..checkpoints import BitsAndBytes, Checkpoint
from ..contexts.flow import Partial, Savable, Written
from ..contexts.saved import Saved
from ..contexts.verdict import PREFIXES, judged_texts
from ..engine import announce, in_thread, link
from ..errors import BirdboneError, GateError, NumericsError, ProofError
from ..formats.gguf_proof import prove_gguf
from ..formats.gguf_rounding import stored_values
from ..models.blocks.config import has_code
from ..models.blocks.device import default_device, judged_dtype
from ..models.evaluation.fresh_process import Measurement, Probe, measure_folders
from ..models.evaluation.proof import prove
from ..models.evaluation.record import RECORD, Record, make_record, probe_windows
from ..models.writing.folder import weight_format, write_model
from ..models.writing.publishing import (
    PROVENANCE,
    check_disk,
    files_of,
    private_folder,
    publish,
    publish_file,
    set_aside,
)
from ..reports.card import model_card
from ..reports.provenance import provenance, stands, without_paths
from ..texts import Windows
from .saving.acceptance import check_accepted, logits_tolerance
from .saving.forecast import save_forecast
from .saving.formats import check_settings, chosen_form
from .saving.gguf import file_name, judge_file, score_tolerance, write_file
from .saving.settings import SaveSettings
from .saving.target import asked_format, check_output, is_file_name

__all__ = ["check_disk", "check_output", "save"]

_TEXTS = ("calibration", "healing", "heldout", "elsewhere")
_SPARE_BYTES = 64 << 20  # tokenizer, card and what safetensors adds


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
    path, kind = settings.path, settings.kind
    form = chosen_form(checkpoint, asked_format(path, settings.format), kind)
    target = check_output(path, settings.format, settings.force)
    check_disk(target, _needed_bytes(checkpoint, dense if settings.compare else None))
    texts = judged_texts(ctx)
    probe = _probe(checkpoint, texts)
    with ExitStack() as stack:
        folder = stack.enter_context(private_folder(target, "partial"))
        if form == "gguf":
            await write_file(checkpoint, folder / file_name(target), kind)
        else:
            await _write(checkpoint, folder, settings)
        beside = stack.enter_context(private_folder(target, "dense")) if settings.compare else None
        if beside is not None:
            await _write(dense, beside, settings)
        try:
            if form == "gguf":
                bound = score_tolerance(checkpoint, kind, settings.tolerance)
                stored = await in_thread(stored_values, checkpoint, kind=kind)
                file = folder / file_name(target)
                found = await judge_file(ctx, stored, file, beside, probe, tolerance=bound)
            else:
                bound, stored = (
                    logits_tolerance(checkpoint, probe.dtype, settings.tolerance),
                    checkpoint,
                )
                found = await measure_folders(folder, beside, probe, announce)
                await check_accepted(ctx, found, dtype=probe.dtype, tolerance=settings.tolerance)
            record = await _record(stored, ctx.get("heldout"), bound, settings.proof_tokens)
            measured_on = _measured_on(found, probe, texts)
            await in_thread(_describe, ctx, form, folder, target.name, found, measured_on, record)
            await _prove(folder, form, probe)
        except (ProofError, GateError, NumericsError) as error:
            raise await in_thread(_refused, ctx, folder, target, error) from error
        publishing = publish_file if is_file_name(target.name) else publish
        await in_thread(publishing, folder, target)
    light = found.figures["light"]
    saved = Saved(target, int(light["weight_bytes"]), found.figures, measured_on)
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


def _needed_bytes(checkpoint: Checkpoint, dense: Checkpoint | None) -> int:
    """Bytes of everything that lies on the disk at once."""
    sources = [ref.source for ref in checkpoint.refs.values() if isinstance(ref, BitsAndBytes)]
    aside = sum(source.num_bytes for source in sources)
    beside = 0 if dense is None else dense.num_bytes
    return checkpoint.num_bytes + aside + beside + _SPARE_BYTES


def _probe(checkpoint: Checkpoint, texts: Mapping[str, Windows]) -> Probe:
    device = default_device()
    tokens = {name: windows.tokens for name, windows in texts.items()}
    return Probe(
        tokens=tokens.get("heldout"),
        elsewhere=tokens.get("elsewhere"),
        dtype=judged_dtype(checkpoint, device),
        device=str(device),
        trust_remote_code=has_code(checkpoint),
    )


async def _write(checkpoint: Checkpoint, folder: Path, settings: SaveSettings) -> None:
    def told(done: int, total: int) -> None:
        announce("tensors written", done, total)

    size = int(settings.max_shard_gb * 1e9)
    await in_thread(write_model, checkpoint, folder, max_shard_bytes=size, announce=told)


async def _record(
    checkpoint: Checkpoint, heldout: Windows | None, tolerance: float, proof_tokens: int
) -> Record:
    """What the model in memory computes, which the folder must compute too, here and elsewhere."""
    return await in_thread(
        make_record,
        checkpoint,
        probe_windows(checkpoint, heldout, proof_tokens),
        tolerance=tolerance,
        announce=announce,
    )


async def _prove(folder: Path, form: str, probe: Probe) -> None:
    """The same proof anybody can run on the folder later."""
    if form == "gguf":
        proof = await prove_gguf(folder, announce=announce)
    else:
        proof = await prove(folder, trust_remote_code=probe.trust_remote_code, announce=announce)
    if not proof.proven:
        faults = [f"{each.name}: {each.words}" for each in proof.checks if not each.holds]
        raise ProofError(f"the saved folder is not proven: {'; '.join(faults)}")


def _refused(
    ctx: Savable, folder: Path, target: Path, error: ProofError | GateError | NumericsError
) -> BirdboneError:
    """Keep what was refused, with the reason in it; gives the error that says where."""
    _write_json(folder / PROVENANCE, _provenance(ctx, folder, {}, {}, refused=str(error)))
    aside = set_aside(folder, target)
    kept = f"kept for inspection in {aside}"
    if aside is None:
        kept = f"not kept, for {target.name}.refused exists and was not made by birdbone"
    return type(error)(f"{error}; nothing was published. What was refused is {kept}")


def _measured_on(
    found: Measurement, probe: Probe, texts: Mapping[str, Windows]
) -> Mapping[str, str]:
    text: dict[str, str] = {}
    for name, windows in texts.items():
        key = "text" if name == "heldout" else name
        count = f"{windows.num_windows} of {windows.length} tokens"
        text |= {key: windows.text, f"{PREFIXES[name]}windows": count}
    speed = f"{probe.prefill_tokens} tokens read, {probe.decode_tokens} decoded, one sequence"
    dtype = str(probe.dtype).removeprefix("torch.")
    return {**text, "speed": speed, "dtype": dtype, **found.environment}


def _describe(
    ctx: Savable,
    form: str,
    folder: Path,
    name: str,
    found: Measurement,
    measured_on: Mapping[str, str],
    record: Record,
) -> None:
    """Leave the card, the record of what is computed and, last, everybody's checksums."""
    card = model_card(
        name=name,
        checkpoint=ctx["checkpoint"],
        weight_format="gguf" if form == "gguf" else weight_format(ctx["checkpoint"]),
        history=ctx.get("history", ()),
        figures=found.figures,
        measured_on=measured_on,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / RECORD).write_text(record.model_dump_json() + "\n", encoding="utf-8")
    _write_json(folder / PROVENANCE, _provenance(ctx, folder, found.figures, measured_on))


def _provenance(
    ctx: Savable,
    folder: Path,
    figures: Mapping[str, Mapping[str, float]],
    measured_on: Mapping[str, str],
    refused: str | None = None,
) -> dict[str, Any]:
    held = {name: path for name, path in files_of(folder).items() if name != PROVENANCE}
    return provenance(
        checkpoint=ctx["checkpoint"],
        dense=ctx["dense"],
        history=ctx.get("history", ()),
        texts=_texts(ctx),
        figures=figures,
        measured_on=measured_on,
        files=held,
        refused=refused,
    )


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _texts(ctx: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    parts = {name: ctx.get(name) for name in _TEXTS}
    return {
        name: {
            "text": part.text,
            "digest": part.digest,
            "windows": part.num_windows,
            "length": part.length,
        }
        for name, part in parts.items()
        if part is not None
    }


save.forecast(save_forecast)
