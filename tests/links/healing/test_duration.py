import pytest

from birdbone.errors import SettingError
from birdbone.links import heal
from birdbone.links.healing.duration import seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30min", 1800), ("1.5h", 5400), (" 2 h ", 7200)]
)
def test_a_duration_in_seconds(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["30", "half an hour", "0s", "-5min", "", "1h30min"])
def test_a_misspelled_duration_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(SettingError, match="is no duration; write it like 90s, 30min or 2h"):
        heal(time=text)
