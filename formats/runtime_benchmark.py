"""Several saved models measured in turns, each by the runtime it is for, each in a fresh process.

A round measures every model once, so that whatever else the machine does falls on all of them
alike; medians over the rounds count. Perplexity is measured in the first round alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ..errors import SettingError
from ..models.evaluation.fresh_process import Announce, Measurement, Probe, measure_folders
from ..models.reading.sources import Source
from .llama_cpp import measure_gguf, require_llama_cpp

Runtime = Literal["transformers", "llama.cpp"]

_REPEATED = ("prefill_tokens_per_second", "decode_tokens_per_second", "peak_bytes")

_KEPT = (
    "weight_bytes",
    *(f"{text}perplexity{error}" for text in ("", "elsewhere_") for error in ("", "_error")),
)


@dataclass(frozen=True)
class BenchmarkedModel:
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
class BenchmarkResult:
    """What was measured of one model.

    Attributes:
        model: what it is called.
        runtime: what ran it.
        figures: ``weight_bytes``, ``perplexity``, ``perplexity_error``, on text from elsewhere
            ``elsewhere_perplexity`` and ``elsewhere_perplexity_error``,
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


async def run_benchmark(
    contenders: Sequence[BenchmarkedModel], *, rounds: int, announce: Announce
) -> list[BenchmarkResult]:
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
            probe = (
                contender.probe
                if turn == 0
                else replace(contender.probe, tokens=None, elsewhere=None)
            )
            found[place].append(await _measured(replace(contender, probe=probe), announce))
    return [_standing(*each) for each in zip(contenders, found, strict=True)]


async def _measured(contender: BenchmarkedModel, announce: Announce) -> Measurement:
    source = contender.source
    if source.gguf is None:
        return await measure_folders(source.folder, None, contender.probe, announce)
    path = source.folder / source.gguf
    return await measure_gguf(path, contender.probe, contender.vocabulary, announce)


def _standing(contender: BenchmarkedModel, found: Sequence[Measurement]) -> BenchmarkResult:
    first = found[0].figures["light"]
    medians = {
        key: statistics.median(each.figures["light"][key] for each in found) for key in _REPEATED
    }
    figures = {key: float(first[key]) for key in _KEPT if key in first}
    return BenchmarkResult(
        contender.name, contender.runtime, {**figures, **medians}, found[0].environment
    )
