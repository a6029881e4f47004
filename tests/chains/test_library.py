"""The links by name: whatever is a link is there, under the name that a user writes."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from birdbone import links
from birdbone.chains import CHAINS, LINKS
from birdbone.engine import Chain, LinkFactory
from birdbone.engine.rebuilding import links_with_settings
from birdbone.errors import SettingError


def test_every_file_of_a_link() -> None:
    """The folder holds the links, one in each file."""
    folder = Path(inspect.getfile(links)).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert set(LINKS) == files


@pytest.mark.parametrize("name", LINKS)
def test_the_name_is_its_own(name: str) -> None:
    factory = LINKS[name]
    assert isinstance(factory, LinkFactory)
    assert (factory.name, factory.function.__name__) == (name, name)
    assert factory is getattr(links, name)


def test_it_cannot_be_changed() -> None:
    with pytest.raises(TypeError, match="does not support item assignment"):
        LINKS["own"] = LINKS["prune"]  # type: ignore[index]


@pytest.mark.parametrize("name", CHAINS)
def test_predefined_chains_use_nothing_else(name: str) -> None:
    chain = CHAINS[name](model="m", out="o")
    for each in links_with_settings(chain):
        assert LINKS[each.__name__] is each.factory


@pytest.mark.parametrize("name", LINKS)
def test_settings_are_documented(name: str) -> None:
    """Each has a text, which `birdbone links NAME` prints."""
    bare = [
        setting
        for setting, field in LINKS[name].settings_type.model_fields.items()
        if not (field.description or "").strip()
    ]
    assert bare == []
    assert (LINKS[name].__doc__ or "").strip()


@pytest.mark.parametrize("name", LINKS)
def test_an_unknown_setting_is_refused(name: str) -> None:
    with pytest.raises(SettingError, match=f"{name} has no setting 'colour'; "):
        LINKS[name](colour="red")


def test_links_by_name_make_a_chain() -> None:
    chain = Chain(*(LINKS[name]() for name in ("profile", "score", "prune")))
    assert chain.needs == {"checkpoint", "dense", "calibration", "healing", "heldout"}
    assert {"profile", "scores", "plan"} <= chain.adds
