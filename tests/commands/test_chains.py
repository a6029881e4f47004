"""``birdbone chains``: the list, one chain, and a recipe that builds it again."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from birdbone.chains import CHAINS, build, load_recipe
from birdbone.cli import app
from birdbone.engine import spelled_settings


def chains(*words: str) -> Result:
    return CliRunner().invoke(app, ["chains", *words])


@pytest.mark.parametrize("name", CHAINS)
def test_the_recipe_of_a_chain_builds_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(chains(name, "--yaml").stdout)
    built = build(load_recipe(path), model="m", out="o")
    wanted = CHAINS[name](model="m", out="o")
    assert [(each.__name__, spelled_settings(each)) for each in built.links] == [
        (each.__name__, spelled_settings(each)) for each in wanted.links
    ]


def test_one_chain_is_shown_alone() -> None:
    assert set(CHAINS) <= set(chains().stdout.split())
    assert "bird-bone" not in chains("one-shot").stdout.split()
    assert "did you mean 'one-shot'" in chains("one-shto").stderr
    assert "--yaml prints one chain" in chains("--yaml").stderr
