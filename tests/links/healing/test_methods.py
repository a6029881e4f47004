import warnings
from typing import Any

import pytest
from tiny import tiny_windows

from birdbone.errors import DataError
from birdbone.links.heal import heal
from birdbone.links.healing.methods import SUITED, chosen, num_heldout, warn_of_unused


def _settings(**given: Any) -> dict[str, Any]:
    return dict(heal(**given).settings)


def test_what_is_given_goes_before_what_suits() -> None:
    assert chosen(_settings(method="lora")) == SUITED["lora"]
    assert chosen(_settings(method="lora", rank=3, target="block")) == {**SUITED["lora"], "rank": 3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": "lora", "target": "block"},
            "heal(target='block') is not used by method 'lora', only by 'blocks'",
        ),
        (
            {"kl_weight": 0.0},
            "heal(kl_weight=0.0) is not used by method 'blocks', only by 'lora', 'qlora', 'full'",
        ),
    ],
)
def test_a_setting_the_method_does_not_use_is_named(settings: Any, message: str) -> None:
    with pytest.warns(UserWarning, match="is not used") as heard:
        warn_of_unused(_settings(**settings))
    assert [str(each.message) for each in heard] == [message]


@pytest.mark.parametrize("method", sorted(SUITED))
def test_settings_it_uses_pass_in_silence(method: str) -> None:
    with warnings.catch_warnings(record=True) as heard:
        warn_of_unused(_settings(method=method, **SUITED[method]))
    assert heard == []


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.1, 1), (0.11, 2), (0.5, 5), (0.9, 9)])
def test_the_last_share_judges(share: float, count: int) -> None:
    assert num_heldout(tiny_windows(10), share) == count


def test_none_left_to_train_on_is_refused() -> None:
    with pytest.raises(DataError, match=r"has 2 windows and heldout_share=0\.6 keeps out 2.*lower"):
        num_heldout(tiny_windows(2), 0.6)
