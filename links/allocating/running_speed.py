"""How fast models run in llama.cpp compared with the original, measured before they are built."""

from __future__ import annotations

import platform
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ...checkpoints import Checkpoint
from ...contexts.forecast import Forecast
from ...engine import announce, in_thread
from ...formats.ggml_types import GgmlKind
from ...formats.llama_cpp import llama_cpp_version, measure_gguf
from ...models.blocks.empty_model import shared_model
from ...models.evaluation.fresh_process import Probe

_PROBE = Probe(None, torch.float32, prefill_tokens=16)

_ORIGINAL_KIND: GgmlKind = "f16"  # what a model that was not quantised is run as
_SPEED = "decode_tokens_per_second"

_START_SECONDS = 1.0  # of a process that opens a file, the writing of the file included
_TOKEN = 0.25  # of the time of a token in transformers in float32


async def running_speeds(
    original: Checkpoint, models: Sequence[Checkpoint], *, rounds: int
) -> list[float]:
    """How many times as many tokens per second as the original each model generates.

    Speed depends on types and shapes only, so files without values are measured. Each is run in a
    fresh process, one sequence at a time, in turns with the original as an F16 file.

    Args:
        original: the model that they are compared with.
        models: outlines of them.
        rounds: turns; the ratios are medians over these.

    Raises:
        ModelError: GGUF does not support the architecture.
        ProofError: llama.cpp cannot run it.
    """
    from ...formats.gguf_stand_in import write_stand_in  # needs the extra gguf

    vocabulary = int(shared_model(original).config.get_text_config(decoder=True).vocab_size)
    found: list[list[float]] = []
    with tempfile.TemporaryDirectory(prefix="birdbone-speed-") as folder:
        paths = [Path(folder, f"{place}.gguf") for place in range(len(models) + 1)]
        await in_thread(write_stand_in, original, paths[0], kind=_ORIGINAL_KIND)
        for model, path in zip(models, paths[1:], strict=True):
            await in_thread(write_stand_in, model, path)
        for turn in range(rounds):
            speeds = []
            for place, path in enumerate(paths):
                announce("speed measured", turn * len(paths) + place, rounds * len(paths))
                measured = await measure_gguf(path, _PROBE, vocabulary, _silent)
                speeds.append(measured.figures["light"][_SPEED])
            found.append([each / speeds[0] for each in speeds[1:]])
    return [statistics.median(each) for each in zip(*found, strict=True)]


def measuring_forecast(files: int, *, rounds: int) -> Forecast:
    """The time of `running_speeds` for that many files, the original's included."""
    runs = files * rounds
    tokens = round(_TOKEN * _PROBE.repeats * _PROBE.decode_tokens * runs)
    return Forecast(seconds=_START_SECONDS * runs, decoded_tokens=tokens)


def measuring_machine() -> Mapping[str, object]:
    """What a measured speed depends on beside the model."""
    return {
        "machine": platform.node(),
        "threads": torch.get_num_threads(),
        "llama.cpp": llama_cpp_version(),
    }


def _silent(label: str, done: int, total: int | None) -> None:
    """Drop the progress within one process."""
