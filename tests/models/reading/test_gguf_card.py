"""Licence and origin go from a GGUF header to the card, and from the card to a GGUF header."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader, GGUFWriter
from tiny import tiny_checkpoint
from tiny_gguf import gguf_checkpoint

from birdbone.checkpoints import Checkpoint
from birdbone.formats.gguf_writer import write_gguf
from birdbone.models.reading.folder_files import CARRIED_CARD
from birdbone.models.reading.gguf_card import card_of_header
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.source_card import base_models, source_metadata
from birdbone.models.reading.sources import find_model

CARD = b"""---
license: other
license_name: tiny-licence
license_link: https://example.org/licence
model_creator: Ada
base_model: owner/bigger
tags: [small, "two words"]
language: [en, "no"]
---
# Tiny
"""


def header(**keys: Any) -> dict[str, Any]:
    """Fields of a header file that holds the keys, dots written as two underscores."""

    class Field:
        def __init__(self, value: Any) -> None:
            self._value = value

        def contents(self) -> Any:
            return self._value

    return {name.replace("__", "."): Field(value) for name, value in keys.items()}


def carried(card: bytes, **files: bytes) -> Checkpoint:
    return replace(tiny_checkpoint(), source="folder", files={CARRIED_CARD: card, **files})


def test_a_header_becomes_the_metadata_of_a_card() -> None:
    card = card_of_header(
        header(
            general__license="Apache-2.0",
            general__name="Tiny One",
            general__author="Ada",
            general__tags=["small", "two words"],
            general__languages=["en", "no"],
            general__base_model__count=2,
            general__base_model__0__repo_url="https://huggingface.co/owner/bigger",
            general__base_model__1__name="Nowhere",
        ),
        "tiny.gguf",
    )
    assert source_metadata(carried(card)) == {
        "license": "apache-2.0",
        "model_name": "Tiny One",
        "model_author": "Ada",
        "tags": ["small", "two words"],
        "language": ["en", "no"],
        "base_model": ["owner/bigger", "Nowhere"],
    }
    assert b"# Tiny One" in card


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"general__license": 3, "general__tags": [1, 2]},
        {"general__license": "", "general__name": "\x00"},
        {"general__base_model__count": "many"},
        {"general__base_model__count": 1 << 60},
    ],
)
def test_a_header_without_any_of_it_makes_no_card(keys: dict[str, Any]) -> None:
    assert card_of_header(header(**keys), "tiny.gguf") == b""


def test_a_header_cannot_write_lines_of_its_own() -> None:
    hostile = "mit\n---\nbase_model: evil/model"
    found = source_metadata(carried(card_of_header(header(general__license=hostile), "x.gguf")))
    assert list(found) == ["license"]


def test_a_written_file_states_what_the_card_states(tmp_path: Path) -> None:
    checkpoint = replace(gguf_checkpoint(), source="folder")
    checkpoint = replace(checkpoint, files={**checkpoint.files, CARRIED_CARD: CARD})
    write_gguf(checkpoint, tmp_path / "tiny.gguf", kind="f32")
    fields = GGUFReader(tmp_path / "tiny.gguf").fields
    found = {key: fields[key].contents() for key in fields if key.startswith("general.")}
    assert found["general.license"] == "other"
    assert found["general.license.name"] == "tiny-licence"
    assert found["general.license.link"] == "https://example.org/licence"
    assert found["general.author"] == "Ada"
    assert found["general.tags"] == ["small", "two words"]
    assert found["general.languages"] == ["en", "no"]
    assert found["general.base_model.0.repo_url"] == "https://huggingface.co/owner/bigger"


def test_it_comes_back_when_the_file_is_read(tmp_path: Path) -> None:
    checkpoint = replace(gguf_checkpoint(), source="folder")
    checkpoint = replace(checkpoint, files={**checkpoint.files, CARRIED_CARD: CARD})
    write_gguf(checkpoint, tmp_path / "tiny.gguf", kind="f32")
    found = source_metadata(open_checkpoint(find_model(str(tmp_path / "tiny.gguf"))))
    assert found["license"] == "other"
    assert found["license_name"] == "tiny-licence"
    assert found["model_author"] == "Ada"
    assert found["base_model"] == ["owner/bigger"]
    assert found["tags"] == ["small", "two words"]


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        (b"  Apache License\n  Version 2.0, January 2004\n", "apache-2.0"),
        (
            b"Permission is hereby granted, free of charge, to all. The Software is provided",
            "mit",
        ),
        (b"A licence of its own", None),
    ],
)
def test_a_licence_file_names_the_licence_where_the_card_does_not(
    text: bytes, licence: str | None
) -> None:
    assert source_metadata(carried(b"# Tiny", LICENSE=text)).get("license") == licence
    assert source_metadata(carried(CARD, LICENSE=text))["license"] == "other"


@pytest.mark.parametrize(
    "card", [b"", b"---\n: [\n---\n", b"---\n- a\n---\n", b"\xff---\n", b"---\n"]
)
def test_a_card_without_metadata_says_nothing(card: bytes) -> None:
    assert source_metadata(carried(card)) == {}


def test_the_source_itself_is_the_base_model_if_it_is_on_the_hub() -> None:
    assert base_models(replace(carried(CARD), source="owner/tiny")) == ["owner/tiny"]
    assert base_models(carried(CARD)) == ["owner/bigger"]
    assert base_models(carried(b"")) == []


def test_a_real_header_is_read(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "real.gguf", "llama")
    writer.add_license("MIT")
    writer.add_tags(["one"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    fields = GGUFReader(tmp_path / "real.gguf").fields
    assert card_of_header(fields, "real.gguf").startswith(b"---\nlicense: mit\ntags: [one]\n---\n")
