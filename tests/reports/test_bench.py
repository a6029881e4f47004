"""The table of bench: cells, names that do not fit, and what it was measured on."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from birdbone.formats.runtime_benchmark import BenchmarkResult
from birdbone.reports.bench import contest_document, contest_report

FIGURES = {
    "weight_bytes": 12_345_678.0,
    "perplexity": 20.12345,
    "perplexity_error": 0.45678,
    "prefill_tokens_per_second": 1335.04,
    "decode_tokens_per_second": 17.26,
    "peak_bytes": 512_000_000.0,
}


def result(model: str, *without: str, **more: Any) -> BenchmarkResult:
    figures = {key: value for key, value in {**FIGURES, **more}.items() if key not in without}
    environment = {"torch": "2.13.0", "device": "cpu"}
    return BenchmarkResult(model, "transformers", figures, environment)


def lines(*standings: BenchmarkResult, **measured_on: str) -> list[str]:
    console = Console(width=80, file=StringIO(), record=True)
    console.print(contest_report(standings, measured_on))
    return [" ".join(line.split()) for line in console.export_text().splitlines() if line.strip()]


def test_a_row_has_size_perplexity_speed_and_memory() -> None:
    found = lines(result("light"))
    assert found[0] == "model runtime bytes perplexity prefill decode peak"
    assert found[2] == ("light transformers 12.3 MB 20.123 ± 0.457 1,335.0 17.3 512.0 MB")


def test_a_wide_perplexity_is_not_broken_in_80_columns() -> None:
    wide = {"perplexity": 1234.5678, "perplexity_error": 12.3456}
    assert " 12.3 MB 1,234.568 ± 12.346 1,335.0 " in lines(result("x" * 8, **wide))[2]


def test_text_from_elsewhere_has_a_line_of_its_own() -> None:
    found = lines(result("light", elsewhere_perplexity=30.0, elsewhere_perplexity_error=0.5))
    assert found[3] == "elsewhere 30.000 ± 0.500"
    assert not any("elsewhere" in line for line in lines(result("light")))


def test_what_was_not_measured_is_a_dash() -> None:
    assert " 12.3 MB – 1,335.0 " in lines(result("light", "perplexity", "perplexity_error"))[2]
    assert " 20.123 1,335.0 " in lines(result("light", "perplexity_error"))[2]


def test_names_that_do_not_fit_stand_below() -> None:
    found = lines(result("a-long-name"), result("b"))
    assert found[0].startswith("runtime bytes")
    assert found[2].startswith("1 transformers")
    assert found[3].startswith("2 transformers")
    assert found[4:6] == ["1: a-long-name", "2: b"]


@pytest.mark.parametrize("name", ["x" * 8, "[b]bold"])
def test_a_short_name_stands_in_its_row(name: str) -> None:
    found = lines(result(name))
    assert found[2].startswith(f"{name} transformers")
    assert not any(line.startswith("1:") for line in found)


def test_how_it_was_measured_is_said_once() -> None:
    found = lines(result("a"), result("b"), text="words", num_windows="4 of 128")
    assert found[-4:] == [
        "prefill and decode: tokens/s; peak: memory; medians, each run in its own process",
        "text: words",
        "num windows: 4 of 128",
        "transformers: torch 2.13.0, device cpu",
    ]


def test_the_document_has_every_figure() -> None:
    found = contest_document([result("light")], {"text": "words"})
    assert json.loads(json.dumps(found)) == found
    assert found["measured_on"] == {"text": "words"}
    (model,) = found["models"]
    assert model["model"] == "light"
    assert model["figures"] == FIGURES
