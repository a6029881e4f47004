"""The commands by panel: each is there once, described, and under its own name."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import typer
from command_line import birdbone
from typer.testing import CliRunner

from birdbone import commands
from birdbone.commands.panels import PANELS, add_commands

NAMES = [
    function.__name__.removesuffix("_command")
    for functions in PANELS.values()
    for function in functions
]
FOLDER = Path(inspect.getfile(commands)).parent


def test_each_is_there_once() -> None:
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_each_has_a_file(name: str) -> None:
    assert (FOLDER / f"{name}.py").is_file()


def test_no_command_is_left_out() -> None:
    """A file that opens with the line of a command is a command."""
    described = {
        path.stem
        for path in FOLDER.glob("*.py")
        if path.read_text(encoding="utf-8").startswith('"""``birdbone ')
    }
    assert described == set(NAMES)


def test_help_shows_the_panels_in_order() -> None:
    shown = birdbone("--help").stdout
    places = [shown.index(panel) for panel in PANELS]
    assert places == sorted(places)
    assert [name for name in NAMES if f" {name} " not in shown] == []


@pytest.mark.parametrize("name", NAMES)
def test_each_is_described(name: str) -> None:
    """Its help has a sentence of its own and every argument a text."""
    shown = birdbone(name, "--help")
    assert shown.exit_code == 0
    assert f"Usage: birdbone {name} " in shown.stdout


def test_commands_of_another_program() -> None:
    """The suffix that keeps a function apart from a link of that name is no part of the name."""
    app = typer.Typer()
    add_commands(app)
    result = CliRunner().invoke(app, ["links", "quantize_command"])
    assert result.exit_code == 1
    assert {each.name for each in app.registered_commands} == set(NAMES)


def test_panels_cannot_be_changed() -> None:
    with pytest.raises(TypeError, match="does not support item assignment"):
        PANELS["More"] = ()  # type: ignore[index]
