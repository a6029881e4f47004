"""Speeds are medians of ratios within a round; llama.cpp runs files without values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_choices import gguf_choices
from tiny_gguf import gguf_checkpoint

from birdbone.links import allocate
from birdbone.links.allocating import running_speed
from birdbone.links.allocating.choices import outlined_candidate
from birdbone.links.allocating.running_speed import running_speeds
from birdbone.links.allocating.uniform import uniform_types
from birdbone.models.evaluation.fresh_process import Measurement

# Tokens per second of the original and of two models, in three rounds of a machine that slows down.
_ROUNDS = ((100.0, 150.0, 180.0), (50.0, 80.0, 110.0), (10.0, 17.0, 19.0))


async def test_ratios_within_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the medians of all speeds, the ratios would be 1.6 and 2.2."""
    files: list[Path] = []
    speeds = (each for turn in _ROUNDS for each in turn)

    async def measured(path: Path, *_: Any) -> Measurement:
        files.append(path)
        return Measurement({"light": {"decode_tokens_per_second": next(speeds)}}, {})

    monkeypatch.setattr(running_speed, "measure_gguf", measured)
    choices = gguf_choices()
    models = [outlined_candidate(choices.checkpoint, each) for each in uniform_types(choices)][:2]
    found = await running_speeds(choices.checkpoint, models, rounds=3)
    assert found == pytest.approx([1.6, 1.9])
    assert files[:3] * 3 == files  # in turns
    assert not files[0].parent.exists()


@pytest.mark.parametrize("changed", ["machine", "threads", "llama.cpp"])
def test_measured_again_where_another_speed_is_expected(
    monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    facts = {"machine": "a", "threads": 1, "llama.cpp": "0.1"}
    monkeypatch.setattr(running_speed.platform, "node", lambda: facts["machine"])
    monkeypatch.setattr(torch, "get_num_threads", lambda: facts["threads"])
    monkeypatch.setattr(running_speed, "llama_cpp_version", lambda: facts["llama.cpp"])
    reads, settings = allocate.hooks.reads, allocate(speed=1.5).settings
    assert reads is not None
    before = reads(settings)
    facts[changed] = "b"
    assert reads(settings) != before
    assert reads(allocate(ratio=0.5).settings) is None


async def test_llama_cpp_runs_them() -> None:
    pytest.importorskip("xllamacpp")
    choices = gguf_choices("llama tied")
    model = outlined_candidate(choices.checkpoint, next(uniform_types(choices)))
    (found,) = await running_speeds(gguf_checkpoint("llama tied"), [model], rounds=1)
    assert found > 0
