"""Recipes become chains: what they leave open is filled in, and refusals name the line."""

from __future__ import annotations

from typing import Any

import pytest

from birdbone.chains import bird_bone, build
from birdbone.engine import Chain, spelled_settings
from birdbone.errors import ChainError, SettingError


def plain(chain: Chain) -> list[Any]:
    """Names and settings, nested chains as lists."""
    return [
        plain(each) if isinstance(each, Chain) else (each.__name__, spelled_settings(each))
        for each in chain.links
    ]


def test_changes(written: Any) -> None:
    recipe = written("""
        chain: bird-bone
        set:
          waves.stop_loss: 0.4
          quantize#1.bits: 8
        """)
    chain = build(recipe, model="m", out="o", data="d")
    made = bird_bone(model="m", out="o", data="d")
    different = [
        (new, old) for new, old in zip(plain(chain), plain(made), strict=True) if new != old
    ]
    assert [new[0] for new, _ in different] == ["waves", "quantize"]
    assert different[0][0][1]["stop_loss"] == 0.4
    assert different[1][0][1]["bits"] == 8


@pytest.mark.parametrize(
    "text", ["chain: bird-bone", "chain: bird-bone\nset:", "{chain: bird-bone}"]
)
def test_no_changes(written: Any, text: str) -> None:
    chain = build(written(text), model="m", out="o")
    assert plain(chain) == plain(bird_bone(model="m", out="o"))


def test_filled_in(written: Any) -> None:
    recipe = written("""
        name: two bits of work
        links:
          - load: {dtype: bfloat16}
          - calibrate:
              windows: 32
          - profile
          - score:
          - save
        """)
    chain = build(recipe, model="m", out="o", data="d")
    names = [each.__name__ for each in chain.links]
    assert names == ["load", "calibrate", "profile", "score", "save"]
    load, calibrate, *_, save = (each.settings for each in chain.links)
    assert (load.model, load.dtype) == ("m", "bfloat16")
    assert (calibrate.data, calibrate.windows) == ("d", 32)
    assert save.path == "o"
    assert chain.__name__ == "two bits of work"


def test_default_data(written: Any) -> None:
    chain = build(written("links: [load, calibrate]"), model="m")
    assert chain.links[1].settings.data == "default"


def test_nested_chain(written: Any) -> None:
    recipe = written("""
        links:
          - load
          - calibrate
          - links: [profile, score, prune]
            name: wave
        """)
    inner = build(recipe, model="m").links[2]
    assert isinstance(inner, Chain)
    assert (inner.__name__, len(inner.links)) == ("wave", 3)


def test_body(written: Any) -> None:
    listed = written("""
        links:
          - waves:
              body:
                - prune: {method: wanda}
                - heal
                - validate
              step: 0.05
        """)
    named = written("links: [waves: {body: {name: one, links: [prune, links: [validate]]}}]")
    waves = build(listed).links[0]
    body = waves.settings.body
    assert waves.settings.step == 0.05
    assert [each.__name__ for each in (body, *body.links)] == ["body", "prune", "heal", "validate"]
    assert body.links[0].settings.method == "wanda"
    other = build(named).links[0].settings.body
    assert other.__name__ == "one"
    assert isinstance(other.links[1], Chain)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("links:\n- waves:\n    body: 3", "line 3: body is 3; list the links, each after '- '"),
        ("links:\n- waves:\n    body: [prun]", "line 3: no link 'prun'; did you mean 'prune'"),
        ("links:\n- waves:\n    body:\n    - prune: {sparsty: 1}", "line 4: prune has no sett"),
        ("links:\n- waves:\n    body: [prune]", "line 2: the body of waves has no validate"),
        ("links:\n- waves: {step: 0.1}", r"line 2: waves\(body\): Field required"),
    ],
)
def test_wrong_body(written: Any, text: str, message: str) -> None:
    with pytest.raises((SettingError, ChainError), match=message):
        build(written(text))


