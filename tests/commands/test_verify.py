"""`birdbone verify`."""

import json
from pathlib import Path

from tiny import tiny_checkpoint
from tiny_folders import written
from typer.testing import CliRunner

from birdbone.cli import app


def test_a_folder_without_a_record_is_not_verified(tmp_path: Path) -> None:
    folder = written(tiny_checkpoint(), tmp_path / "light")
    done = CliRunner().invoke(app, ["verify", str(folder), "--json"])
    assert done.exit_code == 1, done.output
    found = json.loads(done.stdout)
    assert found["verified"] is False
    assert {check["name"]: check["holds"] for check in found["checks"]}["record"] is None


def test_a_failed_check_is_exit_code_one(tmp_path: Path) -> None:
    folder = written(tiny_checkpoint(), tmp_path / "light")
    (folder / "birdbone.json").write_text("{}")
    done = CliRunner().invoke(app, ["verify", str(folder)])
    assert done.exit_code == 1
    assert "Not verified: check failed for 'light': record" in done.output


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert done.exit_code == 1
    assert "nothing to verify" in done.output
