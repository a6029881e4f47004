"""The reference page of the command line, from signatures and docstrings of the commands."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from typer.models import ArgumentInfo, OptionInfo

from .panels import PANELS

_METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True)
class Parameter:
    """An argument or an option of a command.

    Attributes:
        names: how it is given, such as ``--bits INTEGER``.
        default: in words; empty if there is none, or if it is off.
    """

    names: str
    default: str
    help: str
    is_argument: bool


def commands_markdown() -> list[str]:
    """One section for each panel of ``birdbone --help``, with its commands."""
    sections = []
    for panel, functions in PANELS.items():
        sections.append(f"## {panel}")
        sections += [command_markdown(each) for each in functions]
    return sections


def command_markdown(function: Callable[..., Any]) -> str:
    """A heading, the usage, the help text and a table of arguments and options."""
    name = function.__name__.removesuffix("_command")
    found = list(parameters(function))
    arguments = [each.names for each in found if each.is_argument]
    usage = " ".join(["birdbone", name, *arguments, "[OPTIONS]"])
    parts = [f"### {name}", f"```text\n{usage}\n```", inspect.cleandoc(function.__doc__ or "")]
    if found:
        rows = [_row(f"`{each.names}`", each.default, each.help) for each in found]
        parts.append("\n".join([_row("argument or option", "default", "meaning"), _LINE, *rows]))
    return "\n\n".join(parts)


def parameters(function: Callable[..., Any]) -> Iterator[Parameter]:
    """The arguments and options of a command, in order."""
    hints = typing.get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind, *extras = typing.get_args(hints[name])
        info = next(each for each in extras if isinstance(each, ArgumentInfo | OptionInfo))
        required = parameter.default is inspect.Parameter.empty
        if isinstance(info, ArgumentInfo):
            shown = info.metavar or f"{name.upper()}{'...' if _is_list(kind) else ''}"
            names = shown if required else f"[{shown}]"
        else:
            names = _option(name, info, kind)
        default = "required" if required else _default(parameter.default)
        yield Parameter(names, default, info.help or "", isinstance(info, ArgumentInfo))


def _option(name: str, info: OptionInfo, kind: Any) -> str:
    dashed = f"--{name.replace('_', '-')}"
    # The first positional argument of `typer.Option` in an annotation is a name, not a default.
    given = [each for each in (info.default, *(info.param_decls or ())) if isinstance(each, str)]
    if bool in _alternatives(kind):
        return ", ".join(given) or f"{dashed}/{dashed.replace('--', '--no-', 1)}"
    return f"{', '.join(given) or dashed} {info.metavar or _metavar(kind)}"


def _metavar(kind: Any) -> str:
    for each in _alternatives(kind):
        if typing.get_origin(each) is Literal:
            return "/".join(map(str, typing.get_args(each)))
        if each in _METAVARS:
            return _METAVARS[each]
    return "TEXT"


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """The types of ``a | b``, or the type itself."""
    return (kind,) if typing.get_origin(kind) is Literal else typing.get_args(kind) or (kind,)


def _is_list(kind: Any) -> bool:
    return any(typing.get_origin(each) is list for each in (kind, *_alternatives(kind)))


def _default(value: Any) -> str:
    if value is None or value is False:
        return ""
    return "on" if value is True else f"`{value}`"


def _row(*cells: str) -> str:
    escaped = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


_LINE = "|---|---|---|"
