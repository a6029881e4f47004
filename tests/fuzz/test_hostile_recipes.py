"""Recipes, and what is typed after --set: whatever they hold, a run is refused in words.

The model does not exist, so a run whose recipe is sound is refused for want of it.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from fuzz.hostile import BOMBS, WORDS, examples, flipped, junk, plain
from fuzz.sandbox import Sandbox
from hypothesis import given
from hypothesis import strategies as st

from birdbone.chains import CHAINS, LINKS

LINK_NAMES = sorted(LINKS)
SETTINGS = sorted(
    {name for factory in LINKS.values() for name in factory.settings_type.model_fields}
)
SOUND = b"""
links:
  - load: {dtype: bfloat16}
  - calibrate: {windows: 4, length: 16}
  - profile
  - score: {method: wanda}
  - waves: {body: [prune: {sparsity: 0.1}, heal: {epochs: 1}, validate], target: 0.9}
  - links: [quantize: {bits: 4, group_size: auto}, validate: {max_rise: 0.5}]
  - save: {compare: false}
"""
SIGNS = list("{}[]:,-#&*!|>'\"%@` \n\t0189.eE~\\ux\x85\ufeff")

tables = st.dictionaries(st.sampled_from(SETTINGS), junk, max_size=3)
entries = st.recursive(
    st.sampled_from(LINK_NAMES)
    | st.dictionaries(st.sampled_from(LINK_NAMES), tables, min_size=1, max_size=1)
    | junk,
    lambda inside: st.fixed_dictionaries({"links": st.lists(inside, max_size=3)})
    | st.fixed_dictionaries({"waves": st.fixed_dictionaries({"body": st.lists(inside)})}),
    max_leaves=4,
)
addresses = st.builds(
    "{}{}.{}".format,
    st.sampled_from(LINK_NAMES),
    st.sampled_from(["", "#1", "#2", "#0", "#99999"]),
    st.sampled_from(SETTINGS),
)
structures = st.one_of(
    junk,
    st.fixed_dictionaries({"links": st.lists(entries, min_size=1, max_size=4)}),
    st.fixed_dictionaries({"links": st.lists(entries), "name": junk}),
    st.fixed_dictionaries(
        {
            "chain": st.sampled_from(sorted(CHAINS)) | junk,
            "set": st.dictionaries(addresses | st.text(max_size=5), junk, max_size=2) | junk,
        }
    ),
)
scraps = st.lists(
    st.sampled_from([*LINK_NAMES, *SETTINGS, "links", "chain", "set", *SIGNS]), max_size=40
).map("".join)
files = st.one_of(
    structures.map(lambda found: yaml.safe_dump(found).encode("utf-8", "replace")),
    structures.map(lambda found: yaml.safe_dump(found).encode("utf-8", "replace")),
    scraps.map(str.encode),
    flipped(SOUND),
    st.binary(max_size=60),
    st.sampled_from(BOMBS),
)
values = st.one_of(
    scraps, plain.map(str), junk.map(lambda found: yaml.safe_dump(found)), st.sampled_from(WORDS)
)


@given(content=files)
@examples(0.4)
def test_recipes(sandbox: Sandbox, content: bytes) -> None:
    path = sandbox.given / "recipe.yaml"
    path.write_bytes(content)
    run = ("run", "--recipe", path, "--model", "./none", "--out", sandbox.out, "--quiet")
    assert sandbox.attempt(*run).exit_code != 0


@given(
    chain=st.sampled_from(sorted(CHAINS)),
    words=st.lists(st.builds("{}={}".format, addresses, values) | values, max_size=2),
)
@examples(0.4)
def test_settings_typed(sandbox: Sandbox, chain: str, words: list[Any]) -> None:
    typed = [f"--set={word}" for word in words]
    run = ("run", chain, "--model", "./none", "--out", sandbox.out, "--quiet", *typed)
    assert sandbox.attempt(*run).exit_code != 0


@given(option=st.sampled_from(["model", "out", "data", "recipe"]), word=values)
@examples(0.1)
def test_paths_typed(sandbox: Sandbox, option: str, word: str) -> None:
    options = {"model": "./none", "out": str(sandbox.out), option: word}
    typed = [f"--{name}={value}" for name, value in options.items()]
    sandbox.attempt("run", "quantize-only", "--quiet", *typed)


@pytest.mark.parametrize("command", ["inspect", "prove", "plot", "log", "gc", "diff", "revert"])
@given(word=values)
@examples(0.02)
def test_names_of_folders_typed(sandbox: Sandbox, command: str, word: str) -> None:
    more = {
        "plot": ["--out", str(sandbox.out)],
        "diff": [word],
        "revert": ["1", "--out", str(sandbox.out)],
    }
    sandbox.attempt(command, *more.get(command, []), "--", word)
