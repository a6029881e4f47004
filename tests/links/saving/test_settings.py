"""The settings of save: what is refused when it is composed."""

from __future__ import annotations

from typing import Any

import pytest

from birdbone.errors import SettingError
from birdbone.links import save


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"save\(path\): Field required"),
        ({"path": 3}, r"save\(path=3\): Input should be a valid string"),
        ({"path": "o", "format": "onnx"}, r"save\(format='onnx'\): Input should be 'auto'"),
        ({"path": "o", "kind": "q9_k"}, r"save\(kind='q9_k'\): Input should be"),
        ({"path": "o", "max_shard_gb": 0}, r"save\(max_shard_gb=0\): .* greater than 0"),
        ({"path": "o", "tolerance": 1.0}, r"save\(tolerance=1\.0\): .* less than 1"),
        ({"path": "o", "tolerance": 0.0}, r"save\(tolerance=0\.0\): .* greater than 0"),
        ({"path": "o", "proof_tokens": -1}, r"save\(proof_tokens=-1\): .* or equal to 0"),
        ({"path": "o", "forced": True}, r"save has no setting 'forced'; did you mean 'force'"),
    ],
)
def test_refused(given: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        save(**given)


def test_defaults() -> None:
    """A folder of whatever form fits, compared with the original, replacing no one else's."""
    found = save(path="light").settings
    assert (found.format, found.kind, found.compare, found.force) == ("auto", None, True, False)
    assert found.tolerance is None
    assert found.proof_tokens > 0
