"""The run folder of a command: beside the output until the run ends, and --from."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import tiny_model, tiny_tokenizer
from typer.testing import CliRunner, Result

from birdbone.cli import app
from birdbone.commands.run_store import run_store
from birdbone.journal import Journal, RunFolder

RECIPE = """
links:
  - load
  - calibrate: {length: 16, windows: 4, healing_windows: 4, heldout_windows: 4}
  - gates_of_a_test:gate: {open: OPEN}
  - save: {compare: false}
"""
GATE = """
from birdbone import link
from birdbone.errors import GateError

@link
async def gate(ctx, *, open: bool):
    if not open:
        raise GateError("the gate is shut")
    return {}
"""
REFUSED, ACCEPTED = "false", "true"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a tiny model, text, and a module with a link."""
    folder = tmp_path_factory.mktemp("made")
    tiny_model("llama_tied", seed=3).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    words = [f"number {place} of the other thing " * 20 for place in range(40)]
    (folder / "words.txt").write_text("\n\n".join(words))
    (folder / "gates_of_a_test.py").write_text(GATE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


def ran(made: Path, folder: Path, opened: str, *options: str) -> Result:
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.replace("OPEN", opened))
    command = ["run", "--recipe", recipe, "--model", made / "model", "--data", made / "words.txt"]
    command += ["--out", folder / "light", "--quiet", "--import", "gates_of_a_test", *options]
    return CliRunner().invoke(app, [str(word) for word in command])


def kept_links(folder: Path) -> list[str]:
    return [each.step.link for each in Journal(folder).steps()]


def test_a_refused_model_is_kept_and_only_the_gate_runs_again(made: Path, tmp_path: Path) -> None:
    refused = ran(made, tmp_path, REFUSED)
    kept = tmp_path / "light.run"
    assert refused.exit_code == 1
    assert f"finished links are kept in {kept}; the same command resumes" in refused.stderr
    assert kept_links(kept) == ["load", "calibrate"]

    again = ran(made, tmp_path, REFUSED)
    assert again.exit_code == 1
    assert kept_links(kept) == ["load", "calibrate"]  # replayed, not kept anew

    done = ran(made, tmp_path, ACCEPTED, "--from", "gate")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "light" / "birdbone.json").is_file()
    assert not kept.exists()


def test_a_folder_that_was_asked_for_stays(made: Path, tmp_path: Path) -> None:
    options = ["--run", str(tmp_path / "mine")]
    assert ran(made, tmp_path, ACCEPTED, *options).exit_code == 0
    assert kept_links(tmp_path / "mine")[-1] == "save"
    assert not (tmp_path / "light.run").exists()


def test_nothing_is_kept_without_room_or_if_told_so(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ran(made, tmp_path, REFUSED, "--no-keep").exit_code == 1
    assert not (tmp_path / "light.run").exists()

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 6 * 10**6))
    monkeypatch.setattr("birdbone.commands.run_store._COPIES", 10**3)
    refused = ran(made, tmp_path, REFUSED)
    assert refused.exit_code == 1
    assert "note: finished links are not kept during this run: output" in refused.stderr
    assert not (tmp_path / "light.run").exists()


def test_a_folder_of_that_name_is_left_alone(made: Path, tmp_path: Path) -> None:
    (tmp_path / "light.run").mkdir()
    (tmp_path / "light.run" / "diary").write_text("mine")
    assert ran(made, tmp_path, ACCEPTED).exit_code == 0
    assert (tmp_path / "light.run" / "diary").read_text() == "mine"


def test_a_run_that_fails_at_once_leaves_no_folder(made: Path, tmp_path: Path) -> None:
    (tmp_path / "light").write_text("a file")
    refused = ran(made, tmp_path, ACCEPTED)
    assert refused.exit_code == 1
    assert not (tmp_path / "light.run").exists()


def test_parents_are_removed_with_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "light.run"
    with (
        pytest.raises(ValueError, match="at once"),
        run_store(folder, asked=False, start_from=None, expected=None),
    ):
        raise ValueError("at once")
    assert not list(tmp_path.iterdir())


def test_from_is_refused_before_any_work(made: Path, tmp_path: Path) -> None:
    absent = ran(made, tmp_path, ACCEPTED, "--from", "gate")
    assert absent.exit_code == 1
    assert "--from gate: " in absent.stderr
    assert "give the run folder of an earlier run with --run DIR" in absent.stderr
    with RunFolder(tmp_path / "light.run"):
        pass
    misspelled = ran(made, tmp_path, ACCEPTED, "--from", "gat")
    assert misspelled.exit_code == 1
    assert "has no link 'gat'; did you mean 'gate'" in misspelled.stderr
    empty = ran(made, tmp_path, ACCEPTED, "--from", "gate")
    assert empty.exit_code == 1
    assert "has no result of load for this run (none is in the folder)" in empty.stderr


def test_device_memory_is_of_a_dry_run(made: Path, tmp_path: Path) -> None:
    refused = ran(made, tmp_path, ACCEPTED, "--device-memory", "8GB")
    assert refused.exit_code == 1
    assert "give --dry-run with it" in refused.stderr
    misspelled = ran(made, tmp_path, ACCEPTED, "--dry-run", "--device-memory", "much")
    assert misspelled.exit_code == 1
    assert "--device-memory: 'much' is not a size" in misspelled.stderr
    told = ran(made, tmp_path, ACCEPTED, "--dry-run", "--device-memory", "8GB")
    assert told.exit_code == 0, told.stderr
    assert "on the device" in told.stdout
    assert "8.0 GB of memory are free" in told.stdout
