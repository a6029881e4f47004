"""Whatever a recipe file or an assignment holds, what comes out is a chain or a refusal."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from birdbone.chains import LINKS, build, configure, load_recipe, one_shot, parse_assignment
from birdbone.errors import BirdboneError

NAMES = sorted({name for factory in LINKS.values() for name in factory.settings_type.model_fields})
WORDS = [*LINKS, *NAMES, "chain", "set", "links", "name", "bird-bone", "one-shot", "self"]
SIGNS = list("{}[]:,-#&*!|>'\"%@` \n\t0189.eE~\\ux\x85\ufeff")

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=3)
    | st.dates()
    | st.sampled_from(WORDS),
    lambda inside: st.lists(inside, max_size=4)
    | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4) | st.integers(), inside),
    max_leaves=10,
)
entries = st.one_of(
    st.sampled_from(list(LINKS)),
    st.dictionaries(
        st.sampled_from(list(LINKS)),
        st.dictionaries(st.sampled_from(NAMES), values, max_size=3),
        max_size=2,
    ),
    values,
)
addresses = st.tuples(
    st.sampled_from(list(LINKS)), st.sampled_from(["", "#1", "#2"]), st.sampled_from(NAMES)
).map(lambda parts: f"{parts[0]}{parts[1]}.{parts[2]}")
recipes = st.one_of(
    values,
    st.fixed_dictionaries({"links": st.lists(entries, max_size=5)}),
    st.fixed_dictionaries(
        {
            "chain": st.sampled_from(["bird-bone", "one-shot"]),
            "set": st.dictionaries(addresses, values, max_size=2),
        }
    ),
)
scraps = st.lists(st.sampled_from(WORDS) | st.sampled_from(SIGNS), max_size=40).map("".join)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes") / "recipe.yaml"


def attempt(file: Path, content: bytes) -> None:
    """Read and build; anything but a refusal of ours fails the test."""
    file.write_bytes(content)
    with warnings.catch_warnings(), suppress(BirdboneError):
        warnings.simplefilter("ignore")
        build(load_recipe(file), model="m", out="o")


@given(content=st.binary(max_size=200))
def test_bytes(file: Path, content: bytes) -> None:
    attempt(file, content)


@given(text=st.text(max_size=200) | scraps)
def test_text(file: Path, text: str) -> None:
    attempt(file, text.encode("utf-8", "surrogatepass"))


@given(structure=recipes)
def test_structures_almost_right(file: Path, structure: Any) -> None:
    attempt(file, yaml.safe_dump(structure, allow_unicode=True).encode("utf-8", "replace"))


@given(text=st.text(max_size=60) | st.tuples(addresses, scraps).map("=".join))
def test_assignments(text: str) -> None:
    with suppress(BirdboneError):
        key, value = parse_assignment(text)
        configure(one_shot(model="m", out="o"), {key: value})


@given(changes=st.dictionaries(addresses | st.text(max_size=8), values, max_size=3))
def test_changes_from_python(changes: dict[str, Any]) -> None:
    with suppress(BirdboneError):
        configure(one_shot(model="m", out="o"), changes)


@pytest.mark.parametrize(
    "content",
    [
        b"a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nlinks: *b",
        b"links: " + b"[" * 100_000,
        b"links: " + b"- " * 100_000,
        b"{" * 50_000,
        b"? " * 50_000,
        b"links:\n" + b"- links:\n" * 10_000,
        b"%YAML " + b"9" * 5000 + b".1\n---\na",
        b"links: [load: {model: !!python/name:os.system }]",
        b"chain: bird-bone\nset: {calibrate.seed: 0x" + b"f" * 5000 + b"}",
    ],
    ids=lambda content: content[:12].decode(),
)
def test_bombs_are_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(BirdboneError):
        load_recipe(file)
