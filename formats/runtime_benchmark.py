"""Measuring several saved models in turns, each in its own runtime, each run in a fresh process.

Every round measures every model once, so that other load on the machine affects all of them alike;
medians over the rounds are reported. Perplexity is computed in the first round only.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ..errors import SettingError
from ..models.blocks.announcing import Announce
from ..models.evaluation.fresh_process import Measurement, Probe, measure_folders
from ..models.reading.sources import Source
from .llama_cpp import measure_gguf, require_llama_cpp

BenchmarkRuntime = Literal["transformers", "llama.cpp"]

_REPEATED = ("prefill_tokens_per_second", "decode_tokens_per_second", "peak_bytes")

_KEPT = (
    "weight_bytes",
    *(f"{text}perplexity{error}" for text in ("", "elsewhere_") for error in ("", "_error")),
)


@dataclass(frozen=True)
class BenchmarkedModel:
    """One model to measure.

    Attributes:
        name: the name to report.
        source: where it is.
        probe: the tokens to score, in its own vocabulary, and how to time it.
        vocabulary: number of tokens of its tokenizer.
    """

    name: str
    source: Source
    probe: Probe
    vocabulary: int

    @property
    def runtime(self) -> BenchmarkRuntime:
        """The runtime of this model's files."""
        return "transformers" if self.source.gguf is None else "llama.cpp"


@dataclass(frozen=True)
class BenchmarkResult:
    """The measurements of one model.

    Attributes:
        model: its name.
        runtime: what ran it.
        figures: ``weight_bytes``, ``perplexity``, ``perplexity_error``, on text from elsewhere
            ``elsewhere_perplexity`` and ``elsewhere_perplexity_error``,
            ``prefill_tokens_per_second``, ``decode_tokens_per_second``, ``peak_bytes``; speeds and
            memory are medians over the rounds.
        environment: device and versions.
    """

    model: str
    runtime: BenchmarkRuntime
    figures: Mapping[str, float]
    environment: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, JSON-compatible."""
        return asdict(self)


async def run_benchmark(
    models: Sequence[BenchmarkedModel], *, rounds: int, announce: Announce
) -> list[BenchmarkResult]:
    """Measure every model in every round, in the given order.

    Args:
        models: the models.
        rounds: number of rounds.
        announce: receives the number of finished runs, and the progress of each process.

    Raises:
        MissingExtraError: a runtime is not installed.
        SettingError: there is no model, or ``rounds`` is below 1.
        ProofError: a runtime cannot open or run a model.
    """
    if not models or rounds < 1:
        raise SettingError(f"{len(models)} models in {rounds} rounds: give at least one of each")
    for model in models:
        if model.runtime == "llama.cpp":
            require_llama_cpp()
    found: list[list[Measurement]] = [[] for _ in models]
    for turn in range(rounds):
        for place, model in enumerate(models):
            announce("runs", turn * len(models) + place, rounds * len(models))
            probe = model.probe if turn == 0 else replace(model.probe, tokens=None, elsewhere=None)
            found[place].append(await _measured(replace(model, probe=probe), announce))
    return [_result(*each) for each in zip(models, found, strict=True)]


async def _measured(model: BenchmarkedModel, announce: Announce) -> Measurement:
    source = model.source
    if source.gguf is None:
        return await measure_folders(source.folder, None, model.probe, announce)
    path = source.folder / source.gguf
    return await measure_gguf(path, model.probe, model.vocabulary, announce)


def _result(model: BenchmarkedModel, found: Sequence[Measurement]) -> BenchmarkResult:
    first = found[0].figures["light"]
    medians = {
        key: statistics.median(each.figures["light"][key] for each in found) for key in _REPEATED
    }
    figures = {key: float(first[key]) for key in _KEPT if key in first}
    return BenchmarkResult(model.name, model.runtime, {**figures, **medians}, found[0].environment)
