"""Budgets: sizes as people write them, and those that are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_checkpoint
from tiny_gguf import gguf_checkpoint

from birdbone.errors import SettingError
from birdbone.formats.gguf_writer import write_gguf
from birdbone.links import allocate
from birdbone.links.allocating.budget import (
    budget_bytes,
    cache_bytes,
    check_format,
    check_one_budget,
    read_bytes,
    unquantised_bytes,
)
from birdbone.models.planning.stored_bytes import stored_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("80MB", 80_000_000),
        ("1.5 GB", 1_500_000_000),
        ("75MiB", 75 * 2**20),
        ("75 M", 75_000_000),
        ("300kB", 300_000),
        ("12345", 12345),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert read_bytes(text) == size
    assert allocate(bytes=text).settings.bytes == size


@pytest.mark.parametrize("text", ["80 apples", "", "MB", "-3MB", "80iB", "1e3MB"])
def test_no_size(text: str) -> None:
    with pytest.raises(SettingError, match="is not a size; write one such as 80MB"):
        allocate(bytes=text)


@pytest.mark.parametrize("settings", [{"bytes": 0}, {"ratio": 1.0}, {"ratio": 0.0}, {"bits": 0}])
def test_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="allocate"):
        allocate(**settings)


def test_kinds_of_budget() -> None:
    checkpoint = tiny_checkpoint("llama")
    nothing: dict[str, Any] = {"num_bytes": None, "ratio": None, "bits": None}
    assert budget_bytes(checkpoint, 1000, **nothing) == 300
    assert budget_bytes(checkpoint, 1000, **{**nothing, "ratio": 0.5}) == 500
    assert budget_bytes(checkpoint, 1000, **{**nothing, "num_bytes": 7}) == 7
    bits = budget_bytes(checkpoint, 10**9, **{**nothing, "bits": 4.0})
    assert bits == checkpoint.num_parameters // 2


def test_memory() -> None:
    """In a GGUF file the cache has two bytes a value, in a folder as many as the weights."""
    checkpoint = tiny_checkpoint("llama")
    assert cache_bytes(checkpoint, 10**6, 16, "gguf") == 3 * 2 * 2 * 8 * 16 * 2
    assert cache_bytes(checkpoint, 10**6, 16, "compressed-tensors") == 3 * 2 * 2 * 8 * 16 * 4
    half = replace(checkpoint, config={**checkpoint.config, "dtype": "float16"})
    assert cache_bytes(half, 10**6, 16, None) == 3 * 2 * 2 * 8 * 16 * 2
    nothing: dict[str, Any] = {"num_bytes": None, "ratio": None, "bits": None}
    assert budget_bytes(checkpoint, 1000, **nothing, memory=900, cache_bytes=300) == 600


@pytest.mark.parametrize("settings", [{"num_bytes": 1000}, {"bits": 32.0}])
def test_not_below_the_original(settings: dict[str, Any]) -> None:
    checkpoint = tiny_checkpoint("llama")
    given = {"num_bytes": None, "ratio": None, "bits": None, **settings}
    with pytest.raises(SettingError, match="take 1,000 as they are; give a smaller budget"):
        budget_bytes(checkpoint, 1000, **given)


def test_one_budget() -> None:
    check_one_budget(bytes=1, ratio=None, bits=None)
    with pytest.raises(SettingError, match=r"allocate\(bytes=1, bits=3.5\) states 2 budgets"):
        check_one_budget(bytes=1, ratio=None, bits=3.5)


@pytest.mark.parametrize(
    ("given", "format", "message"),
    [
        ({"group_sizes": (32,)}, "gguf", r"group_sizes=\(32,\)\) is not one of a GGUF file"),
        ({"embedding_bits": 8}, "gguf", "embedding_bits=8.* set types"),
        ({"runtimes": ("vllm",)}, "gguf", "vllm was not seen to load a GGUF file"),
        ({"types": ("q4_0",)}, "compressed-tensors", "are those of a GGUF file; give one"),
    ],
)
def test_settings_of_another_format(given: dict[str, Any], format: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        check_format(given, format)


def test_settings_of_both_formats() -> None:
    check_format({"types": ("q4_0",), "runtimes": ("llama.cpp",), "allowed_bits": (4,)}, "gguf")
    check_format({"group_sizes": (32,), "runtimes": ("vllm",)}, "compressed-tensors")


@pytest.mark.parametrize(("dtype", "kind"), [("float32", "f32"), ("bfloat16", "bf16")])
def test_unquantised_bytes(dtype: str, kind: Any, tmp_path: Path) -> None:
    """Of a GGUF file with the values that the model is stored in."""
    checkpoint = gguf_checkpoint("llama")
    stored = replace(checkpoint, config={**checkpoint.config, "dtype": dtype})
    size = write_gguf(stored, tmp_path / "model.gguf", kind=kind).num_bytes
    assert unquantised_bytes(stored, "gguf") == size
    assert unquantised_bytes(stored, None) == stored_bytes(stored)
