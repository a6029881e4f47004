"""An allocation has a candidate to apply."""

from __future__ import annotations

import pytest

from birdbone.contexts.allocation import Allocation, Candidate
from birdbone.errors import SettingError

_ONE = Candidate("one", True, {}, None, 1, 0.0)
_TWO = Candidate("two", True, {}, None, 1, 0.0)


def test_current() -> None:
    assert Allocation(1, (_ONE, _TWO)).current is _ONE
    assert Allocation(1, (_ONE, _TWO), place=1).current is _TWO


@pytest.mark.parametrize(("candidates", "place"), [((), 0), ((_ONE,), 1), ((_ONE,), -1)])
def test_no_candidate(candidates: tuple[Candidate, ...], place: int) -> None:
    with pytest.raises(SettingError, match=f"has none at place {place}"):
        Allocation(1, candidates, place=place)
