"""The examples compose; running them takes a model and minutes."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from birdbone.chains import build, load_recipe, one_shot
from birdbone.engine import Chain
from birdbone.errors import ChainError

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def test_the_recipe_has_the_steps_of_one_shot_and_heals() -> None:
    chain = build(load_recipe(EXAMPLES / "recipe.yaml"), model="m", out="o")
    names = [each.__name__ for each in chain.links]
    assert names.pop(5) == "heal"
    assert names == [each.__name__ for each in one_shot(model="m", out="o").links]
    assert chain.links[4].settings.pattern == "2:4"


def test_the_custom_chain_composes_and_its_own_link_is_checked_like_any_other() -> None:
    example = runpy.run_path(str(EXAMPLES / "custom_chain.py"))
    chain = example["custom_chain"]("m", "o")
    assert chain.needs == frozenset()
    assert "most_loaded" in chain.adds
    with pytest.raises(ChainError, match=r"rank needs 'scores'; score\(\), one place later"):
        Chain(*(chain.links[place] for place in (0, 1, 2, 4, 3)))
