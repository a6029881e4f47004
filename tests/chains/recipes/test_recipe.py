"""Recipes: what is refused when one is read, and where it says it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from birdbone.chains import build, load_recipe
from birdbone.errors import ChainError, SettingError


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
