"""YAML as plain data: tables, lists, text, numbers, true, false and null, and where each stands.

A narrow door on purpose. Tags, aliases, repeated keys and deep nesting are refused, and words mean
what they look like, as in YAML 1.2's core schema: 2:4 is text (1.1 reads the number 124), so are
``no`` and 2024-01-01, and 1e-4 is a number. Nothing here can build an object or run code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

import yaml

from ..errors import SettingError

_MAX_DEPTH = 16
_MAX_NODES = 20_000
_MAX_INTEGER = 2**64

_TAG = "tag:yaml.org,2002:"
_FLOAT = (
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
# What a plain word is: a pattern, and the characters that such words begin with.
_WORDS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
)


class Table(dict[str, Any]):
    """A mapping that knows the line, counted from 1, each of its keys stands on."""

    lines: dict[str, int]


class Items(list[Any]):
    """A list that knows the line, counted from 1, each of its items stands on."""

    lines: list[int]


def read_yaml(text: str, *, source: str) -> Any:
    """The one document in ``text``: None, bool, int, float, str, `Table` or `Items`.

    Args:
        source: what messages call the text.

    Raises:
        SettingError: it is not YAML, or more than plain data; names the line where it can.
    """
    try:
        # A subclass of SafeLoader of which only the composer is used: it makes nodes, no objects.
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else _value(node)
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark
        line = f", line {at.line + 1}" if at is not None and "\n" in text.strip() else ""
        raise SettingError(f"{source}{line}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise SettingError(f"{source}: {' '.join(str(error).split())}") from None


def write_yaml(value: Any) -> str:
    """Text that `read_yaml` reads back as ``value``.

    Raises:
        SettingError: something in it is not plain data.
    """
    try:
        return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=False)
    except yaml.YAMLError as error:
        raise SettingError(f"not plain data: {error}") from None


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own class attribute

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = self.num_nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _refusal(event, f"'*{event.anchor}' is an alias; write the value out")
        self.depth += 1
        self.num_nodes += 1
        if self.depth > _MAX_DEPTH:
            raise _refusal(event, f"nested deeper than {_MAX_DEPTH} levels")
        if self.num_nodes > _MAX_NODES:
            raise _refusal(event, f"more than {_MAX_NODES} values")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own class attribute
    yaml_representers: ClassVar[dict[Any, Any]] = {
        kind: yaml.SafeDumper.yaml_representers[kind]
        for kind in (type(None), bool, int, float, str, list, tuple, dict)
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _refuse(dumper: yaml.SafeDumper, data: Any) -> yaml.Node:
    raise yaml.YAMLError(f"{data!r} is of type {type(data).__name__}")


_Dumper.yaml_representers[None] = _refuse  # what PyYAML calls where it knows no better
for _class in (_Loader, _Dumper):
    for _name, _pattern, _firsts in _WORDS:
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _firsts)


def _refusal(at: yaml.Event | yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    mark: Any = at.start_mark
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _value(node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode) and node.tag in _MEANINGS:
        return _MEANINGS[node.tag](node)
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
        return _items(node)
    if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
        return _table(node)
    tag = node.tag.removeprefix(_TAG)
    raise _refusal(node, f"the tag '{tag}' is not taken; write plain values")


def _items(node: yaml.SequenceNode) -> Items:
    items = Items(_value(each) for each in node.value)
    items.lines = [each.start_mark.line + 1 for each in node.value]
    return items


def _table(node: yaml.MappingNode) -> Table:
    table = Table()
    table.lines = {}
    for key_node, value_node in node.value:
        key = _value(key_node)
        if not isinstance(key, str):
            raise _refusal(key_node, f"the key {key!r} is not text; put it in quotes")
        if key in table:
            raise _refusal(key_node, f"'{key}' stands here a second time; keep one")
        table[key], table.lines[key] = _value(value_node), key_node.start_mark.line + 1
    return table


def _text(node: yaml.ScalarNode) -> str:
    text = str(node.value)
    if any("\ud800" <= each <= "\udfff" for each in text):
        raise _refusal(node, "half a surrogate pair is no text")
    return text


def _integer(node: yaml.ScalarNode) -> int:
    text = node.value
    number = int(text, 0 if text[:2] in ("0o", "0x") else 10)
    if abs(number) >= _MAX_INTEGER:
        raise _refusal(node, "the number is too large; 64 bits are the most")
    return number


def _float(node: yaml.ScalarNode) -> float:
    text = node.value.lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_MEANINGS: dict[str, Callable[[yaml.ScalarNode], Any]] = {
    f"{_TAG}null": lambda node: None,
    f"{_TAG}bool": lambda node: node.value.lower() == "true",
    f"{_TAG}int": _integer,
    f"{_TAG}float": _float,
    f"{_TAG}str": _text,
}
