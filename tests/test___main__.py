"""``python -m birdbone`` is the command line."""

from __future__ import annotations

import runpy

import pytest

from birdbone import __version__


def ran(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    """The exit code of the module run as a program with these arguments."""
    monkeypatch.setattr("sys.argv", ["birdbone", *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("birdbone", run_name="__main__", alter_sys=True)
    return ended.value.code


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"birdbone {__version__}\n"


def test_it_calls_itself_birdbone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not ``__main__.py``, nor ``python -m birdbone``."""
    assert ran(monkeypatch, "inspect", "--help") == 0
    assert "Usage: birdbone inspect" in capsys.readouterr().out


def test_a_refusal_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran(monkeypatch, "links", "prunes") == 1
    assert "did you mean 'prune'?" in capsys.readouterr().err


def test_a_wrong_command_is_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran(monkeypatch, "lnks") == 2
    assert "No such command 'lnks'" in capsys.readouterr().err


def test_importing_it_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_module("birdbone.__main__", run_name="imported")
    assert capsys.readouterr() == ("", "")
