"""Write docs/links.md, docs/chains.md and docs/commands.md from signatures and docstrings.

Run as ``python -m birdbone.commands.reference docs/``; a test compares the committed pages with it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ..chains import CHAINS, LINKS
from ..reports.chains import chain_markdown, chain_page
from ..reports.links import link_markdown, link_page
from .command_pages import commands_markdown

_ORIGIN = (
    "Generated from the code by `python -m birdbone.commands.reference docs/`. To change this "
    "page, change the code and run `make docs`."
)


def reference() -> dict[str, str]:
    """File name to text, for every page of the reference."""
    links = [link_markdown(link_page(factory)) for factory in LINKS.values()]
    chains = [chain_markdown(chain_page(name, make)) for name, make in CHAINS.items()]
    return {
        "links.md": _page("Links", links),
        "chains.md": _page("Chains", chains),
        "commands.md": _page("Commands", commands_markdown()),
    }


def _page(title: str, sections: list[str]) -> str:
    return "\n\n".join([f"# {title}", _ORIGIN, *sections]) + "\n"


def write_reference(folder: Path) -> None:
    """Write every page of the reference into an existing folder."""
    for name, text in reference().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
