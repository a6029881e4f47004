"""A chain written as a recipe: the recipe builds the same chain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdbone.chains import CHAINS, build, configure, dump, load_recipe, one_shot
from birdbone.chains.recipes import own_links
from birdbone.chains.removing import with_removal
from birdbone.engine import Chain, chains_of, link
from birdbone.errors import ChainError
from birdbone.links import calibrate, load, profile, prune, score, validate


async def plain(ctx: dict[str, Any]) -> dict[str, Any]:
    return ctx


def content(chain: Chain) -> list[Any]:
    links = [
        content(each) if isinstance(each, Chain) else (each.factory, settings(each))
        for each in chain.links
    ]
    return [chain.__name__, links]


def settings(each: Any) -> dict[str, Any]:
    inner = {name: content(chain) for name, chain in chains_of(each).items()}
    return {**dict(each.settings), **inner}


def rebuilt(chain: Chain, folder: Path) -> Chain:
    path = folder / "recipe.yaml"
    path.write_text(dump(chain), encoding="utf-8")
    return build(load_recipe(path))


@pytest.mark.parametrize("name", CHAINS)
def test_every_predefined_chain_comes_back_from_its_recipe(name: str, tmp_path: Path) -> None:
    chain = CHAINS[name](model="hub/model", out="light: #1", data="2:4")
    assert content(rebuilt(chain, tmp_path)) == content(chain)


def test_nested_chains_come_back_with_their_names(tmp_path: Path) -> None:
    wave = Chain(prune(pattern="2:4"), Chain(validate()), name="wave")
    chain = Chain(load(model="m"), calibrate(), profile(), score(), wave, name="outer")
    assert content(rebuilt(chain, tmp_path)) == content(chain)


def test_a_chain_that_may_be_none_comes_back(tmp_path: Path) -> None:
    chain = with_removal(CHAINS["fit"](model="m", out="o"), [0.1])
    assert content(rebuilt(chain, tmp_path)) == content(chain)


@given(
    model=st.text(st.characters(codec="utf-8"), max_size=10),
    path=st.from_regex(r"[-+0-9.eE:_xon~]{1,6}", fullmatch=True),
    damping=st.floats(0, exclude_min=True),
    seed=st.integers(-(2**63), 2**63),
)
def test_settings_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, model: str, path: str, damping: float, seed: int
) -> None:
    chain = configure(
        one_shot(model=model, out=path), {"prune.damping": damping, "calibrate.seed": seed}
    )
    assert content(rebuilt(chain, tmp_path_factory.getbasetemp())) == content(chain)


def test_what_a_recipe_cannot_say_is_refused_by_name() -> None:
    @link
    async def mine(ctx: dict[str, Any], *, size: int = 3) -> dict[str, Any]:
        return {}

    routed = one_shot(model="m", out="o")
    routed.connect(routed.links[4], prune(sparsity=0.1), lambda ctx: True)
    for chain, message in [
        (
            Chain(plain, name="odd"),
            "chain 'odd' cannot be written.*'plain' is not a link that can b",
        ),
        (Chain(Chain(mine())), "'mine' is not a link that can be imported"),
        (routed, "chain 'one-shot' cannot be written.*a route from 'prune', which only Python"),
    ]:
        with pytest.raises(ChainError, match=message):
            dump(chain)


def test_a_setting_that_is_not_plain_data_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    @link
    async def odd(ctx: dict[str, Any], *, kinds: frozenset[str] = frozenset()) -> dict[str, Any]:
        return {}

    monkeypatch.setattr(own_links, "LINKS", {"odd": odd})
    with pytest.raises(ChainError, match=r"a setting is not plain data: .* of type frozenset"):
        dump(Chain(odd()))
