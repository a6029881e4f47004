"""birdbone bench: models side by side, each in its own runtime, in turns."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded import record
from rich.console import Console
from typer.testing import CliRunner, Result

from birdbone.cli import app
from birdbone.formats import llama_cpp, runtime_benchmark
from birdbone.formats.runtime_benchmark import BenchmarkResult
from birdbone.models.evaluation.fresh_process import Measurement, Probe
from birdbone.reports.bench import contest_report

SPEEDS = ("prefill_tokens_per_second", "decode_tokens_per_second")


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, args)])


def needs_llama_cpp() -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed")


def test_each_model_is_measured_in_its_own_runtime(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_llama_cpp()
    monkeypatch.chdir(folders)
    out = tmp_path / "found.json"
    sizes = ("--windows", 3, "--length", 16, "--rounds", 1)
    # The first model and the text by the path from here, which is not where the processes run.
    models = ["dense", folders / "packed", folders / "gguf"]
    texts = ("--heldout-data", "text.txt", "--elsewhere", "readmes")
    found = run(*models, *sizes, *texts, "--out", out, "--json", "--quiet")
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
    assert document["measured_on"]["elsewhere_windows"] == "3 of 16 tokens"
    elsewhere = [each["figures"]["elsewhere_perplexity"] for each in (gguf, dense)]
    assert elsewhere[0] == pytest.approx(elsewhere[1], rel=1e-3)
    assert elsewhere[1] != dense["figures"]["perplexity"]
    assert packed["figures"]["weight_bytes"] < dense["figures"]["weight_bytes"]
    assert packed["figures"]["perplexity"] != dense["figures"]["perplexity"]
    for each in document["models"]:
        for key in (*SPEEDS, "peak_bytes"):
            assert each["figures"][key] > 0


def test_a_runtime_that_is_not_installed_is_named(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        llama_cpp, "find_spec", lambda name: None if name == "xllamacpp" else real(name)
    )
    found = run(folders / "gguf", "--heldout-data", folders / "text.txt", "--length", 16)
    assert found.exit_code == 1
    assert "birdbone[llama]" in found.output


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
        assert "windows of 65 tokens are longer than the context of" in found.output


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


async def measure(light: Path, dense: None, probe: Probe, announce: Any) -> Measurement:
    """The same figures for every model, without a process."""
    assert probe.tokens is not None
    assert probe.tokens.shape == (2, 16)
    figures = dict.fromkeys(("weight_bytes", "peak_bytes", "perplexity", *SPEEDS), 7.0)
    other = {} if probe.elsewhere is None else {"elsewhere_perplexity": 8.5}
    return Measurement({"light": {**figures, **other}}, {"device": "none"})


def test_the_result_is_kept_beside_the_models_that_birdbone_saved(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_benchmark, "measure_folders", measure)
    ours = tmp_path / "ours"
    shutil.copytree(folders / "dense", ours)
    (ours / "birdbone.json").write_text(json.dumps(record()))
    (ours / "report.html").write_text("an older page")
    sizes = ("--length", 16, "--windows", 2, "--rounds", 1)
    found = run(
        ours, folders / "packed", "--heldout-data", folders / "text.txt", *sizes, "--record"
    )
    assert found.exit_code == 0, found.output
    kept = json.loads((ours / "bench.json").read_text())
    assert [each["model"] for each in kept["models"]] == ["ours", "packed"]  # without folders
    assert "<h2>Speed and memory</h2>" in (ours / "report.html").read_text()
    assert not (folders / "packed" / "bench.json").exists()
    assert "birdbone did not save" in found.output


def test_4_bit_floats_are_measured_in_bfloat16(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtypes: dict[str, set[torch.dtype]] = {}

    async def noted(light: Path, dense: None, probe: Probe, announce: Any) -> Measurement:
        dtypes.setdefault(Path(light).name, set()).add(probe.dtype)
        return await measure(light, dense, probe, announce)

    monkeypatch.setattr(runtime_benchmark, "measure_folders", noted)
    floats = Path(shutil.copytree(folders / "packed", tmp_path / "floats"))
    config = json.loads((floats / "config.json").read_text())
    config["quantization_config"]["format"] = "mxfp4-pack-quantized"
    (floats / "config.json").write_text(json.dumps(config))
    sizes = ("--length", 16, "--windows", 2, "--rounds", 1)
    found = run(folders / "packed", floats, "--heldout-data", folders / "text.txt", *sizes)
    assert found.exit_code == 0, found.output
    assert dtypes == {"packed": {torch.float32}, "floats": {torch.bfloat16}}


def test_the_table_has_a_row_for_each(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_benchmark, "measure_folders", measure)
    text = folders / "text.txt"
    models = (folders / "dense", folders / "packed")
    found = run(*models, "--heldout-data", text, "--length", 16, "--windows", 2, "--rounds", 1)
    assert found.exit_code == 0, found.output
    for words in ("runtime", "prefill", "2 of 16 tokens"):
        assert words in found.output
    assert sum("transformers" in line and "7.0" in line for line in found.output.splitlines()) == 2
    assert "elsewhere" not in found.output
    sizes = ("--length", 16, "--windows", 2, "--rounds", 1)
    both = run(*models, "--heldout-data", text, "--elsewhere", "readmes", *sizes)
    lines = [" ".join(line.split()) for line in both.output.splitlines()]
    assert lines.count("elsewhere 8.500") == 2
    assert "elsewhere windows: 2 of 16 tokens" in lines
