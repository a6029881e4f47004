"""Budgets: sizes as people write them, and those that are refused."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import tiny_checkpoint

from birdbone.errors import SettingError
from birdbone.links import allocate
from birdbone.links.allocating.budget import (
    budget_bytes,
    check_folder,
    check_one_budget,
    read_bytes,
)


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


def test_output() -> None:
    check_folder("light")
    with pytest.raises(SettingError, match="is a GGUF file, whose types"):
        check_folder("light.gguf")
