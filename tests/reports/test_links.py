from typing import Annotated, Literal, TypedDict

import pytest
from pydantic import Field
from rich.console import Console

from birdbone.chains import LINKS
from birdbone.engine import link
from birdbone.reports.links import link_markdown, link_page, link_report, links_report


class Needed(TypedDict):
    wood: int


class Added(TypedDict):
    boards: int


@link
async def saw(
    ctx: Needed,
    *,
    blade: str,
    teeth: Annotated[int, Field(ge=1, lt=9)] = 4,
    speed: Annotated[float, Field(gt=0)] | None = None,
    way: Literal["rip", "cross"] = "rip",
    oiled: bool = True,
) -> Added:
    """Cut wood
    into boards.

    Slowly.

    Settings:
        blade: which ``one``, the old
            or the new.
        teeth, speed: how many
            and how fast.
        way: along | across.

    Raises:
        blade: is no setting here.
    """
    return {"boards": 2}


def read(renderable: object) -> str:
    console = Console(width=60)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_a_page_is_read_off_signature_and_docstring() -> None:
    page = link_page(saw)
    assert page.summary == "Cut wood into boards."
    assert page.text == "Cut wood\ninto boards.\n\nSlowly."
    assert (page.needs, page.adds) == (("wood",), ("boards",))
    found = {each.name: (each.type, each.range, each.default) for each in page.settings}
    assert found == {
        "blade": ("text", "", None),
        "teeth": ("whole number", ">= 1, < 9", "4"),
        "speed": ("number or null", "> 0", "null"),
        "way": ("rip, cross", "", "rip"),
        "oiled": ("true/false", "", "true"),
    }


def test_descriptions_may_span_lines_and_serve_several_settings() -> None:
    said = {each.name: each.description for each in link_page(saw).settings}
    assert said["blade"] == "which `one`, the old or the new."
    assert said["teeth"] == said["speed"] == "how many and how fast."
    assert said["oiled"] == ""


def test_a_narrow_terminal_loses_no_word() -> None:
    text = " ".join(read(link_report(link_page(saw))).split())
    assert "required which `one`, the old or the new." in text
    assert "whole number; >= 1, < 9; default 4" in text
    assert "needs wood; adds boards" in text


def test_the_list_has_every_link() -> None:
    text = read(links_report([link_page(each) for each in LINKS.values()]))
    assert [name for name in LINKS if name not in text] == []


def test_markdown_keeps_its_columns() -> None:
    rows = [line for line in link_markdown(link_page(saw)).splitlines() if line.startswith("| `")]
    assert rows[0] == "| `blade` | text |  | required | which `one`, the old or the new. |"
    assert rows[3] == "| `way` | rip, cross |  | `rip` | along \\| across. |"


@pytest.mark.parametrize("name", sorted(LINKS))
def test_every_setting_of_every_link_is_described(name: str) -> None:
    page = link_page(LINKS[name])
    undescribed = [each.name for each in page.settings if not each.description]
    assert undescribed == []
