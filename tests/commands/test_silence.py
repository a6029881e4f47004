"""On several ranks only rank 0 prints, and most commands are refused."""

from __future__ import annotations

import sys

import pytest
from command_line import birdbone, refused

from birdbone.commands.silence import only_first_rank_prints


def test_a_command_that_runs_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "birdbone links runs in one process; start it without torchrun" in refused("links")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert birdbone("links").exit_code == 0


@pytest.mark.parametrize(("rank", "heard"), [("0", "here\n"), ("1", "")])
def test_who_prints(
    rank: str, heard: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", rank)
    with only_first_rank_prints():
        sys.stdout.write("here\n")
        sys.stderr.write("here\n")
    found = capsys.readouterr()
    assert (found.out, found.err) == (heard, heard)