def test_nothing_open(written: Any) -> None:
    listed = build(written("links: [load: {model: mine}, save: {path: here}]"))
    chosen = build(written("{chain: one-shot, set: {load#1.model: mine, save.path: here}}"))
    for chain in (listed, chosen):
        assert chain.links[0].settings.model == "mine"
        assert chain.links[-1].settings.path == "here"


@pytest.mark.parametrize(
    "text", ["links: [load: {model: mine}]", "{chain: one-shot, set: {load.model: mine}}"]
)
def test_the_recipe_wins(written: Any, text: str) -> None:
    recipe = written(text)
    out = None if recipe.chain is None else "o"
    with pytest.warns(match="sets load.model to 'mine': model='other' is not used"):
        chain = build(recipe, model="other", out=out)
    assert chain.links[0].settings.model == "mine"


def test_no_link_for_an_argument(written: Any) -> None:
    with pytest.warns(match=r"recipe '.*recipe.yaml' has no save: out='o' is not used"):
        build(written("links: [load]"), model="m", out="o")


def test_the_same_value_twice(written: Any) -> None:
    chain = build(written("links: [load: {model: m}]"), model="m")
    assert chain.links[0].settings.model == "m"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("links: [load]", "line 1: load.model is not set; .*give --model"),
        ("links:\n- load: {model: m}\n- save", "line 3: save.path is not set; .*--out"),
        ("chain: bird-bone", "recipe.yaml': load.model is not set"),
        ("chain: bird-bone\nset: {load.model: m}", "save.path is not set"),
    ],
)
def test_still_open(written: Any, text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        build(written(text))


def test_the_recipe_wins_in_a_chain_within(written: Any) -> None:
    recipe = written("""
        links:
          - load
          - links:
              - calibrate: {data: [a, b]}
        """)
    with pytest.warns(match=r"line 5 sets calibrate\.data to \('a', 'b'\): data='c' is not used"):
        chain = build(recipe, model="m", data="c")
    assert chain.links[1].links[0].settings.data == ("a", "b")


def test_several_sources(written: Any) -> None:
    """Those of the recipe are a list, those of an argument a tuple."""
    recipe = written("links: [calibrate: {data: [a, b]}]")
    assert build(recipe, data=("a", "b")).links[0].settings.data == ("a", "b")
    given = build(written("chain: quantize-only"), model="m", out="o", data=("a", "b:2"))
    assert given.links[1].settings.data == ("a", "b:2")


def test_the_nearer_address_wins(written: Any) -> None:
    recipe = written("""
        chain: quantize-only
        set: {load.model: far, "load#1.model": near, save.path: o}
        """)
    assert build(recipe).links[0].settings.model == "near"


def test_a_model_within_a_chain(written: Any) -> None:
    recipe = written("links: [links: [load, calibrate], links: [quantize, save]]")
    first, second = build(recipe, model="m", out="o", data="d").links
    assert first.links[0].settings.model == "m"
    assert first.links[1].settings.data == "d"
    assert second.links[1].settings.path == "o"
    with pytest.raises(SettingError, match=r"load\.model is not set; .*\(model=\)"):
        build(recipe, out="o")


def test_a_value_out_of_range_has_its_line(written: Any) -> None:
    with pytest.raises(SettingError, match=r"line 3: quantize\(bits=9\): .* or equal to 8"):
        build(written("links:\n- load: {model: m}\n- quantize: {bits: 9}"))
    with pytest.raises(SettingError, match=r"recipe\.yaml': quantize\(bits=9\)"):
        build(written("chain: quantize-only\nset: {quantize.bits: 9}"), model="m", out="o")


def test_a_recipe_is_built_anew_each_time(written: Any) -> None:
    """What one call fills in is not in the next."""
    recipe = written("links: [load, save]")
    first, second = (build(recipe, model=name, out="o") for name in ("one", "two"))
    assert [each.links[0].settings.model for each in (first, second)] == ["one", "two"]
