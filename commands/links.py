"""``birdbone links``: the links and their settings."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import SettingError, did_you_mean
from .options import AsJson, answer, print_json

_NAME = "A link whose settings to show."


def links(
    name: Annotated[str | None, typer.Argument(help=_NAME)] = None, as_json: AsJson = False
) -> None:
    """List the links, or show the settings of one."""
    from ..chains import LINKS
    from ..reports.links import link_page, link_report, links_report
    from ..reports.terminal import show

    if name is not None and name not in LINKS:
        raise SettingError(f"there is no link '{name}'; {did_you_mean(name, LINKS)}")
    if name is not None:
        page = link_page(LINKS[name])
        answer(page.as_dict(), lambda: link_report(page), as_json=as_json)
        return
    pages = [link_page(factory) for factory in LINKS.values()]
    print_json([page.as_dict() for page in pages]) if as_json else show(links_report(pages))
