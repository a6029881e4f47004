"""Descriptions of the predefined chains, taken from the functions that make them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..engine import Chain, Link, chains_of, changed

# Placeholders for --model and --out; building a chain opens neither.
_MODEL, _OUT = "MODEL", "OUT"


@dataclass(frozen=True)
class ChainPage:
    """One predefined chain: its links in order, each with the settings that are not defaults.

    A setting that is a chain is a list of links of the same form.
    """

    name: str
    summary: str
    text: str
    links: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        """The page as types that JSON can represent."""
        return asdict(self)


def chain_page(name: str, make: Callable[..., Chain]) -> ChainPage:
    """Build the chain with placeholders and describe it."""
    text = inspect.cleandoc(make.__doc__ or "").replace("``", "`")
    chain = make(model=_MODEL, out=_OUT)
    summary = " ".join(text.split("\n\n")[0].split())
    return ChainPage(name, summary, text, tuple(_spelled_links(chain)))


def each_link(chain: Chain) -> Iterator[Any]:
    """The links of a chain in order, including those of nested chains and of chain settings."""
    for each in chain.links:
        if isinstance(each, Chain):
            yield from each_link(each)
        else:
            yield each
            for inner in chains_of(each).values():
                yield from each_link(inner)


def _spelled_links(chain: Chain) -> list[dict[str, Any]]:
    return [
        entry
        for each in chain.links
        for entry in (
            _spelled_links(each)
            if isinstance(each, Chain)
            else [{"link": each.__name__, "settings": _changed(each)}]
        )
    ]


def save_links(chain: Chain) -> list[Any]:
    """The links of a chain that write a model."""
    return [each for each in each_link(chain) if getattr(each, "__name__", "") == "save"]


def _changed(each: Link[Any]) -> dict[str, Any]:
    """The settings in which a link differs from its defaults."""
    inner = {name: _spelled_links(chain) for name, chain in chains_of(each).items()}
    return changed(each.settings) | inner


def chains_report(pages: Iterable[ChainPage]) -> RenderableType:
    """The predefined chains and their links."""
    lines = Table.grid(padding=(0, 2))
    for page in pages:
        links = ", ".join(map(_in_a_row, page.links))
        lines.add_row(Text(page.name), Text(f"{page.summary}\n{links}"))
    return lines


def _in_a_row(entry: Mapping[str, Any]) -> str:
    """The name of a link, with the links of its chains in brackets."""
    inner = [value for value in entry["settings"].values() if _is_chain(value)]
    links = "; ".join(", ".join(map(_in_a_row, chain)) for chain in inner)
    return f"{entry['link']}({links})" if links else str(entry["link"])


def _is_chain(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def chain_markdown(page: ChainPage) -> str:
    """One chain as a section of the reference."""
    return "\n\n".join([f"## {page.name}", page.text, f"```yaml\n{chain_yaml(page)}\n```"])


def chain_yaml(page: ChainPage) -> str:
    """One chain as a recipe; --model and --out fill in what it leaves open."""
    return "\n".join(["links:", *_yaml_rows(page.links, "  ")])


def _yaml_rows(links: Iterable[Mapping[str, Any]], indent: str) -> Iterator[str]:
    for each in links:
        given = {k: v for k, v in each["settings"].items() if v not in (_MODEL, _OUT)}
        chains = {key: value for key, value in given.items() if _is_chain(value)}
        plain = {key: value for key, value in given.items() if key not in chains}
        if not chains:
            settings = ", ".join(f"{key}: {_spelled(value)}" for key, value in plain.items())
            yield f"{indent}- {each['link']}" + (f": {{{settings}}}" if settings else "")
            continue
        yield f"{indent}- {each['link']}:"
        yield from (f"{indent}    {key}: {_spelled(value)}" for key, value in plain.items())
        for key, value in chains.items():
            yield f"{indent}    {key}:"
            yield from _yaml_rows(value, f"{indent}      ")


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
