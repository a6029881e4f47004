"""The predefined chains: composed without a model, complete in themselves, reading as they say."""

from __future__ import annotations

import pytest

from birdbone import links
from birdbone.chains import CHAINS, LINKS, bird_bone, fit, one_shot, quantize_only
from birdbone.engine import Chain
from birdbone.errors import SettingError


def names(chain: Chain) -> list[str]:
    return [each.__name__ for each in chain.links]


@pytest.mark.parametrize("name", CHAINS)
def test_every_chain_carries_its_name_needs_nothing_and_fills_in_what_it_is_given(
    name: str,
) -> None:
    chain = CHAINS[name](model="some/model", out="light", data="prose.txt")
    assert chain.__name__ == name
    assert chain.needs == frozenset()
    first, second, *_, last = chain.links
    assert (first.settings.model, second.settings.data) == ("some/model", "prose.txt")
    assert last.settings.path == "light"


@pytest.mark.parametrize("name", CHAINS)
def test_every_chain_has_a_summary_of_one_line(name: str) -> None:
    described = (CHAINS[name].__doc__ or "").partition("\n\n")[0]
    assert described.endswith(".")
    assert len(described.splitlines()) == 1


def test_bird_bone_thins_in_waves_before_it_quantizes() -> None:
    chain = bird_bone(model="m", out="o")
    assert names(chain) == [
        *("load", "calibrate", "profile", "score", "waves", "quantize", "heal", "validate", "save")
    ]
    assert names(chain.links[4].settings.body) == ["prune", "heal", "validate"]


def test_one_shot_prunes_once_where_bird_bone_has_waves_and_never_heals() -> None:
    cycle = names(bird_bone(model="m", out="o"))
    assert names(one_shot(model="m", out="o")) == [
        "prune" if each == "waves" else each for each in cycle if each != "heal"
    ]


def test_quantize_only_removes_no_weight() -> None:
    assert names(quantize_only(model="m", out="o")) == [
        *("load", "calibrate", "quantize", "validate", "save")
    ]


def test_fit_judges_candidates_before_it_saves() -> None:
    chain = fit(model="m", out="o")
    before = ["load", "calibrate", "sensitivity", "allocate", "select"]
    assert names(chain) == [*before, "heal", "validate", "save"]
    assert names(chain.links[4].settings.body) == ["quantize", "validate"]


def test_the_library_holds_every_link_under_its_own_name() -> None:
    assert sorted(LINKS) == sorted(links.__all__)
    assert all(factory.name == name for name, factory in LINKS.items())


@pytest.mark.parametrize("name", ["self", "args", "sparsiti", ""])
def test_a_setting_no_link_has_is_refused_whatever_it_is_called(name: str) -> None:
    with pytest.raises(SettingError, match=f"prune has no setting '{name}'"):
        LINKS["prune"].bind({name: 1})
