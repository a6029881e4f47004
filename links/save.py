"""Write the model as a folder anybody can open, and publish it only once that is proven.

A fresh process opens what was written with plain transformers and scores it; those are the figures
that count. If they are not what was measured in memory, nothing is published.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ..checkpoints import BitsAndBytes, Checkpoint
from ..contexts.flow import Savable, Written
from ..contexts.saved import Saved
from ..engine import announce, in_thread, link
from ..errors import ProofError
from ..models.fresh_process import Measurement, Probe, measure_folders
from ..models.publishing import PROVENANCE, check_disk, check_target, private_folder, publish
from ..models.scoring import own_perplexity
from ..models.skeleton import compute_dtype, default_device, has_code
from ..models.writing import weight_format, write_model
from ..reports.card import model_card
from ..reports.provenance import provenance, stands, without_paths
from ..texts import Windows

__all__ = ["check_disk", "check_target", "save"]

# Relative to the mean NLL in memory. LLM.int8 quantises activations too, NF4 computes in the
# dtype its scales are stored in, and bfloat16 on CUDA depends on the shape of the batch.
_TOLERANCES = {"dense": 1e-3, "packed": 1e-3, "nf4": 1e-2, "llm.int8": 2e-2}
_HALF_TOLERANCE = 5e-3
_SPARE_BYTES = 64 << 20  # tokenizer, card and what safetensors adds


@link
async def save(
    ctx: Savable,
    *,
    path: str,
    force: bool = False,
    max_shard_gb: Annotated[float, Field(gt=0)] = 5.0,
    compare: bool = True,
    tolerance: Annotated[float, Field(gt=0)] | None = None,
) -> Written:
    """Save an ordinary Hugging Face folder, prove it in a fresh process, then publish it.

    Settings:
        path: the folder; one that exists is replaced if birdbone made it.
        force: replace a folder birdbone did not make.
        max_shard_gb: size a weight file keeps to.
        compare: measure the dense model beside it.
        tolerance: how far the mean NLL may lie from the one in memory, relative; None for what
            the format can keep.

    Raises:
        SettingError: the folder may not be replaced.
        ResourceError: the disk is too small.
        ProofError: the folder does not open, or does not score as the model did in memory.
    """
    checkpoint, dense = ctx["checkpoint"], ctx["dense"]
    target = check_target(path, force)
    check_disk(target, _needed_bytes(checkpoint, dense if compare else None))
    heldout = ctx.get("heldout")
    probe = _probe(checkpoint, heldout)
    with ExitStack() as stack:
        folder = stack.enter_context(private_folder(target, "partial"))
        await _write(checkpoint, folder, max_shard_gb)
        beside = stack.enter_context(private_folder(target, "dense")) if compare else None
        if beside is not None:
            await _write(dense, beside, max_shard_gb)
        found = await measure_folders(folder, beside, probe, announce)
        if heldout is not None:
            expected = await _in_memory(ctx, heldout, str(probe.dtype).removeprefix("torch."))
            _check_proof(checkpoint, expected, found, probe, tolerance)
        measured_on = _measured_on(found, probe, heldout)
        await in_thread(_describe, ctx, folder, target.name, found, measured_on)
        await in_thread(publish, folder, target)
    light = found.figures["light"]
    saved = Saved(target, int(light["weight_bytes"]), found.figures, measured_on)
    return {"saved": saved, "metrics": dict(light)}


@save.foresee
def _may_be_written(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """A folder that may not be replaced is refused before any work."""
    check_target(settings["path"], settings["force"])


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


def _check_proof(
    checkpoint: Checkpoint, expected: float, found: Measurement, probe: Probe, asked: float | None
) -> None:
    """Hold the fresh process's figure against the one in memory."""
    bound = asked or _default_tolerance(checkpoint, probe)
    measured = found.figures["light"]["perplexity"]
    off = abs(math.log(measured) - math.log(expected)) / max(math.log(expected), 1e-9)
    if not off <= bound:
        raise ProofError(
            f"the saved folder has perplexity {measured:.4f} in a fresh process, the model in "
            f"memory had {expected:.4f}: the mean NLL is off by {off:.2%}, more than "
            f"{bound:.2%}; nothing was published. Raise tolerance if that much is expected"
        )


async def _in_memory(ctx: Savable, windows: Windows, dtype: str) -> float:
    """Perplexity in memory: the verdict's if it is of this very model, windows and dtype."""
    verdict, checkpoint = ctx.get("verdict"), ctx["checkpoint"]
    if verdict is not None:
        measured = (verdict.checkpoint, verdict.windows, verdict.dtype)
        if measured == (checkpoint.id, windows.digest, dtype):
            return verdict.light.value
    return await in_thread(own_perplexity, checkpoint, windows, announce=announce)


def _default_tolerance(checkpoint: Checkpoint, probe: Probe) -> float:
    bound = _TOLERANCES[weight_format(checkpoint)]
    return bound if probe.dtype.itemsize >= 4 else max(bound, _HALF_TOLERANCE)


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
    ctx: Savable, folder: Path, name: str, found: Measurement, measured_on: Mapping[str, str]
) -> None:
    """Leave the card and, last, the provenance with everybody's checksums."""
    history = ctx.get("history", ())
    card = model_card(
        name=name,
        checkpoint=ctx["checkpoint"],
        weight_format=weight_format(ctx["checkpoint"]),
        history=history,
        figures=found.figures,
        measured_on=measured_on,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    record = provenance(
        checkpoint=ctx["checkpoint"],
        dense=ctx["dense"],
        history=history,
        texts=_texts(ctx),
        figures=found.figures,
        measured_on=measured_on,
        files=[path for path in folder.iterdir() if path.is_file()],
    )
    (folder / PROVENANCE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _texts(ctx: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    parts = {name: ctx.get(name) for name in ("calibration", "healing", "heldout")}
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
