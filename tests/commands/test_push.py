"""``birdbone push``: refused without a proof, listed by a dry run, sent once proven."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from birdbone.cli import app
from birdbone.models.evaluation import proof
from birdbone.models.evaluation.proof import Check, Proof
from birdbone.models.writing import hub_upload
from birdbone.models.writing.hub_upload import Pushed


def push(*words: str) -> Result:
    return CliRunner().invoke(app, ["push", *words])


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Uploads, which are recorded and not made."""
    found: list[Any] = []

    def stand_in(files: Any, repo: str, **options: Any) -> Pushed:
        found.append((sorted(files), repo, options["public"], options["revision"]))
        return Pushed("https://hub/someone/light/commit/1", not options["public"], ("old",))

    monkeypatch.setattr(hub_upload, "push_files", stand_in)
    return found


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files agree with its record and whose outputs are not tried."""
    (tmp_path / "config.json").write_text("{}")
    record = '{"birdbone": "1", "files": {"config.json": {}}}'
    (tmp_path / "birdbone.json").write_text(record)

    async def proven(folder: Path, **_: Any) -> Proof:
        return Proof(folder, (Check("files", True, "1 file"),))

    monkeypatch.setattr(proof, "prove", proven)
    return tmp_path


def test_an_unproven_model_is_refused(tmp_path: Path, sent: list[Any]) -> None:
    (tmp_path / "config.json").write_text("{}")
    refused = push(str(tmp_path), "someone/light")
    assert refused.exit_code == 1
    assert "Not proven: " in refused.stderr
    assert f"Not pushed; `birdbone prove {tmp_path}` shows why" in refused.stderr
    assert sent == []


def test_a_proven_model_is_sent(saved: Path, sent: list[Any]) -> None:
    done = push(str(saved), "someone/light", "--revision", "int4")
    assert done.exit_code == 0, done.stderr
    assert sent == [(["birdbone.json", "config.json"], "someone/light", False, "int4")]
    assert "https://hub/someone/light/commit/1 (private); removed old" in done.stdout


def test_a_dry_run_lists_the_files_and_sends_nothing(saved: Path, sent: list[Any]) -> None:
    listed = push(str(saved), "someone/light", "--dry-run", "--public")
    assert listed.exit_code == 0
    assert "config.json" in listed.stdout
    assert "if it does not exist yet, it becomes public" in listed.stdout
    assert sent == []


def test_a_bad_name_is_refused_before_the_proof(tmp_path: Path, sent: list[Any]) -> None:
    refused = push(str(tmp_path / "absent"), "not a name")
    assert refused.exit_code == 1
    assert "write OWNER/NAME" in refused.stderr
