"""``birdbone quantize``: the chain quantize-only with a preset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import birdbone, refused

from birdbone.commands import quantize as command
from birdbone.engine import Chain
from birdbone.engine.rebuilding import links_with_settings

FEW = [f"calibrate.{name}=2" for name in ("windows", "healing_windows", "heldout_windows")]
FEW += ["calibrate.elsewhere_windows=1", "calibrate.length=16", "save.compare=false"]


@pytest.fixture
def assembled(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The chain that would be run, and how."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(
        command, "execute", lambda assemble, how: found.update(chain=assemble(), how=how)
    )
    return found


def settings(chain: Chain) -> dict[str, Any]:
    return {each.__name__: each.settings for each in links_with_settings(chain)}


def test_a_folder(folders: Path, tmp_path: Path) -> None:
    """Made, judged and saved; ``--set`` is stronger than the preset."""
    sets = [word for each in (*FEW, "quantize.group_size=auto", "validate.max_rise=9")
            for word in ("--set", each)]  # fmt: skip
    options = ("--out", tmp_path / "light", "--preset", "fast", "--bits", 8, "--json")
    found = birdbone("quantize", folders / "dense", *options, *sets)
    assert found.exit_code == 0, found.output
    steps = {each["link"]: each for each in json.loads(found.stdout)["steps"]}
    assert list(steps) == ["load", "calibrate", "quantize", "validate", "save"]
    assert steps["quantize"]["settings"]["matching"] == 0
    assert steps["quantize"]["settings"]["bits"] == 8
    assert steps["calibrate"]["settings"]["windows"] == 2
    assert (tmp_path / "light" / "config.json").is_file()


def test_options_are_settings(assembled: Any, tmp_path: Path) -> None:
    out = tmp_path / "light"
    more = ("--data", "a", "--data", "b:2", "--elsewhere", "c", "--bits", 3, "--device", "cpu")
    more = (*more, "--activations", "host", "--force", "--heal")
    birdbone("quantize", "mine", "--out", out, *more)
    found = settings(assembled["chain"])
    assert found["heal"].method == "scales"
    assert (found["load"].model, found["load"].device) == ("mine", "cpu")
    assert found["load"].activations == "host"
    assert (found["calibrate"].data, found["calibrate"].elsewhere) == (("a", "b:2"), "c")
    assert found["quantize"].bits == 3
    assert (found["save"].path, found["save"].force) == (str(out), True)


def test_how_it_is_run(assembled: Any, tmp_path: Path) -> None:
    options = ("--run", tmp_path / "run", "--quiet", "--threads", 3, "--wandb", "project")
    birdbone("quantize", "mine", "--out", tmp_path / "light", *options, "--dry-run")
    how = assembled["how"]
    assert (how.run_folder, how.threads) == (tmp_path / "run", 3)
    assert how.wandb is not None
    assert how.wandb.project == "project"
    assert (how.quiet, how.dry_run, how.as_json, how.log) == (True, True, False, None)


@pytest.mark.parametrize(
    ("preset", "method", "matching"),
    [("fast", "auto", 0.0), ("balanced", "auto", None), ("best", "signround", None)],
)
def test_presets(
    preset: str, method: str, matching: float | None, assembled: Any, tmp_path: Path
) -> None:
    birdbone("quantize", "mine", "--out", tmp_path / "light", "--preset", preset)
    found = settings(assembled["chain"])["quantize"]
    assert (found.method, found.matching) == (method, matching)


def test_refused_before_work(tmp_path: Path) -> None:
    out = ("--out", tmp_path / "light")
    assert "'fastest' is not one of 'fast'" in refused(
        "quantize", "m", *out, "--preset", "fastest", code=2
    )
    assert "quantize.bits is set twice" in refused(
        "quantize", "m", *out, "--bits", 4, "--set", "quantize.bits=8"
    )
    assert "no such option" in refused("quantize", "m", *out, "--target", 0.5, code=2).lower()
    assert not (tmp_path / "light").exists()
