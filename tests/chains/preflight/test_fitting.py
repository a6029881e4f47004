"""Milder settings: in which order they are tried, and that the chain has them."""

from __future__ import annotations

from birdbone.chains.preflight.fitting import milder, single_links
from birdbone.engine import Chain
from birdbone.links import calibrate, load, profile, prune, quantize, save, score, validate


def changes(*links: object) -> list[dict[str, object]]:
    return [dict(found) for found, _ in milder(Chain(*links))]


def test_batches_first_then_the_original_then_windows() -> None:
    found = changes(load(model="m"), calibrate(windows=8), profile(batch_size=4), save(path="o"))
    single, alone = {"profile.batch_size": 1}, {"save.compare": False}
    both = {**single, **alone}
    assert found == [single, alone, both] + [
        {**both, "calibrate.windows": windows} for windows in (4, 2, 1)
    ]


def test_neurons_chosen_without_gradients() -> None:
    single, local = {"prune.batch_size": 1}, {"prune.choice": "error"}
    assert changes(prune(pattern="neurons")) == [single, local, {**single, **local}]
    assert changes(prune(pattern="neurons", choice="error")) == [single]
    assert changes(prune(pattern="groups")) == changes(prune()) == [single]


def test_what_a_chain_does_not_have_is_not_changed() -> None:
    assert changes(load(model="m"), profile(batch_size=1)) == []


def test_the_chain_has_the_changed_settings_and_the_input_keeps_its_own() -> None:
    chain = Chain(profile(batch_size=4), validate(batch_size=2))
    ((found, changed),) = milder(chain)
    assert found == {"profile.batch_size": 1, "validate.batch_size": 1}
    assert [each.settings.batch_size for each in changed.links] == [1, 1]
    assert [each.settings.batch_size for each in chain.links] == [4, 2]


def test_links_of_nested_chains_are_listed_in_their_place() -> None:
    links = [score(), prune(), quantize()]
    assert list(single_links(Chain(links[0], Chain(Chain(links[1])), links[2]))) == links
