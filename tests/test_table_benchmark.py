"""benchmarks/table.py on a tiny model; here its runs are not processes of their own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from tiny_folders import written

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PAGE = "before\n{begin}\nold\n{end}\nafter\n"


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    names = ("table", "table_page", "own_run", "run_record", "table_rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import own_run
        import table
        import table_page

        yield {"table": table, "page": table_page, "own": own_run}
    for name in names:
        del sys.modules[name]


def record(perplexity: float, **more: Any) -> dict[str, Any]:
    return {"perplexity": {"one": perplexity}, **more}


def condition() -> dict[str, Any]:
    judges = {"one": [20, "digest"]}
    setting = {
        "model": "tiny",
        "drift": 0,
        "windows": 16,
        "length": 512,
        "calibration": ["text", "digest"],
        "judges": judges,
    }
    times = {"cpu_seconds": 90.0}
    runs = {
        "dense": record(30.0, machine="x86_64, 1 thread(s)"),
        "2:4 / magnitude / seed 0": record(90.0, **times),
        "structured 20 % / bird-bone, healed / seed 0": record(
            70.0, **times, healing=[{"kept": False}]
        ),
        "2:4 / bird-bone, default / seed 0": record(50.0, **times),
        "2:4 / bird-bone, default / seed 1": record(
            52.0, cpu_seconds=240.0, versions={"peer": "0.14"}
        ),
    }
    failed = {"2:4 / llm-compressor, SparseGPT / seed 0": "no environment given"}
    return {"setting": setting, "runs": runs, "failed": failed}


def test_the_page_shows_means_and_what_was_not_measured(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    module, page = modules["page"], tmp_path / "page.md"
    page.write_text(PAGE.format(begin=module.BEGIN, end=module.END))
    module.write_page(page, {"key": condition()})
    once = page.read_text()
    assert "| 2:4 | magnitude | 90.00 | no text used | 1.5 |" in once
    assert "|  | llm-compressor, SparseGPT | – | 0 | – |" in once
    assert "– in rows of llm-compressor, SparseGPT: no environment given." in once
    assert "|  | bird-bone, default | 51.00 ± 1.41 | 2 | 1.5 |" in once
    assert "| original |  | 30.00 |  |  |" in once
    assert "peer 0.14" in once
    assert "was discarded in structured 20 % / bird-bone, healed / seed 0." in once
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert "old" not in once
    module.write_page(page, {"key": condition()})
    assert page.read_text() == once


def test_the_published_table_is_of_the_stored_results(modules: dict[str, ModuleType]) -> None:
    stored = json.loads((BENCHMARKS / "table-results.json").read_text())
    assert modules["page"].tables(stored) in (BENCHMARKS.parent / "docs/benchmarks.md").read_text()


def test_a_page_without_markers_is_left_alone(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("no markers")
    with pytest.raises(ValueError, match="markers"):
        modules["page"].write_page(page, {})
    assert page.read_text() == "no markers"


def test_the_same_command_resumes(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the structured rows lose the fraction of the blocks' parameters that they name."""
    model = written(tiny_checkpoint(num_hidden_layers=1), tmp_path / "model")
    text = tmp_path / "text.txt"
    text.write_text("the thing and the other in the box of it\n" * 200)
    finished = []

    def finish(words: list[str], threads: int) -> None:
        finished.append(words)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", words[1:])
            modules["own"].main()

    monkeypatch.setattr(modules["table"], "finish", finish)
    given = ("--model", str(model), "--calibration", str(text), "--judge", f"text={text}")
    tasks = ("--tasks", "2:4", "structured 20 %", "--methods", "magnitude", "Torch", "not healed")
    small = ("--windows", "4", "--judge-windows", "2", "--length", "16", "--seeds", "0", "1")
    words = ["--work", str(tmp_path / "work"), *given, *tasks, *small]
    modules["table"].main(words)
    assert len(finished) == 3
    (results,) = json.loads((tmp_path / "work" / "results.json").read_text()).values()
    assert list(results["runs"]) == [
        "dense",
        "2:4 / magnitude / seed 0",
        "structured 20 % / bird-bone, not healed / seed 0",
        "structured 20 % / bird-bone, not healed / seed 1",
    ]
    first, second = (
        results["runs"][f"structured 20 % / bird-bone, not healed / seed {seed}"] for seed in (0, 1)
    )
    assert first["tokens"] != second["tokens"]
    checkpoint = tiny_checkpoint(num_hidden_layers=1)
    inside = [ref.num_values for name, ref in checkpoint.refs.items() if ".layers." in name]
    gone = checkpoint.num_parameters - first["parameters"]
    assert gone / sum(inside) == pytest.approx(0.2, abs=0.01)
    assert list(results["failed"]) == [
        f"structured 20 % / Torch-Pruning, Taylor / seed {seed}" for seed in (0, 1)
    ]
    modules["table"].main(words)
    assert len(finished) == 3


def test_windows_to_heal_on_are_none_to_calibrate_on(modules: dict[str, ModuleType]) -> None:
    text, drawn = tiny_windows(8), modules["table"].drawn
    first, second = drawn(text, 1, 3), drawn(text, 1, 5, skip=3)
    both = torch.cat([first.tokens, second.tokens])
    assert sorted(both.tolist()) == sorted(text.tokens.tolist())
    assert drawn(text, 2, 3).digest != first.digest
    assert drawn(text, 1, 3).digest == first.digest


def test_a_failed_process_is_a_reason(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    module = modules["table"]
    with pytest.raises(module.RunFailedError, match="does not start"):
        module.finish([str(tmp_path / "nothing")], 1)
    with pytest.raises(module.RunFailedError, match="exit status 2: what went wrong"):
        module.finish(["sh", "-c", "echo begun >&2; echo what went wrong >&2; exit 2"], 1)
