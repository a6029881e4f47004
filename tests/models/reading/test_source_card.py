"""Licence and origin in the source's card: YAML as people write it, and hostile YAML."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdbone.checkpoints import Checkpoint
from birdbone.models.reading.folder_files import CARRIED_CARD
from birdbone.models.reading.source_card import base_models, source_metadata

APACHE = b"\n   Apache License\n  Version 2.0, January 2004\n"
MIT = b"Permission is hereby granted, free of\n charge, to any. THE SOFTWARE IS PROVIDED AS IS"


def carrying(card: bytes | str = b"", source: str = "folder", **files: bytes) -> Checkpoint:
    data = card.encode() if isinstance(card, str) else card
    return Checkpoint({}, {}, {CARRIED_CARD: data, **files}, source=source)


def found(body: str) -> dict[str, str | list[str]]:
    return source_metadata(carrying(f"---\n{body}\n---\n# A model\n"))


def test_texts_and_lists_are_kept() -> None:
    assert found("license: mit\ntags:\n- small\n- 'two words'\nbase_model: [a/b, c/d]") == {
        "license": "mit",
        "tags": ["small", "two words"],
        "base_model": ["a/b", "c/d"],
    }


@pytest.mark.parametrize(
    "card",
    [
        "---\nlicense: mit\nlanguage: de\n---\n# A model",
        "---\r\nlicense: mit\r\nlanguage: de\r\n---\r\n# A model\r\n",
        "\ufeff---\nlicense: mit\nlanguage: de\n---",
        "\n  \n---\nlicense: mit\nlanguage: de\n---\nmore\n---\n",
    ],
    ids=["plain", "windows", "byte order mark", "blank lines"],
)
def test_the_block_is_found_however_it_is_written(card: str) -> None:
    assert source_metadata(carrying(card)) == {"license": "mit", "language": "de"}


def test_scalars_are_the_text_they_are() -> None:
    """YAML has Norwegian for False, and years and versions for numbers and dates."""
    assert found("language:\n- no\n- en\ntags: [2024, 1.10, 2024-05-01, on]") == {
        "language": ["no", "en"],
        "tags": ["2024", "1.10", "2024-05-01", "on"],
    }
    assert found("language: no") == {"language": "no"}


def test_what_is_no_text_is_left_out() -> None:
    assert found("license: ~\nempty: []\nmodel-index: {a: b}\ntags: [a, {b: c}, null]\n5: x") == {
        "tags": ["a"],
        "5": "x",
    }


def test_long_lists_are_cut() -> None:
    assert len(found(f"tags: [{', '.join(f't{n}' for n in range(100))}]")["tags"]) == 64


@pytest.mark.parametrize(
    "card",
    [
        b"",
        b"# A model\n---\nlicense: mit\n---\n",
        b"---\nlicense: mit\n",
        b"---\n[1, 2]\n---\n",
        b"---\nlicense: [\n---\n",
        b"---\nlicense: !!python/object/apply:os.getcwd []\n---\n",
        b"---\n" + b"[" * 3000 + b"\n---\n",
        b"---\nlicense: \xff\xfe\x00\n---\n",
        b"---\n---\n",
    ],
)
def test_a_card_without_metadata_is_none(card: bytes) -> None:
    assert source_metadata(carrying(card)) == {}


@given(st.text(max_size=60))
def test_no_text_is_an_error(body: str) -> None:
    for value in found(body).values():
        assert isinstance(value, str) or all(isinstance(each, str) for each in value)


@pytest.mark.parametrize(
    ("name", "text", "licence"),
    [
        ("LICENSE", APACHE, "apache-2.0"),
        ("licence.txt", MIT, "mit"),
        ("LICENSE", b"You may not", None),
        ("NOTICE", APACHE, None),
        ("my.json", MIT, None),
    ],
)
def test_well_known_licences_are_recognised(name: str, text: bytes, licence: str | None) -> None:
    assert source_metadata(carrying(**{name: text})).get("license") == licence


def test_the_card_is_believed_before_the_file() -> None:
    checkpoint = carrying("---\nlicense: other\n---\n", LICENSE=MIT)
    assert source_metadata(checkpoint) == {"license": "other"}


def test_the_base_is_the_source_where_it_is_on_the_hub() -> None:
    card = "---\nbase_model: [owner/first, owner/second]\n---\n"
    assert base_models(carrying(card, source="someone/model")) == ["someone/model"]
    assert base_models(carrying(card)) == ["owner/first", "owner/second"]
    assert base_models(carrying("---\nbase_model: owner/first\n---\n")) == ["owner/first"]


@pytest.mark.parametrize(
    "named", ["Bigger", "https://huggingface.co/a/b", "a/b/c", "owner/x.gguf", "ä/b", "a/b c", "/x"]
)
def test_what_is_no_hub_id_is_no_base(named: str) -> None:
    assert base_models(carrying(f'---\nbase_model: "{named}"\n---\n', source="x.gguf")) == []
