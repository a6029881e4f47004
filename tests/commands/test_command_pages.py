"""The page of the command line against what typer parses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner

from birdbone.cli import app
from birdbone.commands.command_pages import command_markdown, commands_markdown, parameters
from birdbone.commands.panels import PANELS


def example(
    model: Annotated[str, typer.Argument(help="A model | a folder.")],
    others: Annotated[list[Path] | None, typer.Argument(help="More.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output.")] = Path("here"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do nothing.")] = False,
    color: Annotated[bool, typer.Option(help="Use colours.")] = True,
    preset: Annotated[Literal["fast", "best"], typer.Option(help="Time.")] = "fast",
    max_loss: Annotated[float | None, typer.Option(metavar="RISE", help="Limit.")] = None,
) -> None:
    """Do one thing.

    And another.
    """


def test_each_kind_of_parameter_is_shown_as_it_is_given() -> None:
    assert [(each.names, each.default) for each in parameters(example)] == [
        ("MODEL", "required"),
        ("[OTHERS...]", ""),
        ("--out, -o PATH", "`here`"),
        ("--dry-run", ""),
        ("--color/--no-color", "on"),
        ("--preset fast/best", "`fast`"),
        ("--max-loss RISE", ""),
    ]


def test_a_section_has_usage_help_and_a_table() -> None:
    text = command_markdown(example)
    assert text.startswith("### example\n\n```text\nbirdbone example MODEL [OTHERS...] [OPTIONS]\n")
    assert "\n\nDo one thing.\n\nAnd another.\n\n" in text
    assert "| `MODEL` | required | A model \\| a folder. |" in text


def test_a_command_without_parameters_has_no_table() -> None:
    def plain() -> None:
        """Nothing to set."""

    assert "|" not in command_markdown(plain)


def test_every_command_of_the_app_has_a_section() -> None:
    sections = [each.split("\n")[0] for each in commands_markdown()]
    named = {each.removeprefix("### ") for each in sections if each.startswith("### ")}
    assert named == {each.name for each in app.registered_commands}
    assert [each for each in sections if each.startswith("## ")] == [f"## {p}" for p in PANELS]


@pytest.mark.parametrize("panel", PANELS)
def test_every_option_on_the_page_is_one_that_typer_offers(
    panel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    for function in PANELS[panel]:
        name = function.__name__.removesuffix("_command")
        offered = CliRunner().invoke(app, [name, "--help"], prog_name="birdbone").output
        for each in parameters(function):
            for word in each.names.replace("/", " ").replace(",", " ").split():
                if word.startswith("--"):
                    assert word in offered, (name, word)
