"""Several saved models measured in turns, each by the runtime it is for, each in a fresh process.

A round measures every model once, so that whatever else the machine does falls on all of them
alike; medians over the rounds count. Perplexity is measured in the first round alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from ..errors import MissingExtraError, SettingError
from ..models.fresh_process import Measurement, Probe, measure_folders, run_alone
from ..models.sources import Source

Runtime = Literal["transformers", "llama.cpp"]
Announce = Callable[[str, int, int | None], None]

_LLAMA_CPP = Path(__file__).with_name("llama_cpp.py")
_REPEATED = ("prefill_tokens_per_second", "decode_tokens_per_second", "peak_bytes")


@dataclass(frozen=True)
class Contender:
    """One model to be measured.

    Attributes:
        name: what to call it.
        source: where it is.
        probe: the tokens it is scored on, in its own vocabulary, and how it is timed.
        vocabulary: how many tokens it knows.
    """

    name: str
    source: Source
    probe: Probe
    vocabulary: int

    @property
    def runtime(self) -> Runtime:
        """What runs such files."""
        return "transformers" if self.source.gguf is None else "llama.cpp"


@dataclass(frozen=True)
class Standing:
    """What was measured of one model.

    Attributes:
        model: what it is called.
        runtime: what ran it.
        figures: ``weight_bytes``, ``perplexity``, ``perplexity_error``,
            ``prefill_tokens_per_second``, ``decode_tokens_per_second``, ``peak_bytes``; medians
            over the rounds where there are several.
        environment: device and versions, in words.
    """

    model: str
    runtime: Runtime
    figures: Mapping[str, float]
    environment: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """In types JSON knows."""
        return asdict(self)


async def compete(
    contenders: Sequence[Contender], *, rounds: int, announce: Announce
) -> list[Standing]:
    """Measure every model in every round, in their order.

    Args:
        announce: told how many of how many runs are done, and what each process says of itself.

    Raises:
        MissingExtraError: a runtime is not installed.
        SettingError: no model, or no round.
        ProofError: a model cannot be opened and run by its runtime.
    """
    if not contenders or rounds < 1:
        raise SettingError(
            f"{len(contenders)} models in {rounds} rounds: give at least one of each"
        )
    for contender in contenders:
        if contender.runtime == "llama.cpp":
            require_llama_cpp()
    found: list[list[Measurement]] = [[] for _ in contenders]
    for turn in range(rounds):
        for place, contender in enumerate(contenders):
            announce("runs", turn * len(contenders) + place, rounds * len(contenders))
            probe = contender.probe if turn == 0 else replace(contender.probe, tokens=None)
            found[place].append(await _measured(replace(contender, probe=probe), announce))
    return [_standing(*each) for each in zip(contenders, found, strict=True)]


def require_llama_cpp() -> None:
    """See that what runs GGUF files is installed.

    Raises:
        MissingExtraError: it is not.
    """
    if find_spec("xllamacpp") is None:
        raise MissingExtraError(
            "GGUF files are run by llama.cpp, which is not installed; "
            "run pip install 'birdbone[llama]'"
        )


async def measure_gguf(
    path: Path, probe: Probe, vocabulary: int, announce: Announce
) -> Measurement:
    """What llama.cpp makes of a file, in a fresh process.

    Raises:
        ProofError: it cannot open or run it.
    """
    tokens = None if probe.tokens is None else probe.tokens.tolist()
    found = await run_llama_cpp(path, tokens, probe, vocabulary, announce)
    return Measurement(found["figures"], found["environment"])


async def run_llama_cpp(
    path: Path, tokens: list[list[int]] | None, probe: Probe, vocabulary: int, announce: Announce
) -> dict[str, Any]:
    """Everything `llama_cpp` says of a file: ``figures``, ``nll`` and ``environment``.

    Args:
        tokens: windows, of any length each.
        probe: how it is timed; its own tokens are not used.

    Raises:
        ProofError: it cannot open or run it.
    """
    request = {
        "folder": str(path.parent),
        "file": str(path),
        "tokens": tokens,
        "vocabulary": vocabulary,
        "threads": torch.get_num_threads(),
        "prefill_tokens": probe.prefill_tokens,
        "decode_tokens": probe.decode_tokens,
        "repeats": probe.repeats,
    }
    return await run_alone(_LLAMA_CPP, request, announce, opener="llama.cpp")


async def _measured(contender: Contender, announce: Announce) -> Measurement:
    source = contender.source
    if source.gguf is None:
        return await measure_folders(source.folder, None, contender.probe, announce)
    path = source.folder / source.gguf
    return await measure_gguf(path, contender.probe, contender.vocabulary, announce)


def _standing(contender: Contender, found: Sequence[Measurement]) -> Standing:
    first = found[0].figures["light"]
    medians = {
        key: statistics.median(each.figures["light"][key] for each in found) for key in _REPEATED
    }
    kept = ("weight_bytes", "perplexity", "perplexity_error")
    figures = {key: float(first[key]) for key in kept if key in first}
    return Standing(contender.name, contender.runtime, {**figures, **medians}, found[0].environment)
