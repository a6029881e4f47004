"""The settings of quantize: bounds, and what is decided where the user left it open."""

from __future__ import annotations

from typing import Any

import pytest

from birdbone.errors import SettingError
from birdbone.links import quantize
from birdbone.links.quantizing.settings import (
    CALIBRATED,
    QuantizeSettings,
    matching_of,
    packs_codes,
    resolved,
)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bits": 1}, r"quantize\(bits=1\): .* greater than or equal to 2"),
        ({"bits": 9}, r"quantize\(bits=9\): .* less than or equal to 8"),
        (
            {"group_size": 0},
            r"^quantize\(group_size=0\): .* or equal to 1, or Input should be 'auto'$",
        ),
        (
            {"group_size": "all"},
            r"^quantize\(group_size='all'\): .* valid integer, .*, or Input should be",
        ),
        ({"embedding_bits": 4}, r"quantize\(embedding_bits=4\): Input should be 8"),
        ({"overrides": {"*": {"bits": 9}}}, r"quantize\(overrides\.\*\.bits=9\): .* or equal to 8"),
        ({"matching": -0.1}, r"quantize\(matching=-0\.1\): .* greater than or equal to 0"),
        ({"iterations": 0}, r"quantize\(iterations=0\): .* greater than or equal to 1"),
        ({"method": "awq"}, r"quantize\(method='awq'\): Input should be 'auto', 'gptq'"),
        (
            {"grid": "q1_k"},
            r"quantize\(grid='q1_k'\): Input should be 'int', 'fp8', 'mxfp4', 'nvfp4'",
        ),
        ({"rank": -1}, r"quantize\(rank=-1\)"),
        ({"damping": 0}, r"quantize\(damping=0\): Input should be greater than 0"),
    ],
)
def test_out_of_range(given: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        quantize(**given)


def test_auto_takes_the_text_there_is() -> None:
    assert resolved(QuantizeSettings(), calibrated=True).method == "gptq"
    with pytest.warns(UserWarning, match="rounds to nearest, since the context has no calibration"):
        found = resolved(QuantizeSettings(), calibrated=False)
    assert found.method == "rtn"


@pytest.mark.parametrize("method", CALIBRATED)
def test_text_is_needed(method: Any) -> None:
    with pytest.raises(SettingError, match=rf"quantize\(method='{method}'\) needs 'calibration'"):
        resolved(QuantizeSettings(method=method), calibrated=False)
    assert resolved(QuantizeSettings(method=method), calibrated=True).method == method


@pytest.mark.parametrize("method", ["rtn", "nf4", "nf4.single", "llm.int8"])
@pytest.mark.parametrize("calibrated", [True, False])
def test_no_text_is_needed(method: Any, calibrated: bool) -> None:
    assert resolved(QuantizeSettings(method=method), calibrated=calibrated).method == method


@pytest.mark.parametrize(
    ("given", "calibrated", "signed"),
    [
        ({"method": "gptq"}, True, True),
        ({"method": "signround"}, True, True),
        ({"method": "auto"}, True, True),
        ({"method": "rtn"}, True, False),
        ({"method": "rtn", "signed": True}, True, True),
        ({"method": "gptq", "signed": False}, True, False),
    ],
)
def test_signed_scales(given: Any, calibrated: bool, signed: bool) -> None:
    assert resolved(QuantizeSettings(**given), calibrated=calibrated).signed is signed


def test_matching() -> None:
    """The default is that of calibrated methods; 0 turns it off."""
    assert matching_of(QuantizeSettings()) == 0.5
    assert matching_of(QuantizeSettings(matching=0.0)) == 0.0
    assert resolved(QuantizeSettings(matching=0.25), calibrated=True).matching == 0.25


def test_all_else_stays() -> None:
    asked = QuantizeSettings(bits=3, group_size=None, ignore=("*.q_proj",), method="rtn", seed=7)
    found = resolved(asked, calibrated=False)
    decided = {"method", "signed", "matching"}
    assert {n: v for n, v in found if n not in decided} == {
        n: v for n, v in asked if n not in decided
    }
    assert asked.signed is None


@pytest.mark.parametrize(
    ("given", "packed"),
    [
        ({}, True),
        ({"symmetric": False}, False),
        ({"grid": "q4_0"}, False),
        ({"bits": 8, "group_size": None}, True),
    ],
)
def test_what_is_packed(given: Any, packed: bool) -> None:
    assert packs_codes(QuantizeSettings(**given)) is packed
