"""llama.cpp, the runtime of GGUF files, run in a fresh process.

The process runs `measure_gguf.py` by path and imports nothing of this package.
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ..errors import MissingExtraError
from ..models.blocks.announcing import Announce
from ..models.codecs.gguf_parts import parts_of
from ..models.evaluation.fresh_process import Measurement, Probe, run_alone

_PROGRAM = Path(__file__).with_name("measure_gguf.py")


def require_llama_cpp() -> None:
    """Check that llama.cpp is installed.

    Raises:
        MissingExtraError: it is not; the message names the extra.
    """
    if find_spec("xllamacpp") is None:
        raise MissingExtraError(
            "GGUF files are run by llama.cpp, which is not installed; "
            "run pip install 'birdbone[llama]'"
        )


def llama_cpp_version() -> str:
    """The version of the bindings, which fixes that of llama.cpp.

    Raises:
        MissingExtraError: as `require_llama_cpp`.
    """
    require_llama_cpp()
    return version("xllamacpp")


async def measure_gguf(
    path: Path, probe: Probe, vocabulary: int, announce: Announce
) -> Measurement:
    """Measure a GGUF file with llama.cpp in a fresh process.

    Args:
        path: the GGUF file.
        probe: the tokens to score, and how to time it.
        vocabulary: number of tokens of its tokenizer.
        announce: receives the progress of the process.

    Raises:
        ProofError: llama.cpp cannot open or run the file.
    """
    tokens = None if probe.tokens is None else probe.tokens.tolist()
    found = await run_llama_cpp(path, tokens, probe, vocabulary, announce)
    return Measurement(found["figures"], found["environment"], samples=found["samples"])


async def run_llama_cpp(
    path: Path, tokens: list[list[int]] | None, probe: Probe, vocabulary: int, announce: Announce
) -> dict[str, Any]:
    """All results of `measure_gguf` for a file, by name.

    Args:
        tokens: windows, of any length each.
        probe: how it is timed, and the text from elsewhere; its held-out text is not used.

    Raises:
        ProofError: it cannot open or run it.
    """
    request = {
        "folder": str(path.parent),
        "file": str(path),
        "parts": [str(part) for part in map(path.with_name, parts_of(path.name)) if part.is_file()],
        "tokens": tokens,
        "elsewhere": None if probe.elsewhere is None else probe.elsewhere.tolist(),
        "vocabulary": vocabulary,
        "threads": torch.get_num_threads(),
        "prefill_tokens": probe.prefill_tokens,
        "decode_tokens": probe.decode_tokens,
        "repeats": probe.repeats,
        "prompts": [list(prompt) for prompt in probe.prompts],
        "sample_tokens": probe.sample_tokens,
    }
    return await run_alone(_PROGRAM, request, announce, opener="llama.cpp")
