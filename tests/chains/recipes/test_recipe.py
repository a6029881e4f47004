"""Recipes: both forms, what is filled in, what is refused and where it says it stands."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from birdbone.chains import Recipe, bird_bone, build, load_recipe
from birdbone.engine import Chain, spelled_settings
from birdbone.errors import ChainError, SettingError


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """A function that writes a recipe file and reads it."""

    def write(text: str) -> Recipe:
        path = tmp_path / "recipe.yaml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return load_recipe(path)

    return write


def plain(chain: Chain) -> list[Any]:
    """Names and settings, nested chains as lists."""
    return [
        plain(each) if isinstance(each, Chain) else (each.__name__, spelled_settings(each))
        for each in chain.links
    ]


def test_a_predefined_chain_with_changes(written: Any) -> None:
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
def test_a_predefined_chain_without_changes_is_that_chain(written: Any, text: str) -> None:
    chain = build(written(text), model="m", out="o")
    assert plain(chain) == plain(bird_bone(model="m", out="o"))


def test_links_one_by_one_with_what_they_leave_open_filled_in(written: Any) -> None:
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


def test_data_left_open_by_everybody_keeps_the_default(written: Any) -> None:
    chain = build(written("links: [load, calibrate]"), model="m")
    assert chain.links[1].settings.data == "default"


def test_a_chain_within_the_chain(written: Any) -> None:
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


def test_a_chain_that_is_a_setting_is_a_list_or_a_table_with_a_name(written: Any) -> None:
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
def test_a_body_that_does_not_fit_is_refused_with_its_line(
    written: Any, text: str, message: str
) -> None:
    with pytest.raises((SettingError, ChainError), match=message):
        build(written(text))


def test_a_recipe_that_names_everything_needs_nothing_more(written: Any) -> None:
    listed = build(written("links: [load: {model: mine}, save: {path: here}]"))
    chosen = build(written("{chain: one-shot, set: {load#1.model: mine, save.path: here}}"))
    for chain in (listed, chosen):
        assert chain.links[0].settings.model == "mine"
        assert chain.links[-1].settings.path == "here"


@pytest.mark.parametrize(
    "text", ["links: [load: {model: mine}]", "{chain: one-shot, set: {load.model: mine}}"]
)
def test_what_the_recipe_sets_stands_and_the_argument_is_named_in_a_warning(
    written: Any, text: str
) -> None:
    recipe = written(text)
    out = None if recipe.chain is None else "o"
    with pytest.warns(match="sets load.model to 'mine': model='other' is not used"):
        chain = build(recipe, model="other", out=out)
    assert chain.links[0].settings.model == "mine"


def test_an_argument_no_link_takes_is_named_in_a_warning(written: Any) -> None:
    with pytest.warns(match=r"recipe '.*recipe.yaml' has no save: out='o' is not used"):
        build(written("links: [load]"), model="m", out="o")


def test_an_argument_that_says_what_the_recipe_says_is_fine(written: Any) -> None:
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
def test_what_stays_open_is_refused(written: Any, text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        build(written(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; it must be a table with chain or links"),
        ("- load", "is a list; it must be a table"),
        ("bird-bone", "is text; it must be a table"),
        ("name: x", "links is empty; list the links"),
        ("chain: bird-bon", "line 1: no chain 'bird-bon'; did you mean 'bird-bone'"),
        ("chain: [1]", "line 1: no chain \\[1\\]; known: bird-bone"),
        ("chain: bird-bone\nsets: {}", "line 2: no key 'sets' beside chain; did you mean 'set'"),
        ("chain: bird-bone\nlinks: []", "line 2: .*a recipe is either chain and set, or links"),
        ("links: [load]\nset: {}", "line 2: .*a recipe is either chain and set, or links"),
        ("chain: bird-bone\nset: [a]", "line 2: set is a list; write link.setting: value"),
        ("chain: bird-bone\nset:\n  prune: 3", "line 3: 'prune' names no setting"),
        ("links:\n  load: {}", "line 1: links is a table; list the links, each after '- '"),
        ("links: []", "links is an empty list; list the links"),
        ("links: load", "links is text; list the links"),
        ("links:\n- load\n- prun", "line 3: no link 'prun'; did you mean 'prune'"),
        ("links:\n- load\n- 3", "line 3: 3 is not a link; write a name"),
        ("links:\n- {load: , prune: }", "line 2: a table of 2 keys is not a link"),
        ("links:\n- []", "line 2: an empty list is not a link"),
        ("links:\n- prune: 3", "line 2: the settings of prune are 3; write prune: {name: value}"),
        ("links:\n- prune: [a]", "line 2: the settings of prune are a list"),
        ("links:\n- load\n- links: [heel]", "line 3: no link 'heel'; did you mean 'heal'"),
        ("links: [load]\nname: 3", "line 2: the name is 3, not text"),
        ("links: [load]\nlinks: [save]", "line 2: 'links' stands here a second time"),
        ("links: [load, &a save, *a]", "'\\*a' is an alias"),
    ],
)
def test_a_recipe_of_the_wrong_shape_is_refused_with_the_mend(
    written: Any, text: str, message: str
) -> None:
    with pytest.raises(SettingError, match=message) as refusal:
        written(text)
    assert str(refusal.value).startswith("recipe '")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("links:\n- prune: {sparsiti: 1}", "line 2: prune has no setting 'sparsiti'; did you"),
        ("links:\n- prune: {self: 1}", "line 2: prune has no setting 'self'"),
        ("links:\n- prune: {sparsity: 2}", r"line 2: prune\(sparsity=2\): Input should be less"),
        ("chain: one-shot\nset: {heal.rank: 2}", "recipe.yaml': chain 'one-shot' has no heal"),
        ("chain: one-shot\nset: {load.model: 3}", r"recipe.yaml': load\(model=3\)"),
    ],
)
def test_a_bad_value_is_refused_where_it_stands(written: Any, text: str, message: str) -> None:
    recipe = written(text)
    with pytest.raises(SettingError, match=message):
        build(recipe, model=None if "load.model" in text else "m", out="o")


def test_a_wrong_order_is_refused_with_the_file(written: Any) -> None:
    recipe = written("links: [load, calibrate, prune, profile, score]")
    with pytest.raises(ChainError, match=r"recipe '.*': prune needs 'profile'; profile\(\), one"):
        build(recipe, model="m")


def test_files_that_cannot_be_read_are_refused_with_the_reason(tmp_path: Path) -> None:
    large, binary = tmp_path / "large.yaml", tmp_path / "binary.yaml"
    large.write_bytes(b"# " + b"x" * (1 << 20))
    binary.write_bytes(b"\xff\xfe\x00")
    refusals = {
        str(large): "larger than 1 MB",
        str(binary): "not UTF-8 text",
        str(tmp_path): "cannot be read: Is a directory",
        str(tmp_path / "none.yaml"): "cannot be read: No such file",
        "null\0.yaml": "cannot be read: embedded null byte",
    }
    for path, message in refusals.items():
        with pytest.raises(SettingError, match=message):
            load_recipe(path)


def test_a_byte_order_mark_is_no_part_of_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xef\xbb\xbfchain: bird-bone\n")
    assert load_recipe(path).chain == "bird-bone"


def test_a_recipe_reaches_waves_and_what_may_come_back_in_them(tmp_path: Path) -> None:
    path = tmp_path / "masks.yaml"
    path.write_text("links: [waves: {body: [prune, validate], regrow: 0.1, of: parameters}]")
    [loop] = build(load_recipe(path)).links
    assert loop.settings.regrow == 0.1
    [prune, _] = loop.settings.body.links
    assert prune.settings.regrow is None
