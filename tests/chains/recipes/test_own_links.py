"""Links of the user's own in recipes: only from modules that were allowed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from birdbone.chains import build, configure, dump, load_recipe
from birdbone.errors import SettingError

MODULE = """
from typing import Any, TypedDict
from birdbone import link

class Greeted(TypedDict):
    greeting: str

@link
async def greet(ctx: dict[str, Any], *, name: str = "you") -> Greeted:
    return {"greeting": f"hello {name}"}

def plain(ctx):
    return ctx
"""
RECIPE = "links:\n  - own_greetings:greet: {name: bone}\n"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe in the working directory, beside the module it names."""
    (tmp_path / "own_greetings.py").write_text(MODULE)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield path
    sys.modules.pop("own_greetings", None)


def test_a_recipe_alone_imports_nothing(recipe: Path) -> None:
    with pytest.raises(SettingError, match=r"line 2: .*allow it with --import own_greetings"):
        load_recipe(recipe)
    assert "own_greetings" not in sys.modules


async def test_an_allowed_module_gives_its_links(recipe: Path) -> None:
    chain = build(load_recipe(recipe, imports=["own_greetings"]))
    assert (await chain.run({}))["greeting"] == "hello bone"
    changed = configure(chain, {"greet.name": "all"})
    assert (await changed.run({}))["greeting"] == "hello all"
    assert str(recipe.parent) not in sys.path


def test_it_is_written_under_the_name_it_was_read_by(recipe: Path) -> None:
    chain = build(load_recipe(recipe, imports=["own_greetings"]))
    assert "- own_greetings:greet:\n    name: bone" in dump(chain)
    recipe.write_text(dump(chain))
    again = build(load_recipe(recipe, imports=["own_greetings"]))
    assert again.links[0].factory is chain.links[0].factory


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_greetings:nobody", "has no link 'nobody'; decorate it with @link"),
        ("own_greetings:plain", "has no link 'plain'; decorate it with @link"),
        ("nowhere_at_all:greet", "module 'nowhere_at_all' cannot be imported"),
    ],
)
def test_what_is_not_a_link_is_refused(recipe: Path, name: str, message: str) -> None:
    recipe.write_text(f"links: [{name!r}]\n")
    with pytest.raises(SettingError, match=message):
        load_recipe(recipe, imports=[name.partition(":")[0]])
