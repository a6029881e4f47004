"""Measuring saved folders in fresh processes that know nothing of this package.

Each folder is loaded and weighed in a process of its own. Speed and held-out windows are then
compared in the light folder's process, the dense one loaded beside it once the peak was read.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import ProofError

_RESCORE = Path(__file__).with_name("measure_folder.py")
# No look-ups on a network, and one quiet tokenizer.
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

Announce = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Probe:
    """How folders are measured.

    Attributes:
        tokens: int64 ``[num_windows, length]`` to score, or None for load and speed only.
        dtype: to load and compute in.
        device: ``cpu`` or a CUDA device.
        prefill_tokens, decode_tokens: length of the prompt, and of what is decoded after it; both
            shorter where the model's context is.
        repeats: timed runs, of which the median counts.
        trust_remote_code: allow Python that the folder brings to run.
    """

    tokens: Tensor | None
    dtype: torch.dtype
    device: str = "cpu"
    prefill_tokens: int = 128
    decode_tokens: int = 24
    repeats: int = 3
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Measurement:
    """What fresh processes found.

    Attributes:
        figures: by ``light`` and, where there was one, ``dense``; keys as `Saved.figures` has them.
        environment: device and versions, in words.
        decoded: by the same names, what each model said after the same beginnings, rows of token
            ids; empty unless both were compared on text.
    """

    figures: Mapping[str, Mapping[str, float]]
    environment: Mapping[str, str]
    decoded: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)


async def measure_folders(
    light: Path, dense: Path | None, probe: Probe, announce: Announce
) -> Measurement:
    """Measure the light folder and, where given, the dense one beside it.

    Cancelling kills the process that runs. ``announce`` is told of each stage and window.

    Raises:
        ProofError: plain transformers cannot open, run or score a folder.
    """
    alone: Mapping[str, Any] = {}
    if dense is not None:
        announce("dense model opened in a fresh process", 0, None)
        alone = (await _measure(dense, None, probe, announce, compare=False))["figures"]["light"]
    announce("saved folder opened in a fresh process", 0, None)
    found = await _measure(light, dense, probe, announce, compare=True)
    figures = {"light": found["figures"]["light"]}
    if dense is not None:
        figures["dense"] = {**alone, **found["figures"]["dense"]}
    return Measurement(figures, found["environment"], found["decoded"])


async def _measure(
    folder: Path, dense: Path | None, probe: Probe, announce: Announce, *, compare: bool
) -> dict[str, Any]:
    request = {
        "folder": str(folder),
        "dense": str(dense) if dense is not None else None,
        "tokens": None if probe.tokens is None else probe.tokens.tolist(),
        "compare": compare,
        "dtype": str(probe.dtype).removeprefix("torch."),
        "device": probe.device,
        "prefill_tokens": probe.prefill_tokens,
        "decode_tokens": probe.decode_tokens,
        "repeats": probe.repeats,
        "trust_remote_code": probe.trust_remote_code,
    }
    return await run_alone(_RESCORE, request, announce)


async def run_alone(
    script: Path,
    request: Mapping[str, Any],
    announce: Announce,
    *,
    opener: str = "plain transformers",
) -> dict[str, Any]:
    """What a program that stands alone makes of a request about a folder, opened by ``opener``.

    Raises:
        ProofError: the program failed; what it said of the folder is the message.
    """
    with tempfile.TemporaryDirectory() as aside:
        result = Path(aside) / "result.json"
        asked = Path(aside) / "request.json"
        asked.write_text(json.dumps({**request, "result": str(result)}), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(script),
            str(asked),
            cwd=aside,
            env={**os.environ, **_ENVIRONMENT},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await _follow(process, announce)
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):  # it ended by itself in between
                    process.kill()
                await process.wait()
        return _read_result(result, str(request["folder"]), process.returncode, opener)


async def _follow(process: asyncio.subprocess.Process, announce: Announce) -> None:
    """Pass the process's progress lines on until it ends; whatever else it prints is dropped."""
    assert process.stdout is not None
    async for line in process.stdout:
        words = line.decode(errors="replace").split(maxsplit=3)
        if len(words) == 4 and words[0] == "@":
            announce(words[3].strip(), int(words[1]), int(words[2]))
    await process.wait()


def _read_result(path: Path, folder: str, code: int | None, opener: str) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        result = {"error": f"the process ended with exit status {code} and no result"}
        if code == -9:
            result["error"] += "; it was killed, perhaps for want of memory"
    if "error" in result:
        reason = result["error"].replace(folder, "the folder")
        raise ProofError(f"{opener} cannot open and run the saved model: {reason}")
    return result
