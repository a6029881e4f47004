"""Measure saved folders in fresh processes that do not import this package.

Each folder is loaded and its size and peak memory are measured in a separate process. Speed and
held-out windows are compared in the light folder's process, which loads the dense model after its
own peak memory was read.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoints import open_folder
from ...errors import CheckpointError, ProofError
from ...texts.worst_windows import WorstWindow
from ..blocks.announcing import Announce
from ..blocks.config import impossible_depth
from .memory_limit import MemoryLimit, memory_limit

_LAUNCHER = Path(__file__).with_name("standalone.py")
_RESCORE = Path(__file__).with_name("measure_folder.py")
_KILLED = (-9, -6, -11, 134, 137, 139)  # by a signal, of which memory that ran out is one reason
_OTHER_SHAPES = "ignore_mismatched_sizes"
_OFFLINE = {"HF_HUB_OFFLINE": "1"}
_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false"}  # no tokenizer threads


@dataclass(frozen=True)
class Probe:
    """How folders are measured.

    Attributes:
        tokens: held-out text to score, int64 ``[num_windows, length]``, or None for size and speed
            only.
        elsewhere: text from elsewhere to score too, int64 ``[num_windows, length]``.
        dtype: dtype of loading and computing.
        device: ``cpu`` or a CUDA device.
        prefill_tokens, decode_tokens: length of the prompt and of the greedy continuation; reduced
            to fit the model's context.
        repeats: timed runs; the median is reported.
        trust_remote_code: allow Python code of the folder to run.
        prompts: token ids that the models continue greedily, each by ``sample_tokens`` tokens.
    """

    tokens: Tensor | None
    dtype: torch.dtype
    device: str = "cpu"
    prefill_tokens: int = 128
    decode_tokens: int = 24
    repeats: int = 3
    trust_remote_code: bool = False
    elsewhere: Tensor | None = None
    prompts: Sequence[Sequence[int]] = ()
    sample_tokens: int = 48


@dataclass(frozen=True)
class Measurement:
    """The measurements of the fresh processes.

    Attributes:
        figures: by ``light`` and, if it was measured, ``dense``; keys as in `Saved.figures`.
        environment: device and versions.
        decoded: by the same names, greedy continuations of the same prompts, rows of token ids;
            empty unless both models were compared on text.
        samples: by the same names, the continuations of `Probe.prompts`: token ids, or text where
            the runtime returns text.
        worst: by ``heldout`` and ``elsewhere``, the windows with the largest mean KL divergence.
    """

    figures: Mapping[str, Mapping[str, float]]
    environment: Mapping[str, str]
    decoded: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)
    samples: Mapping[str, Sequence[Sequence[int] | str]] = field(default_factory=dict)
    worst: Mapping[str, Sequence[WorstWindow]] = field(default_factory=dict)


async def measure_folders(
    light: Path, dense: Path | None, probe: Probe, announce: Announce
) -> Measurement:
    """Measure the light folder and, if given, the dense one.

    Cancelling kills the running process. ``announce`` receives every stage and window.

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
    worst = {
        name: tuple(WorstWindow(**window) for window in windows)
        for name, windows in found["worst"].items()
        if windows
    }
    return Measurement(figures, found["environment"], found["decoded"], found["samples"], worst)


async def _measure(
    folder: Path, dense: Path | None, probe: Probe, announce: Announce, *, compare: bool
) -> dict[str, Any]:
    request = {
        "folder": str(folder),
        "dense": str(dense) if dense is not None else None,
        "tokens": None if probe.tokens is None else probe.tokens.tolist(),
        "elsewhere": None if probe.elsewhere is None else probe.elsewhere.tolist(),
        "compare": compare,
        "dtype": str(probe.dtype).removeprefix("torch."),
        "device": probe.device,
        "prefill_tokens": probe.prefill_tokens,
        "decode_tokens": probe.decode_tokens,
        "repeats": probe.repeats,
        "trust_remote_code": probe.trust_remote_code,
        "prompts": [list(prompt) for prompt in probe.prompts],
        "sample_tokens": probe.sample_tokens,
    }
    return await run_alone(_RESCORE, request, announce)


def interpreter() -> Sequence[str]:
    """The command that runs a program in a fresh interpreter, isolated from the user's modules."""
    return (sys.executable, "-I")


async def run_alone(
    script: Path,
    request: Mapping[str, Any],
    announce: Announce,
    *,
    opener: str = "plain transformers",
    network: bool = False,
) -> dict[str, Any]:
    """Run a script with `standalone` on a request about a folder; returns its result.

    Args:
        opener: the runtime, for messages.
        network: allow the script to use the network, unless the environment forbids it.

    Raises:
        ProofError: the script failed; the message is its error, with ``opener`` as the runtime.
        SettingError: the memory limit that the environment sets is no number.
    """
    limit = memory_limit(request)
    _check_depth(Path(request["folder"]), opener)
    with tempfile.TemporaryDirectory() as aside:
        result = Path(aside) / "result.json"
        asked = Path(aside) / "request.json"
        allowed = None if limit is None else limit.num_bytes
        asked.write_text(
            json.dumps({**request, "result": str(result), "memory_limit": allowed}),
            encoding="utf-8",
        )
        process = await asyncio.create_subprocess_exec(
            *interpreter(),
            str(_LAUNCHER),
            str(script),
            str(asked),
            cwd=aside,
            env={**os.environ, **({} if network else _OFFLINE), **_ENVIRONMENT},
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
        return _read_result(result, str(request["folder"]), process.returncode, opener, limit)


async def _follow(process: asyncio.subprocess.Process, announce: Announce) -> None:
    """Forward the progress lines of the process until it ends; other output is dropped.

    Code of the folder may print anything there: lines of any length, and some that begin alike.
    """
    assert process.stdout is not None
    async for line in _lines(process.stdout):
        words = line.decode(errors="replace").split(maxsplit=3)
        if len(words) == 4 and words[0] == "@" and words[1].isdecimal() and words[2].isdecimal():
            announce(words[3].strip(), int(words[1]), int(words[2]))
    await process.wait()


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a stream, without parts of lines that do not fit its buffer."""
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            continue
        if not line:
            return
        yield line


def _read_result(
    path: Path, folder: str, code: int | None, opener: str, limit: MemoryLimit | None
) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        result = {"error": f"the process ended with exit status {code} and no result"}
        if code in _KILLED:
            result["error"] += "; it was killed, possibly because memory ran out"
            if limit is not None:
                result["error"] += f": it may take {limit}"
    if "error" in result:
        reason = result["error"].replace(folder, "the folder")
        if _OTHER_SHAPES in reason:  # followed by a reference to a table that nobody sees
            reason = "its files hold tensors of other shapes than its config asks for"
        if limit is not None:
            reason = limit.explain(reason)
        raise ProofError(f"{opener} cannot open and run the saved model: {reason}")
    return result


def _check_depth(folder: Path, opener: str) -> None:
    """Refuse a config with more layers than the folder has tensors: making them takes hours."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        num_tensors = len(open_folder(folder))
    except (OSError, ValueError, RecursionError, CheckpointError):
        return  # the process reports what is wrong
    if isinstance(config, dict) and (fault := impossible_depth(config, num_tensors)):
        raise ProofError(f"{opener} cannot open and run the saved model: {fault}")
