"""Write the model as a folder anybody can open, and publish it only once that is proven.

A fresh process opens what was written with plain transformers, or llama.cpp where it is a GGUF
file, and scores it; those are the figures that count. What does not hold is kept aside as
``PATH.refused`` and nothing is published.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ..checkpoints import BitsAndBytes, Checkpoint
from ..contexts.flow import Savable, Written
from ..contexts.forecast import Forecast
from ..contexts.saved import Saved
from ..engine import announce, in_thread, link
from ..errors import BirdboneError, GateError, NumericsError, ProofError
from ..formats.ggml_types import GgmlKind
from ..formats.gguf_proof import prove_gguf
from ..formats.gguf_rounding import stored_values
from ..models.blocks.config import has_code
from ..models.blocks.device import compute_dtype, default_device
from ..models.blocks.empty_model import text_config
from ..models.evaluation.fresh_process import Measurement, Probe, measure_folders
from ..models.evaluation.proof import prove
from ..models.evaluation.record import RECORD, Record, make_record, probe_windows
from ..models.planning.effort import num_blocks
from ..models.planning.memory import pass_bytes, written_bytes
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
from .saving.formats import Format, check_settings, chosen_form
from .saving.gguf import file_name, judge_file, score_tolerance, write_file
from .saving.target import asked_format, check_output, is_file_name

__all__ = ["check_disk", "check_output", "save"]

_TEXTS = ("calibration", "healing", "heldout", "elsewhere")
_FILES_BYTES = 4 << 20  # tokenizer, card and records
_PROCESS_BYTES = 512 << 20  # an interpreter with its libraries, and one batch of logits
_SPARE_BYTES = 64 << 20  # tokenizer, card and what safetensors adds


@link
async def save(
    ctx: Savable,
    *,
    path: str,
    force: bool = False,
    format: Format = "auto",
    kind: GgmlKind | None = None,
    max_shard_gb: Annotated[float, Field(gt=0)] = 5.0,
    compare: bool = True,
    tolerance: Annotated[float, Field(gt=0, lt=1)] | None = None,
    proof_tokens: Annotated[int, Field(ge=0)] = 512,
) -> Written:
    """Save an ordinary Hugging Face folder, prove it in a fresh process, then publish it.

    Settings:
        path: the folder; one that exists is replaced if birdbone made it. A path that ends in
            .gguf is a single GGUF file; its records go into the folder PATH.birdbone beside it.
        force: replace a folder birdbone did not make.
        format: safetensors for plain values, compressed-tensors for codes, bitsandbytes for nf4 and
            llm.int8; auto takes the one the weights are made for, any other is refused. gguf is a
            file for llama.cpp, which must be installed to prove it (pip install 'birdbone[llama]').
        kind: of a GGUF file, ggml's type for the linears; where none is given f16, or what their
            blocks are. f32, f16 and bf16 also take codes, as the values they stand for.
        max_shard_gb: size a weight file keeps to.
        compare: measure the dense model beside it.
        tolerance: how far mean NLL and logits may lie from those in memory, relative; None for
            what the format can keep.
        proof_tokens: of the held-out text, kept in the folder's proof.json with what the model
            says of them, so that anybody can prove the folder again; 0 keeps none of the text
            and uses made-up ids.

    Raises:
        SettingError: the folder may not be replaced, or the format does not hold the weights.
        ResourceError: the disk is too small.
        ProofError: the folder does not open, or does not compute what the model did in memory.
        GateError: the model is no better than chance or only repeats itself, where the dense one
            does not, or did not shrink though a link promised it. What is refused is kept aside,
            in a folder named as this one and ``.refused``.
    """
    checkpoint, dense = ctx["checkpoint"], ctx["dense"]
    form = chosen_form(checkpoint, asked_format(path, format), kind)
    target = check_output(path, format, force)
    check_disk(target, _needed_bytes(checkpoint, dense if compare else None))
    heldout = ctx.get("heldout")
    probe = _probe(checkpoint, heldout)
    with ExitStack() as stack:
        folder = stack.enter_context(private_folder(target, "partial"))
        if form == "gguf":
            await write_file(checkpoint, folder / file_name(target), kind)
        else:
            await _write(checkpoint, folder, max_shard_gb)
        beside = stack.enter_context(private_folder(target, "dense")) if compare else None
        if beside is not None:
            await _write(dense, beside, max_shard_gb)
        try:
            if form == "gguf":
                bound = score_tolerance(checkpoint, kind, tolerance)
                stored = await in_thread(stored_values, checkpoint, kind=kind)
                file = folder / file_name(target)
                found = await judge_file(ctx, stored, file, beside, probe, tolerance=bound)
            else:
                bound, stored = logits_tolerance(checkpoint, probe.dtype, tolerance), checkpoint
                found = await measure_folders(folder, beside, probe, announce)
                await check_accepted(ctx, found, dtype=probe.dtype, tolerance=tolerance)
            record = await _record(stored, heldout, bound, proof_tokens)
            measured_on = _measured_on(found, probe, heldout)
            await in_thread(_describe, ctx, form, folder, target.name, found, measured_on, record)
            await _prove(folder, form, probe)
        except (ProofError, GateError, NumericsError) as error:
            raise await in_thread(_refused, ctx, folder, target, error) from error
        publishing = publish_file if is_file_name(target.name) else publish
        await in_thread(publishing, folder, target)
    light = found.figures["light"]
    saved = Saved(target, int(light["weight_bytes"]), found.figures, measured_on)
    return {"saved": saved, "metrics": dict(light)}


@save.foresee
def _may_be_written(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """A folder that may not be replaced, or a format that cannot be, is refused before any work."""
    path, format = settings["path"], settings["format"]
    check_output(path, format, settings["force"])
    check_settings(ctx.get("checkpoint"), asked_format(path, format), settings["kind"])


@save.leaving
def _stands(ctx: Mapping[str, Any], added: Mapping[str, Any]) -> bool:
    """The folder is as it was left, and tells of the very steps that led here this time."""
    steps = [(step.link, without_paths(step.as_dict()["settings"])) for step in ctx["history"]]
    return stands(added["saved"].path, ctx["checkpoint"], steps)


def _needed_bytes(checkpoint: Checkpoint, dense: Checkpoint | None) -> int:
    """Bytes of everything that lies on the disk at once."""
    sources = [ref.source for ref in checkpoint.refs.values() if isinstance(ref, BitsAndBytes)]
    aside = sum(source.num_bytes for source in sources)
    beside = 0 if dense is None else dense.num_bytes
    return checkpoint.num_bytes + aside + beside + _SPARE_BYTES


def _probe(checkpoint: Checkpoint, heldout: Windows | None) -> Probe:
    device = default_device()
    return Probe(
        tokens=None if heldout is None else heldout.tokens,
        dtype=compute_dtype(checkpoint, device),
        device=str(device),
        trust_remote_code=has_code(checkpoint),
    )


async def _write(checkpoint: Checkpoint, folder: Path, max_shard_gb: float) -> None:
    def told(done: int, total: int) -> None:
        announce("tensors written", done, total)

    size = int(max_shard_gb * 1e9)
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


def _measured_on(found: Measurement, probe: Probe, heldout: Windows | None) -> Mapping[str, str]:
    text = {}
    if heldout is not None:
        text = {
            "text": heldout.text,
            "windows": f"{heldout.num_windows} of {heldout.length} tokens",
        }
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


@save.forecast
def _foretell(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> Forecast:
    """Two folders written, three fresh processes that open them, held-out windows read by both."""
    light, dense = ctx["checkpoint"], ctx["dense"]
    models = 2 if settings["compare"] else 1
    windows: Windows | None = ctx.get("heldout")
    read = 0 if windows is None else windows.num_windows
    here = 0 if "verdict" in ctx else read  # scored in memory, where nobody did
    runs = models * (read + 2) + here
    beside = dense.num_bytes if settings["compare"] else 0
    return Forecast(
        adds={"saved": None},
        block_passes=num_blocks(light) * runs,
        head_passes=runs,
        decoded_tokens=models * 24 * 6,
        starts=models + 1,
        moved_bytes=6 * (light.num_bytes + beside),
        process_bytes=models * 4 * dense.num_parameters + _PROCESS_BYTES,
        disk_bytes=light.num_bytes + _FILES_BYTES,
        passing_disk_bytes=beside,
    )


@save.memory
def _need(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    """What is written, or run to be held against it; the fresh processes' memory is theirs.

    What is written is gathered in the machine's memory, so that a GPU need not hold it.
    """
    light, heldout = ctx["checkpoint"], ctx.get("heldout")
    needs = [_scored_bytes(light, probe_windows(light, heldout, settings["proof_tokens"]))]
    if heldout is not None and "verdict" not in ctx:
        needs.append(_scored_bytes(light, heldout))
    if default_device().type != "cuda":
        size = int(settings["max_shard_gb"] * 1e9)
        written = [light, ctx["dense"]] if settings["compare"] else [light]
        needs += [written_bytes(each, size) for each in written]
    return max(needs)


def _scored_bytes(checkpoint: Checkpoint, windows: Windows) -> int:
    """Bytes of a pass one window at a time, and of one window's log-probabilities made twice."""
    logits = 4 * windows.length * int(text_config(checkpoint).vocab_size)
    return pass_bytes(checkpoint, windows, 1, grams=False) + 2 * logits
