"""Models measured in turns; the processes themselves are tested with the command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_windows

from birdbone.errors import SettingError
from birdbone.formats import runtime_benchmark
from birdbone.formats.runtime_benchmark import BenchmarkedModel, run_benchmark
from birdbone.models.evaluation.fresh_process import Measurement, Probe
from birdbone.models.reading.sources import Source


async def test_rounds_go_round_and_medians_count(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, bool]] = []
    speeds = iter([10.0, 1.0, 30.0, 2.0, 20.0, 9.0])

    async def measure(light: Path, dense: None, probe: Probe, announce: Any) -> Measurement:
        calls.append((light.name, probe.tokens is not None))
        figures: Mapping[str, float] = {
            "weight_bytes": 5.0,
            "prefill_tokens_per_second": next(speeds),
            "decode_tokens_per_second": 1.0,
            "peak_bytes": 7.0,
            **({"perplexity": 4.0} if probe.tokens is not None else {}),
        }
        return Measurement({"light": figures}, {"device": "none"})

    monkeypatch.setattr(runtime_benchmark, "measure_folders", measure)
    probe = Probe(tiny_windows(2).tokens, torch.float32)
    both = [BenchmarkedModel(name, Source(name, Path(name)), probe, 128) for name in ("a", "b")]
    found = await run_benchmark(both, rounds=3, announce=lambda *_: None)
    assert calls == [("a", True), ("b", True), *[("a", False), ("b", False)] * 2]
    assert [each.figures["prefill_tokens_per_second"] for each in found] == [20.0, 2.0]
    assert [each.figures["perplexity"] for each in found] == [4.0, 4.0]


async def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(SettingError, match="0 models in 3 rounds"):
        await run_benchmark([], rounds=3, announce=lambda *_: None)
