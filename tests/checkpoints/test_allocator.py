"""Unused memory goes back where the C library can return it, and nothing fails where not."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from birdbone.checkpoints.allocator import release_unused_memory


def test_the_c_library_is_asked_to_return_all(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(malloc_trim=asked.append))
    release_unused_memory()
    assert asked == [0]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    release_unused_memory()
