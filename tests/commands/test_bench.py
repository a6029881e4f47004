"""birdbone bench: models side by side, each in its own runtime, in turns."""

from __future__ import annotations

import importlib.util
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tiny import tiny_windows
from typer.testing import CliRunner, Result

from birdbone.checkpoints import Checkpoint
from birdbone.cli import app
from birdbone.errors import BirdboneError, MissingExtraError, SettingError
from birdbone.formats import llama_cpp, runtime_benchmark
from birdbone.formats.gguf import write_gguf
from birdbone.formats.llama_cpp import measure_gguf, require_llama_cpp
from birdbone.formats.runtime_benchmark import BenchmarkedModel, BenchmarkResult, run_benchmark
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.evaluation.fresh_process import Measurement, Probe
from birdbone.models.reading.sources import Source
from birdbone.reports.bench import contest_report

SPEEDS = ("prefill_tokens_per_second", "decode_tokens_per_second")


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, args)])


def needs_llama_cpp() -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed")


def perplexity(checkpoint: Checkpoint, tokens: torch.Tensor) -> float:
    """In memory."""
    model = Skeleton(checkpoint).fill().eval()
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    return math.exp(float(loss))


def test_each_model_is_measured_in_its_own_runtime(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_llama_cpp()
    monkeypatch.chdir(folders)
    out = tmp_path / "found.json"
    sizes = ("--windows", 3, "--length", 16, "--rounds", 1)
    # The first model and the text by the path from here, which is not where the processes run.
    models = ["dense", folders / "packed", folders / "gguf"]
    found = run(*models, *sizes, "--heldout-data", "text.txt", "--out", out, "--json", "--quiet")
    assert found.exit_code == 0, found.output
    document = json.loads(found.stdout)
    assert document == json.loads(out.read_text())
    dense, packed, gguf = document["models"]
    assert [each["runtime"] for each in document["models"]] == [
        "transformers",
        "transformers",
        "llama.cpp",
    ]
    assert [dense["model"], packed["model"]] == ["dense", str(folders / "packed")]
    assert document["measured_on"]["windows"] == "3 of 16 tokens"
    assert document["measured_on"]["rounds"] == "1"
    assert gguf["figures"]["weight_bytes"] == (folders / "gguf" / "model.gguf").stat().st_size
    assert gguf["figures"]["perplexity"] == pytest.approx(dense["figures"]["perplexity"], rel=1e-3)
    assert packed["figures"]["weight_bytes"] < dense["figures"]["weight_bytes"]
    assert packed["figures"]["perplexity"] != dense["figures"]["perplexity"]
    for each in document["models"]:
        for key in (*SPEEDS, "peak_bytes"):
            assert each["figures"][key] > 0


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
async def test_llama_cpp_is_asked_for_the_text_s_own_tokens(
    kind: Any, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    needs_llama_cpp()
    path = write_gguf(checkpoint, tmp_path / "model.gguf", kind=kind).path
    size = int(checkpoint.config["vocab_size"])
    generator = torch.Generator().manual_seed(3)
    # Any token at all: among them bytes that are no letter by themselves, and ends of text.
    tokens = torch.randint(0, size, (2, 40), generator=generator)
    tokens[0, 7] = int(checkpoint.config["eos_token_id"])
    probe = Probe(tokens, torch.float32, prefill_tokens=8, decode_tokens=4, repeats=1)
    found = await measure_gguf(path, probe, size, lambda *_: None)
    measured = found.figures["light"]["perplexity"]
    bound = {"f32": 2e-3, "q8_0": 3e-2}[kind]
    assert math.log(measured) == pytest.approx(math.log(perplexity(checkpoint, tokens)), rel=bound)
    assert found.environment["llama.cpp"].startswith("xllamacpp ")


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


def test_a_runtime_that_is_not_installed_is_named(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        llama_cpp, "find_spec", lambda name: None if name == "xllamacpp" else real(name)
    )
    with pytest.raises(MissingExtraError, match=r"pip install 'birdbone\[llama\]'"):
        require_llama_cpp()
    found = run(folders / "gguf", "--heldout-data", folders / "text.txt", "--length", 16)
    assert found.exit_code == 1
    assert "birdbone[llama]" in found.output


async def test_a_file_llama_cpp_cannot_open_is_an_error_that_says_so(tmp_path: Path) -> None:
    needs_llama_cpp()
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(400))
    probe = Probe(None, torch.float32, prefill_tokens=8, decode_tokens=4, repeats=1)
    with pytest.raises(BirdboneError, match=r"llama\.cpp cannot open and run the saved model"):
        await measure_gguf(tmp_path / "broken.gguf", probe, 128, lambda *_: None)


def test_windows_longer_than_a_model_takes_are_refused_before_anything_runs(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(*_: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(llama_cpp, "run_alone", none)
    monkeypatch.setattr(runtime_benchmark, "measure_folders", none)
    monkeypatch.setattr(llama_cpp, "require_llama_cpp", lambda: None)
    for name in ("dense", "gguf"):
        found = run(folders / name, "--heldout-data", folders / "text.txt", "--length", 65)
        assert found.exit_code == 1
        assert "windows of 65 tokens are longer than the 64 that" in found.output


@pytest.mark.parametrize("name", ["light", "/home/somebody/models/of/last/week/light-int4"])
def test_a_long_path_leaves_the_table_whole_in_80_columns(name: str) -> None:
    figures = {
        "weight_bytes": 112.8e6,
        "perplexity": 48.28,
        "perplexity_error": 3.265,
        "prefill_tokens_per_second": 284.0,
        "decode_tokens_per_second": 16.7,
        "peak_bytes": 1.3e9,
    }
    standing = BenchmarkResult(name, "transformers", figures, {"device": "x86_64"})
    console = Console(width=80, file=io.StringIO())
    console.print(contest_report([standing, standing], {"text": "words"}))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert sum("48.280 ± 3.265" in line for line in lines) == 2
    assert sum(name in line for line in lines) == 2


def test_the_table_has_a_row_for_each(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def measure(light: Path, dense: None, probe: Probe, announce: Any) -> Measurement:
        assert probe.tokens is not None
        assert probe.tokens.shape == (2, 16)
        figures = dict.fromkeys(("weight_bytes", "peak_bytes", "perplexity", *SPEEDS), 7.0)
        return Measurement({"light": figures}, {"device": "none"})

    monkeypatch.setattr(runtime_benchmark, "measure_folders", measure)
    text = folders / "text.txt"
    models = (folders / "dense", folders / "packed")
    found = run(*models, "--heldout-data", text, "--length", 16, "--windows", 2, "--rounds", 1)
    assert found.exit_code == 0, found.output
    for words in ("runtime", "prefill", "2 of 16 tokens"):
        assert words in found.output
    assert sum("transformers" in line and "7.0" in line for line in found.output.splitlines()) == 2
