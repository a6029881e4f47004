"""``birdbone run``: a predefined chain or a recipe, with what the command adds to it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import birdbone, refused

from birdbone.chains import CHAINS
from birdbone.commands import run as command
from birdbone.engine import Chain
from birdbone.engine.rebuilding import links_with_settings

OWN = """
from birdbone.contexts.flow import Empty
from birdbone.engine import link

@link
async def greet(ctx: Empty, *, name: str = "you") -> dict:
    return {"greeting": name}
"""


@pytest.fixture
def assembled(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The chain that would be run, and how."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(
        command, "execute", lambda assemble, how: found.update(chain=assemble(), how=how)
    )
    return found


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


def names(chain: Chain) -> list[str]:
    return [each.__name__ for each in links_with_settings(chain)]


@pytest.mark.parametrize("name", CHAINS)
def test_predefined_chains(name: str, assembled: Any, tmp_path: Path) -> None:
    out = tmp_path / "light"
    found = birdbone("run", name, "--model", "mine", "--out", out, "--data", "a")
    assert found.exit_code == 0, found.output
    wanted = CHAINS[name](model="mine", out=str(out), data="a")
    assert repr(assembled["chain"]) == repr(wanted)


def test_without_data_the_chain_decides(assembled: Any, tmp_path: Path) -> None:
    birdbone("run", "one-shot", "--model", "mine", "--out", tmp_path / "light")
    assert assembled["chain"].links[1].settings.data == "default"


def test_a_recipe(assembled: Any, recipe: Any) -> None:
    path = recipe("links: [load: {dtype: bfloat16}, calibrate]")
    found = birdbone("run", "--recipe", path, "--model", "mine", "--data", "a", "--data", "b")
    assert found.exit_code == 0, found.output
    load, calibrate = assembled["chain"].links
    assert (load.settings.model, load.settings.dtype) == ("mine", "bfloat16")
    assert calibrate.settings.data == ("a", "b")


def test_a_recipe_of_a_chain_may_be_named_too(assembled: Any, recipe: Any, tmp_path: Path) -> None:
    path = recipe("chain: one-shot\nset: {quantize.bits: 3}")
    args = ("--recipe", path, "--model", "mine", "--out", tmp_path / "light")
    assert birdbone("run", "one-shot", *args).exit_code == 0
    assert "quantize" in names(assembled["chain"])
    words = refused("run", "bird-bone", *args, code=2)
    assert "the recipe is not of chain 'bird-bone'; leave CHAIN out" in words


def test_links_of_a_module(
    assembled: Any, recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_links_of_a_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    path = recipe("links: ['own_links_of_a_test:greet': {name: me}]")
    found = birdbone("run", "--recipe", path, "--import", "own_links_of_a_test")
    sys.modules.pop("own_links_of_a_test", None)
    assert found.exit_code == 0, found.output
    assert names(assembled["chain"]) == ["greet"]


def test_a_module_without_a_recipe(tmp_path: Path) -> None:
    """It would be imported for nothing."""
    args = ("run", "one-shot", "--model", "mine", "--out", tmp_path / "light")
    words = refused(*args, "--import", "json", code=2)
    assert "--import is for the links of a recipe; give --recipe FILE too" in words


@pytest.mark.parametrize(
    ("args", "words", "code"),
    [
        ((), "give CHAIN, one of bird-bone, one-shot, fit, quantize-only, or --recipe FILE", 2),
        (("one-shot", "--out", "o"), "chain 'one-shot' needs --model and --out", 2),
        (("one-shot", "--model", "m"), "chain 'one-shot' needs --model and --out", 2),
        (("oneshot", "--model", "m"), "no chain 'oneshot'; did you mean 'one-shot'?", 1),
        (("--recipe", "none.yaml"), "recipe 'none.yaml' cannot be read", 1),
    ],
)
def test_refused(args: tuple[str, ...], words: str, code: int) -> None:
    assert words in refused("run", *args, code=code)


def test_shortcuts(assembled: Any, tmp_path: Path) -> None:
    options = ("--target", 0.7, "--stop-loss", 0.1, "--bits", 8, "--no-keep-unused", "--force")
    out = tmp_path / "light"
    birdbone("run", "bird-bone", "--model", "m", "--out", out, *options, "--set", "heal.seed=7")
    found = {each.__name__: each.settings for each in links_with_settings(assembled["chain"])}
    assert (found["waves"].target, found["waves"].stop_loss) == (0.7, 0.1)
    assert (found["quantize"].bits, found["heal"].seed) == (8, 7)
    assert (found["load"].keep_unused, found["save"].force) == (False, True)


def test_how_it_is_run(assembled: Any, tmp_path: Path) -> None:
    args = ("run", "one-shot", "--model", "m", "--out", tmp_path / "light", "--log", "json")
    birdbone(*args, "--run", tmp_path / "run", "--json", "--quiet", "--wandb", "p", "--threads", 2)
    how = assembled["how"]
    assert (how.run_folder, how.log, how.threads) == (tmp_path / "run", "json", 2)
    assert how.wandb is not None
    assert how.wandb.project == "p"
    assert (how.as_json, how.quiet, how.dry_run) == (True, True, False)
