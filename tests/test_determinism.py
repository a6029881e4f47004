"""The same chain twice, in two processes and two folders: every byte of what is saved is the same.

Times, memory and speed are measured, and differ; `MEASURED` lists where they stand, and all else
is compared.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_checkpoint
from tiny_folders import written

RECIPE = """
links:
  - load
  - calibrate: {length: 16, windows: 4, healing_windows: 4, heldout_windows: 4}
  - profile
  - score
  - prune: {sparsity: 0.3}
  - heal: {epochs: 1}
  - heal: {method: lora, rank: 2, epochs: 1}
  - quantize: {group_size: 32}
  - validate
  - save: {compare: false}
"""
MEASURED = ("seconds", "peak_bytes", "prefill_tokens_per_second", "decode_tokens_per_second")
"""Keys of birdbone.json whose values are of the time a run took, not of what it computed."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What two processes left that ran the same, each in a place of its own."""
    root = tmp_path_factory.mktemp("twice")
    model = written(tiny_checkpoint("llama_tied"), root / "model")
    text = root / "text.txt"
    lines = (f"the {n} of them all, and in number {n} the other thing is {n}" for n in range(300))
    text.write_text("\n\n".join(lines))
    (root / "recipe.yaml").write_text(RECIPE)
    places = [root / "first" / "light", root / "second" / "elsewhere" / "light"]
    running = [_started(root / "recipe.yaml", model, text, place) for place in places]
    for process in running:
        _, told = process.communicate(timeout=600)
        assert process.returncode == 0, told
    return places[0], places[1]


def _started(recipe: Path, model: Path, text: Path, out: Path) -> subprocess.Popen[str]:
    out.parent.mkdir(parents=True)
    words = ["run", "--recipe", recipe, "--model", model, "--data", text, "--out", out, "--quiet"]
    return subprocess.Popen(
        [sys.executable, "-m", "birdbone", *map(str, words), "--threads", "1"],
        cwd=out.parent,
        # Sets are ordered by hashes of words, which Python salts anew for each process.
        env={**os.environ, "PYTHONHASHSEED": "random"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_weights_config_tokenizer_and_proof_are_the_same_bytes(saved: tuple[Path, Path]) -> None:
    first, second = saved
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    assert {"model.safetensors", "config.json", "tokenizer.json", "proof.json"} <= {*names}
    for name in names:
        if name not in ("birdbone.json", "README.md", "report.html"):  # they show times
            assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_the_record_is_the_same_but_for_what_was_measured(saved: tuple[Path, Path]) -> None:
    first, second = (json.loads((place / "birdbone.json").read_text()) for place in saved)
    for record in (first, second):
        del record["files"]["README.md"]  # it shows the same figures
        del record["chain"]  # hashes of the steps with their times
    assert _without_measured(first) == _without_measured(second)
    assert first["checkpoint"] == second["checkpoint"]
    assert [step["link"] for step in first["steps"]][-4:] == [
        "heal",
        "heal",
        "quantize",
        "validate",
    ]


def _without_measured(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_measured(v) for k, v in value.items() if k not in MEASURED}
    return [_without_measured(each) for each in value] if isinstance(value, list) else value


def test_the_card_is_the_same_but_for_what_was_measured(saved: tuple[Path, Path]) -> None:
    first, second = ((place / "README.md").read_text().splitlines() for place in saved)
    assert len(first) == len(second)
    for line, other in zip(first, second, strict=True):
        assert line == other or re.search(r"tokens/s|memory|, [\d.]+ (s|min)$", line), line
