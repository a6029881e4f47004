"""``birdbone prove``: what it prints and what it exits with."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_checkpoint, tiny_windows
from typer.testing import CliRunner, Result

from birdbone.cli import app
from birdbone.engine import run
from birdbone.links import save
from birdbone.models.evaluation import proof
from birdbone.models.evaluation.proof import Check, Proof


def prove(*words: str) -> Result:
    return CliRunner().invoke(app, ["prove", *words])


async def test_a_folder_just_saved_is_proven_by_the_same_program(tmp_path: Path) -> None:
    """End to end, in a real fresh process, twice: by save and by the command."""
    checkpoint = tiny_checkpoint()
    ctx = {"checkpoint": checkpoint, "dense": checkpoint, "heldout": tiny_windows(3)}
    await run(save(path=str(tmp_path / "light"), compare=False), ctx)
    found = await proof.prove(tmp_path / "light")
    assert found.proven, found.checks
    assert found.saved_with == found.environment


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Proof]:
    """The proof the command is to find."""
    found: dict[str, Proof] = {}

    async def stand_in(folder: Path, **_: Any) -> Proof:
        return found["proof"]

    monkeypatch.setattr(proof, "prove", stand_in)
    return found


def test_proven_is_exit_code_0(given: dict[str, Proof]) -> None:
    check = Check("files", True, "12 files, every checksum as recorded")
    given["proof"] = Proof(Path("x/light"), (check,), "so be it", {"torch": "2"}, {"torch": "1"})
    done = prove("light")
    assert done.exit_code == 0
    assert "Proven: 'light' is unchanged" in done.stdout
    assert "so be it" in done.stdout
    assert "saved with 1" in done.stdout


def test_what_fails_is_exit_code_1_and_named(given: dict[str, Proof]) -> None:
    checks = Check("files", True, "fine"), Check("logits", False, "far off")
    given["proof"] = Proof(Path("light"), checks)
    done = prove("light")
    assert done.exit_code == 1
    assert "Not proven: check failed for 'light': logits." in done.stdout


def test_what_cannot_be_known_is_exit_code_1_too(given: dict[str, Proof]) -> None:
    given["proof"] = Proof(Path("light"), (Check("files", None, "no checksums"),))
    done = prove("light")
    assert done.exit_code == 1
    assert "no check failed for 'light', but these could not be made: files" in " ".join(
        done.stdout.split()
    )


def test_json_is_one_document(given: dict[str, Proof]) -> None:
    given["proof"] = Proof(Path("light"), (Check("logits", False, "far off"),))
    done = prove("light", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["checks"] == [
        {"name": "logits", "holds": False, "found": "far off"}
    ]


def test_help_shows_the_extra_in_brackets() -> None:
    assert "birdbone[llama]" in prove("--help").stdout


def test_no_folder_is_a_refusal(tmp_path: Path) -> None:
    done = prove(str(tmp_path / "none"))
    assert done.exit_code == 1
    assert "nothing to prove" in done.stderr
