"""The settings of waves: what is refused when it is composed."""

from __future__ import annotations

from typing import Any

import pytest

from birdbone.engine import Chain
from birdbone.errors import ChainError, SettingError
from birdbone.links import heal, prune, validate, waves


def body() -> Chain:
    return Chain(prune(), heal(), validate())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target": 1.0}, r"waves\(target=1\.0\): Input should be less than 1"),
        ({"target": 0.0}, r"waves\(target=0\.0\): Input should be greater than 0"),
        ({"step": 0.0}, r"waves\(step=0\.0\): Input should be greater than 0"),
        ({"step": 1.0}, r"waves\(step=1\.0\): Input should be less than 1"),
        ({"stop_loss": 0}, r"waves\(stop_loss=0\): Input should be greater than 0"),
        ({"patience": 0}, r"waves\(patience=0\): .* or equal to 1"),
        ({"max_waves": 0}, r"waves\(max_waves=0\): .* or equal to 1"),
        ({"regrow": 1.1}, r"waves\(regrow=1\.1\): .* less than or equal to 1"),
        ({"of": "weights"}, r"waves\(of='weights'\): Input should be 'parameters', 'bytes' or"),
    ],
)
def test_refused(given: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        waves(body=body(), **given)


def test_a_body_is_checked_as_it_is_given() -> None:
    with pytest.raises(ChainError, match="the body of waves has no prune link"):
        waves(body=Chain(validate()))
    assert waves(body=body()).settings.body.links[0].__name__ == "prune"


def test_what_the_body_needs_is_needed() -> None:
    """Scores and profile are made once, before the waves."""
    assert {"scores", "profile", "calibration", "heldout"} <= waves(body=body()).needs


def test_settings_cannot_be_changed() -> None:
    made = waves(body=body(), target=0.5)
    with pytest.raises(ValueError, match="frozen"):
        made.settings.target = 0.25
