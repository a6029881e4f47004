"""``--device``: which device a command computes on, and the error for one that is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pretend_device import NAME, pretended
from typer.testing import CliRunner, Result

from birdbone.cli import app

COMMANDS = {
    "quantize": ("--out", "OUT"),
    "compress": ("--out", "OUT"),
    "run quantize-only --model": ("--out", "OUT"),
    "export": ("--out", "OUT", "--format", "safetensors"),
    "prove": (),
    "bench": (),
}


SETS = ("--set", "calibrate.length=64", "--set", "quantize.group_size=auto")


def run(command: str, model: Path, *options: object) -> Result:
    return CliRunner().invoke(app, [*command.split(), str(model), *map(str, options)])


@pytest.mark.parametrize("command", COMMANDS)
def test_a_device_that_is_not_there_is_refused_in_one_sentence(
    command: str, folders: Path, tmp_path: Path
) -> None:
    options = [tmp_path / "light" if each == "OUT" else each for each in COMMANDS[command]]
    found = run(command, folders / "dense", *options, "--device", "cuda:99")
    assert found.exit_code == 1
    words = " ".join(found.output.split())
    assert "this machine has no device 'cuda:99'; it has cpu" in words
    assert words.count("cuda:99") == 1
    assert not (tmp_path / "light").exists()


def test_what_a_command_computes_on_is_recorded(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "light"
    with pretended() as ledger:
        found = run(
            "export", folders / "dense", "--out", out, "--format", "safetensors",
            "--device", "cpu", "--windows", 0, "--json",
        )  # fmt: skip
        assert ledger.operations == 0
    assert found.exit_code == 0, found.output
    loaded, *_ = json.loads(found.stdout)["steps"]
    assert loaded["settings"]["device"] == "cpu"
    assert "of process memory" in found.stderr


def test_a_device_that_is_too_small_is_refused_before_work(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "light"
    with pretended(limit=100_000):
        found = run("quantize", folders / "dense", "--out", out, *SETS)
    assert found.exit_code == 1
    words = " ".join(found.output.split())
    assert f"GB of memory on {NAME}:0, 0.00 GB can be had" in words
    assert not out.exists()
