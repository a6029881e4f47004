"""``birdbone doctor``: what it prints, and what it exits with."""

from __future__ import annotations

import json
from importlib import metadata
from typing import Any

import pytest
from command_line import birdbone, document


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes a package look as if it was not installed."""
    real = metadata.version

    def hide(*names: str) -> None:
        def version(name: str) -> str:
            if name in names:
                raise metadata.PackageNotFoundError(name)
            return real(name)

        monkeypatch.setattr(metadata, "version", version)

    return hide


def states(stdout: str) -> dict[str, str]:
    return {check["name"]: check["state"] for check in json.loads(stdout)}


def test_a_sound_installation() -> None:
    checks = document("doctor")
    found = {check["name"]: check["state"] for check in checks}
    assert found["torch"] == found["transformers"] == "ok"
    assert len(found) == len(checks)
    assert birdbone("doctor").exit_code == 0


def test_the_table_has_every_check() -> None:
    shown = birdbone("doctor").stdout
    assert [each["name"] for each in document("doctor") if each["name"] not in shown] == []


def test_something_required_is_missing(without: Any) -> None:
    without("safetensors")
    result = birdbone("doctor", "--json")
    assert result.exit_code == 1
    assert (states(result.stdout)["safetensors"], states(result.stdout)["torch"]) == (
        "missing",
        "ok",
    )
    assert birdbone("doctor").exit_code == 1


def test_an_extra_is_missing(without: Any) -> None:
    """Which breaks nothing."""
    without("wandb", "matplotlib")
    result = birdbone("doctor", "--json")
    assert result.exit_code == 0
    assert states(result.stdout)["wandb [wandb]"] == "missing"
