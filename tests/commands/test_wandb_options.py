"""The options of W&B."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_folders import written
from typer.testing import CliRunner

from birdbone.checkpoints import Checkpoint
from birdbone.cli import app
from birdbone.commands.options import WandbRun, wandb_run
from birdbone.errors import SettingError


def test_tags_are_separated_by_commas() -> None:
    found = wandb_run("light", "first", "small, int4,", "offline", False)
    assert found == WandbRun("light", "first", ("small", "int4"), "offline")
    assert wandb_run(None, None, None, None, False) is None


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("name", ("first", None, None, False)),
        ("tags", (None, "small", None, False)),
        ("mode", (None, None, "offline", False)),
        ("model", (None, None, None, True)),
    ],
)
def test_an_option_without_a_project_is_refused(option: str, given: tuple[object, ...]) -> None:
    with pytest.raises(SettingError, match=f"--wandb-{option} needs --wandb PROJECT"):
        wandb_run(None, *given)  # type: ignore[arg-type]


@pytest.mark.usefixtures("quiet_wandb")
def test_a_run_is_logged_under_its_name_and_tags(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = written(checkpoint, tmp_path / "model")
    (tmp_path / "recipe.yaml").write_text("links: [load]\n")
    options = ("--wandb", "light", "--wandb-name", "first", "--wandb-tags", "small,int4")
    args = ("run", "--recipe", "recipe.yaml", "--model", str(model), *options)
    done = CliRunner().invoke(app, [*args, "--wandb-mode", "offline", "--quiet"])
    assert done.exit_code == 0, done.output
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    for word in (b"first", b"small", b"int4"):
        assert word in file.read_bytes()
