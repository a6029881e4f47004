"""Save a GGUF file: write it, score it with llama.cpp and compare it with the model in memory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ...checkpoints import Checkpoint
from ...contexts.flow import Savable
from ...contexts.verdict import PREFIXES
from ...engine import announce, in_thread
from ...formats.ggml_types import FLOAT_KINDS, GgmlKind
from ...formats.llama_cpp import measure_gguf
from ...models.blocks.empty_model import text_config
from ...models.codecs.peft_adapter import has_adapter
from ...models.evaluation.fresh_process import Measurement, Probe, measure_folders
from ...models.reading.folder_files import is_licence
from ...models.writing.folder import write_files
from .acceptance import check_accepted
from .target import is_file_name

FILE_NAME = "model.gguf"

# Of the mean NLL. llama.cpp rounds activations too, to 8 bits where weights have few.
_NLL_OFF, _NLL_OFF_PLAIN = 1e-2, 3e-3


def file_name(target: Path) -> str:
    """The name of the GGUF file when the model is saved as ``target``, a folder or a file."""
    return target.name if is_file_name(target.name) else FILE_NAME


async def write_file(checkpoint: Checkpoint, path: Path, kind: GgmlKind | None) -> None:
    """Write the model as a GGUF file, with its licences in the same folder."""

    from ...formats.gguf_writer import write_gguf

    def announce_tensors(done: int, total: int) -> None:
        announce("tensors written", done, total)

    if has_adapter(checkpoint):
        warnings.warn(
            "save(format='gguf') leaves out the adapter beside the weights, which PEFT reads; save "
            "as safetensors too to keep it",
            stacklevel=2,
        )
    if checkpoint.unused:
        warnings.warn(
            f"save(format='gguf') leaves out {len(checkpoint.unused)} tensors "
            f"({checkpoint.unused_bytes:,} bytes) for which the model has no parameters; save as "
            f"safetensors too to keep them",
            stacklevel=2,
        )
    await in_thread(write_gguf, checkpoint, path, kind=kind, announce=announce_tensors)
    licences = {name: data for name, data in checkpoint.files.items() if is_licence(name)}
    await in_thread(write_files, path.parent, licences)


def score_tolerance(checkpoint: Checkpoint, kind: GgmlKind | None, asked: float | None) -> float:
    """Maximum relative difference of llama.cpp's mean NLL from the one in memory."""
    from ...formats.gguf_tensors import file_kind

    plain = file_kind(checkpoint, kind) in FLOAT_KINDS
    return asked or (_NLL_OFF_PLAIN if plain else _NLL_OFF)


async def judge_file(
    ctx: Savable,
    stored: Checkpoint,
    path: Path,
    beside: Path | None,
    probe: Probe,
    *,
    tolerance: float,
) -> Measurement:
    """Measure the file with llama.cpp and, if given, the dense folder with transformers.

    The scores are compared with `stored`, the values in the file, instead of the model in memory:
    the cost of rounding to a type is measured, and the proof covers what llama.cpp computes.

    Raises:
        ProofError: llama.cpp cannot run it, or its scores differ from those of ``stored``.
        GateError: see `check_accepted`.
    """
    vocabulary = int(text_config(stored).vocab_size)
    found = await measure_gguf(path, probe, vocabulary, announce)
    counts = {
        "parameters": float(stored.num_parameters),
        "nonzero": float(await in_thread(stored.count_nonzero)),
    }
    figures: dict[str, Mapping[str, float]] = {"light": {**found.figures["light"], **counts}}
    environment, samples = dict(found.environment), dict(found.samples)
    if beside is not None:
        dense = await measure_folders(beside, None, probe, announce)
        figures["dense"] = dense.figures["light"]
        figures["light"] = {**figures["light"], **_rises(figures)}
        environment = {**dense.environment, **environment}
        samples["dense"] = dense.samples.get("light", ())
    measured = Measurement(figures, environment, samples=samples)
    judged = cast("Savable", {**cast("dict[str, Any]", ctx), "checkpoint": stored})
    await check_accepted(judged, measured, dtype=probe.dtype, tolerance=tolerance)
    return measured


def _rises(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Light perplexity over dense, minus one, on each text; two runtimes, so no paired error."""
    light, dense = figures["light"], figures["dense"]
    names = [(f"{prefix}rise", f"{prefix}perplexity") for prefix in PREFIXES.values()]
    return {rise: light[name] / dense[name] - 1 for rise, name in names if name in light}
