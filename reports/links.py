"""Reference pages of links, read off their settings types and docstrings."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..engine import LinkFactory

_SECTION = re.compile(r"^(Settings|Args|Raises):$")
_ENTRY = re.compile(r"^ {4}(\w+(?:, \w+)*): (.*)$")
_TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true/false"}
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


@dataclass(frozen=True)
class Setting:
    """One setting of a link.

    Attributes:
        type: such as ``number or null``, or the possible values.
        range: such as ``>= 0, < 1``; empty if there is none.
        default: as written in a recipe; None if the setting is required.
    """

    name: str
    type: str
    range: str
    default: str | None
    description: str


@dataclass(frozen=True)
class LinkPage:
    """One link. ``needs`` and ``adds`` are context keys."""

    name: str
    summary: str
    text: str
    settings: tuple[Setting, ...]
    needs: tuple[str, ...]
    adds: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The page as types that JSON can represent."""
        return asdict(self)


def link_page(factory: LinkFactory[..., Any, Any]) -> LinkPage:
    """Read a link's page off its factory."""
    text, sections = _sections(factory.__doc__ or "")
    described = {**sections.get("Args", {}), **sections.get("Settings", {})}
    fields = factory.settings_type.model_json_schema().get("properties", {})
    return LinkPage(
        name=factory.name,
        summary=" ".join(text.split("\n\n")[0].split()),
        text=text,
        settings=tuple(_setting(name, field, described) for name, field in fields.items()),
        needs=tuple(sorted(factory.needs)),
        adds=tuple(sorted(factory.adds)),
    )


def _setting(name: str, field: Mapping[str, Any], described: Mapping[str, str]) -> Setting:
    choices = field.get("anyOf", [field])
    ranges = [found for found in map(_range, choices) if found]
    return Setting(
        name=name,
        type=" or ".join(map(_type, choices)),
        range=" or ".join(ranges),
        default=_spelled(field["default"]) if "default" in field else None,
        description=described.get(name, ""),
    )


def _type(field: Mapping[str, Any]) -> str:
    values = field.get("enum", [field["const"]] if "const" in field else [])
    if values:
        return ", ".join(_spelled(value) for value in values)
    kind = str(field.get("type", "anything"))
    return _TYPES.get(kind, kind)


def _range(field: Mapping[str, Any]) -> str:
    return ", ".join(f"{sign} {field[key]:g}" for key, sign in _BOUNDS.items() if key in field)


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _sections(doc: str) -> tuple[str, dict[str, dict[str, str]]]:
    """The text before the first section, and the entries of each section by name."""
    text: list[str] = []
    sections: dict[str, dict[str, str]] = {}
    entries: dict[str, str] | None = None
    names: list[str] = []
    for line in inspect.cleandoc(doc).replace("``", "`").splitlines():
        if head := _SECTION.match(line):
            entries = sections.setdefault(head[1], {})
        elif entries is None:
            text.append(line)
        elif entry := _ENTRY.match(line):
            names = entry[1].split(", ")
            entries.update(dict.fromkeys(names, entry[2]))
        elif line.strip():
            entries.update({name: f"{entries[name]} {line.strip()}" for name in names})
    return "\n".join(text).strip(), sections


def links_report(pages: Iterable[LinkPage]) -> RenderableType:
    """The links, with the context keys each needs and adds."""
    lines = Table.grid(padding=(0, 2))
    for page in pages:
        lines.add_row(Text(page.name), Text(f"{page.summary}\n{_flow(page)}"))
    return lines


def link_report(page: LinkPage) -> RenderableType:
    """One link with its settings."""
    lines = Table.grid(padding=(0, 2))
    for each in page.settings:
        lines.add_row(Text(each.name), Text(f"{_kind(each)}\n{each.description}"))
    return Group(Text(f"{page.name}: {page.text}\n"), lines, Text(f"\n{_flow(page)}"))


def _kind(each: Setting) -> str:
    default = "required" if each.default is None else f"default {each.default}"
    return "; ".join(filter(None, [each.type, each.range, default]))


def _flow(page: LinkPage) -> str:
    return f"needs {', '.join(page.needs) or 'nothing'}; adds {', '.join(page.adds) or 'nothing'}"


def link_markdown(page: LinkPage) -> str:
    """One link as a section of the reference."""
    lines = [
        f"## {page.name}",
        page.text,
        f"Needs {_ticked(page.needs) or 'nothing'}; adds {_ticked(page.adds) or 'nothing'}.",
    ]
    if page.settings:
        lines.append("\n".join([_HEAD, *map(_markdown_row, page.settings)]))
    return "\n\n".join(lines)


_HEAD = "| setting | type | range | default | |\n|---|---|---|---|---|"


def _markdown_row(each: Setting) -> str:
    default = "required" if each.default is None else f"`{each.default}`"
    cells = (f"`{each.name}`", each.type, each.range, default, each.description)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _ticked(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
