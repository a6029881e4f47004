"""``birdbone inspect``: what a model is, from its headers."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import birdbone, document, refused

from birdbone.checkpoints import Checkpoint


@pytest.mark.parametrize("name", ["dense", "packed", "gguf/model.gguf"])
def test_three_kinds_of_model(name: str, folders: Path, checkpoint: Checkpoint) -> None:
    found = document("inspect", folders / name)
    assert found["num_blocks"] == checkpoint.config["num_hidden_layers"]
    shown = birdbone("inspect", folders / name)
    assert shown.exit_code == 0
    assert "LlamaForCausalLM" in shown.stdout


def test_zeros_are_counted_on_request(folders: Path) -> None:
    """They are not in the headers, so all weights are read."""
    plain, counted = (document("inspect", folders / "dense", *more) for more in ((), ("--zeros",)))
    assert plain["zero_share"] is None
    assert counted["zero_share"] == 0.0
    assert {**plain, "zero_share": 0.0} == counted


def test_zeros_of_a_pruned_model(run_folder: Path, tmp_path: Path) -> None:
    document("revert", run_folder, 3, "--out", tmp_path / "light")
    assert 0.2 < document("inspect", tmp_path / "light", "--zeros")["zero_share"] <= 0.5
    assert "made by birdbone" in birdbone("inspect", tmp_path / "light").stdout


def test_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("words")
    assert "not found" in refused("inspect", tmp_path / "none")
    assert "error: " in refused("inspect", tmp_path)
    assert "error: " in refused("inspect", tmp_path / "text.txt")


def test_a_damaged_header(folders: Path, tmp_path: Path) -> None:
    for file in (folders / "dense").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = next(tmp_path.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:20])
    assert weights.name in refused("inspect", tmp_path)


def test_a_model_is_needed() -> None:
    assert "Missing argument" in refused("inspect", code=2)
