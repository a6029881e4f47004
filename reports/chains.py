"""What the predefined chains are, read off the functions that make them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..engine import Chain, Link

# Stand for what the command line gives; nothing is opened to build a chain.
_MODEL, _OUT = "MODEL", "OUT"


@dataclass(frozen=True)
class ChainPage:
    """One predefined chain: its links in order, each with the settings it was built with."""

    name: str
    summary: str
    text: str
    links: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        """The page in types JSON knows."""
        return asdict(self)


def chain_page(name: str, make: Callable[..., Chain]) -> ChainPage:
    """Build the chain for no model in particular and read it."""
    text = inspect.cleandoc(make.__doc__ or "").replace("``", "`")
    chain = make(model=_MODEL, out=_OUT)
    links = tuple({"link": each.__name__, "settings": _changed(each)} for each in each_link(chain))
    return ChainPage(name, " ".join(text.split("\n\n")[0].split()), text, links)


def each_link(chain: Chain) -> Iterator[Any]:
    """The links of a chain, those of nested chains in their place."""
    for each in chain.links:
        if isinstance(each, Chain):
            yield from each_link(each)
        else:
            yield each


def save_links(chain: Chain) -> list[Any]:
    """The links of a chain that write a folder."""
    return [each for each in each_link(chain) if getattr(each, "__name__", "") == "save"]


def _changed(each: Link) -> dict[str, Any]:
    """The settings in which a link differs from its defaults."""
    fields = each.factory.schema.model_fields
    return {name: value for name, value in each.settings.items() if value != fields[name].default}


def chains_report(pages: Iterable[ChainPage]) -> RenderableType:
    """All predefined chains, with their links."""
    lines = Table.grid(padding=(0, 2))
    for page in pages:
        links = ", ".join(each["link"] for each in page.links)
        lines.add_row(Text(page.name), Text(f"{page.summary}\n{links}"))
    return lines


def chain_markdown(page: ChainPage) -> str:
    """One chain as a section of the reference."""
    return "\n\n".join([f"## {page.name}", page.text, _markdown_links(page)])


def _markdown_links(page: ChainPage) -> str:
    lines = ["```yaml", "links:"]
    for each in page.links:
        settings = ", ".join(f"{key}: {_spelled(value)}" for key, value in each["settings"].items())
        lines.append(f"  - {each['link']}" + (f": {{{settings}}}" if settings else ""))
    return "\n".join([*lines, "```"])


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
