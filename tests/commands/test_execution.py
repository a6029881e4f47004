"""Running a chain from the command line: what is printed where, kept, and watched."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from birdbone.commands import stopping
from birdbone.commands.execution import Execution, execute
from birdbone.contexts.flow import Empty
from birdbone.contexts.forecast import Forecast
from birdbone.engine import Chain, link
from birdbone.errors import LinkError, ModelError
from birdbone.journal import Journal


@link
async def work(ctx: Empty, *, fails: bool = False) -> dict[str, Any]:
    sys.stdout.write("printed by a library\n")
    if fails:
        raise ModelError("no such model")
    return {"made": 7}


@work.forecast
def _forecast(ctx: Empty, settings: Any) -> Forecast:
    return Forecast(seconds=1.0)


class Told:
    """Collects results in place of the report."""

    def __init__(self) -> None:
        self.results: list[Mapping[str, Any]] = []

    def __call__(self, found: Any, result: Mapping[str, Any], *, as_json: bool) -> None:
        self.results.append(result)
        sys.stdout.write(json.dumps({"made": result.get("made")}) + "\n")


def executed(*, fails: bool = False, **how: Any) -> Told:
    told = Told()
    execute(lambda: Chain(work(fails=fails)), Execution(**how), tell=told)
    return told


def test_stdout_is_the_result_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """What links print goes elsewhere."""
    executed(quiet=True)
    out, err = capsys.readouterr()
    assert out == '{"made": 7}\n'
    assert "printed by a library" in err


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    executed()
    err = capsys.readouterr().err
    assert "birdbone: expected: " in err
    assert "work: " in err


def test_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    executed(quiet=True)
    assert capsys.readouterr().err.split() == ["printed", "by", "a", "library"]


def test_lines_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    executed(log="json")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    events = [json.loads(line)["event"] for line in lines]
    assert events.count("link.finished") == 1
    assert not any("expected" in event for event in events)


def test_warnings_while_it_is_assembled_are_notes(capsys: pytest.CaptureFixture[str]) -> None:
    def assemble() -> Chain:
        warnings.warn("out='o' is not used", stacklevel=1)
        return Chain(work())

    execute(assemble, Execution(quiet=True), tell=Told())
    assert "note: out='o' is not used" in capsys.readouterr().err


def test_a_dry_run_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = executed(dry_run=True, as_json=True, run_folder=tmp_path / "run")
    assert told.results == []
    assert not (tmp_path / "run").exists()
    assert [each["link"] for each in json.loads(capsys.readouterr().out)["links"]] == ["work"]


def test_links_are_kept_and_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    executed(run_folder=folder, quiet=True)
    assert [each.step.link for each in Journal(folder).steps()] == ["work"]
    capsys.readouterr()
    executed(run_folder=folder, quiet=True)
    assert "printed by a library" not in capsys.readouterr().err


def test_a_failure_leaves_the_folder_free(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for _ in range(2):
        with pytest.raises(LinkError, match="no such model"):
            executed(fails=True, run_folder=folder, quiet=True)
    executed(run_folder=folder, quiet=True)


def test_a_chain_that_cannot_be_assembled(capsys: pytest.CaptureFixture[str]) -> None:
    def assemble() -> Chain:
        raise ModelError("no such model")

    told = Told()
    with pytest.raises(ModelError):
        execute(assemble, Execution(), tell=told)
    assert (told.results, capsys.readouterr().out) == ([], "")


@pytest.mark.parametrize("number", [2, 15])
def test_a_signal_is_the_exit_code(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any, **__: Any) -> dict[str, Any]:
        raise stopping.Stopped(number, "stopped at the next block; nothing was written")

    monkeypatch.setattr(stopping, "run_until_stopped", stopped)
    with pytest.raises(typer.Exit) as ended:
        executed(quiet=True)
    assert ended.value.exit_code == 128 + number
    out, err = capsys.readouterr()
    assert out == ""
    assert "birdbone: stopped at the next block; nothing was written" in err


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh processes inherit the number."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    try:
        executed(threads=2, quiet=True)
        assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (2, "2")
        executed(quiet=True)
        assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (2, "2")
    finally:
        torch.set_num_threads(before)
