"""birdbone run --run DIR: stopped by a signal, the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tiny import tiny_model, tiny_tokenizer
from typer.testing import CliRunner

from birdbone.cli import app
from birdbone.journal import Journal

RECIPE = """
links:
  - load
  - calibrate: {{length: 16, windows: 4, healing_windows: 4, heldout_windows: 4}}
  - {last}
"""


def made(folder: Path, last: str) -> list[str]:
    """A command over a tiny model and text that both lie in the folder."""
    tiny_model("llama_tied").save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    write_words(folder / "words.txt", "the other thing")
    (folder / "recipe.yaml").write_text(RECIPE.format(last=last))
    command = ["run", "--recipe", folder / "recipe.yaml", "--model", folder / "model"]
    command += ["--data", folder / "words.txt", "--run", folder / "run", "--json"]
    return [str(word) for word in command]


def write_words(path: Path, words: str) -> None:
    """A text of many paragraphs, so that it can be divided."""
    path.write_text("\n\n".join(f"number {place} of {words} " * 20 for place in range(40)))


def stopped(command: list[str], number: signal.Signals) -> tuple[int, str]:
    """Send a signal once calibrate is done; the exit code and all of stderr."""
    with subprocess.Popen(
        [sys.executable, "-m", "birdbone", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.strip().startswith("calibrate: "):
                process.send_signal(number)
                break
        rest = process.communicate(timeout=120)[1]
        return process.returncode, "".join(lines) + rest


def test_a_run_stopped_by_a_signal_goes_on(tmp_path: Path) -> None:
    command = made(tmp_path, "heal: {epochs: 1000000}")
    code, told = stopped(command, signal.SIGTERM)
    assert code == 143, told
    assert f"finished links are kept in {tmp_path / 'run'}, and the same command resumes" in told
    assert "replayed" not in told
    code, told = stopped(command, signal.SIGINT)
    assert code == 130, told
    assert "Traceback" not in told
    replayed = [line.split(":")[0].strip() for line in told.splitlines() if "replayed" in line]
    assert replayed == ["load", "calibrate"]
    assert [each.step.link for each in Journal(tmp_path / "run").steps()] == ["load", "calibrate"]


def test_what_differs_is_said_in_one_line_and_refusals_have_no_traceback(tmp_path: Path) -> None:
    command = made(tmp_path, "validate")
    runner = CliRunner()
    assert runner.invoke(app, command).exit_code == 0
    changed = runner.invoke(app, [*command, "--set", "calibrate.seed=7"])
    assert changed.exit_code == 0
    assert "birdbone: calibrate runs again: its setting seed is 7, was 0\n" in changed.stderr
    assert changed.stderr.count("runs again") == 1
    tiny_model("llama_tied", seed=5).save_pretrained(tmp_path / "model")
    other = runner.invoke(app, command)
    assert "load runs again: model.safetensors has changed" in other.stderr
    write_words(tmp_path / "words.txt", "something else")
    other = runner.invoke(app, command)
    assert "calibrate runs again: " in other.stderr
    assert "words.txt has changed" in other.stderr
    command[command.index("--run") + 1] = str(tmp_path)
    refused = runner.invoke(app, command)
    assert refused.exit_code == 1
    assert "holds other files and is not a run folder" in refused.stderr
