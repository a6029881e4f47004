"""``birdbone quantize`` and ``birdbone compress``: chains with a preset."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from birdbone.cli import app

FEW = [f"calibrate.{name}=2" for name in ("windows", "healing_windows", "heldout_windows")]
FEW += ["calibrate.elsewhere_windows=1", "calibrate.length=16", "save.compare=false"]


def run(command: str, *args: object) -> Result:
    return CliRunner().invoke(app, [command, *map(str, args)])


def sets(*more: str) -> list[str]:
    return [word for each in (*FEW, *more) for word in ("--set", each)]


def test_quantize_makes_a_folder_with_its_preset(folders: Path, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "light", "--preset", "fast", "--bits", 8, "--json")
    grid = "quantize.group_size=auto"
    found = run("quantize", folders / "dense", *options, *sets(grid, "validate.max_rise=9"))
    assert found.exit_code == 0, found.output
    steps = {each["link"]: each for each in json.loads(found.stdout)["steps"]}
    assert list(steps) == ["load", "calibrate", "quantize", "validate", "save"]
    assert steps["quantize"]["settings"]["matching"] == 0
    assert steps["quantize"]["settings"]["bits"] == 8
    assert steps["calibrate"]["settings"]["windows"] == 2  # --set is stronger than the preset
    assert (tmp_path / "light" / "config.json").is_file()


def test_the_time_is_told_for_each_preset(folders: Path, tmp_path: Path) -> None:
    """The estimate that is printed before a run."""
    seconds = {}
    for preset in ("fast", "balanced", "best"):
        options = ("--out", tmp_path / "light", "--preset", preset, "--dry-run", "--json")
        found = run("compress", folders / "dense", *options, "--set", "calibrate.length=64")
        assert found.exit_code == 0, found.output
        seconds[preset] = json.loads(found.stdout)["seconds"]
    assert seconds["fast"] > 0
    assert seconds["balanced"] < seconds["best"]
    assert not (tmp_path / "light").exists()


def test_an_unknown_preset_is_refused(tmp_path: Path) -> None:
    found = run("quantize", "model", "--out", tmp_path / "light", "--preset", "fastest")
    assert found.exit_code == 2
    assert "'fastest' is not one of 'fast'" in " ".join(found.output.split())
