"""``birdbone links``: all links, or the settings of one."""

from __future__ import annotations

import json

import pytest
from command_line import birdbone, document, refused

from birdbone.chains import LINKS


def test_every_link_is_listed() -> None:
    shown = birdbone("links")
    assert shown.exit_code == 0
    assert [name for name in LINKS if name not in shown.stdout] == []
    assert [each["name"] for each in document("links")] == list(LINKS)


@pytest.mark.parametrize("name", LINKS)
def test_one_link(name: str) -> None:
    """Its page has every setting, in order."""
    page = document("links", name)
    assert page["name"] == name
    assert [each["name"] for each in page["settings"]] == list(
        LINKS[name].settings_type.model_fields
    )
    shown = birdbone("links", name).stdout
    assert [each["name"] for each in page["settings"] if each["name"] not in shown] == []


def test_what_it_needs_and_adds() -> None:
    page = document("links", "prune")
    assert set(page["needs"]) == set(LINKS["prune"].needs)
    assert set(page["adds"]) == {"checkpoint", "plan"}


def test_the_list_is_of_the_same_pages() -> None:
    """A program may read all of them at once."""
    assert {each["name"]: each for each in document("links")}["heal"] == document("links", "heal")


def test_an_unknown_name() -> None:
    assert refused("links", "prunes") == ("error: there is no link 'prunes'; did you mean 'prune'?")
    assert "known: allocate, calibrate, heal" in refused("links", "xyzzy")


def test_json_is_valid_on_its_own() -> None:
    result = birdbone("links", "quantize", "--json")
    assert json.loads(result.stdout)["name"] == "quantize"
    assert result.stderr == ""
