"""What an error of transformers says, as a part of one sentence."""

from __future__ import annotations

import pytest

from birdbone.models.blocks.transformers_errors import reason


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("one\n  two"), "one two"),
        (KeyError(), "KeyError"),
        (ValueError("word " * 1000), f"{'word ' * 80} …"),
    ],
)
def test_a_reason_is_one_line_of_a_bounded_length(error: Exception, expected: str) -> None:
    assert reason(error) == expected
