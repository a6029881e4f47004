"""The keys of a header that describe the model: of its architecture, and of the right kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter
from hypothesis import given
from hypothesis import strategies as st

from birdbone.models.codecs.gguf_head import read_head
from birdbone.models.codecs.gguf_keys import Keys, keys_of


def keys(**own: Any) -> Keys:
    return Keys("llama", own, ())


def header(path: Path, arch: str = "llama", tensors: tuple[str, ...] = ("a.weight",)) -> Path:
    """A file of a few keys and small tensors."""
    writer = GGUFWriter(path, arch)
    writer.add_uint32(f"{arch}.attention.key_length", 16)
    writer.add_float32(f"{arch}.rope.freq_base", 500.0)
    writer.add_array(f"{arch}.feed_forward_length", [64, 48])
    writer.add_uint32("llama2.other", 5)
    writer.add_string("general.name", "llama.tiny")
    for name in tensors:
        writer.add_tensor(name, np.ones(2, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_keys_of_the_architecture_lose_its_name(tmp_path: Path) -> None:
    found = keys_of(read_head(header(tmp_path / "x.gguf", tensors=("a.weight", "b.bias"))))
    assert found.arch == "llama"
    assert dict(found.own) == {
        "attention.key_length": 16,
        "rope.freq_base": 500.0,
        "feed_forward_length": [64, 48],
    }
    assert found.tensors == ("a.weight", "b.bias")


def test_a_header_without_an_architecture_is_refused(tmp_path: Path) -> None:
    data = header(tmp_path / "x.gguf").read_bytes()
    renamed = data.replace(b"general.architecture", b"general.architectur_")
    (tmp_path / "x.gguf").write_bytes(renamed)
    with pytest.raises(ValueError, match=r"^its header has no general\.architecture$"):
        keys_of(read_head(tmp_path / "x.gguf"))


@given(st.integers() | st.floats(allow_nan=False))
def test_numbers_come_as_they_are(value: float) -> None:
    assert keys(base=value).number("base") == value


@given(st.integers())
def test_whole_numbers_come_as_they_are(value: int) -> None:
    assert keys(count=value).integer("count") == value


def test_what_is_not_there_is_none() -> None:
    assert keys().number("rope.freq_base") is None
    assert keys().integer("block_count") is None


@pytest.mark.parametrize("value", [True, "16", [16.0], {"a": 1}])
def test_other_kinds_are_no_number(value: object) -> None:
    with pytest.raises(ValueError, match=r"^llama\.base is no number$"):
        keys(base=value).number("base")


@pytest.mark.parametrize("value", [True, False, "16", 16.0])
def test_other_kinds_are_no_whole_number(value: object) -> None:
    with pytest.raises(ValueError, match=r"^llama\.count is no whole number$"):
        keys(count=value).integer("count")


@pytest.mark.parametrize("value", [[64, 48], []])
def test_an_entry_for_each_layer_is_no_one_number(value: list[int]) -> None:
    assert keys(count=value).integer("count") is None
