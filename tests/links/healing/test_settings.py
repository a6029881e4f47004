import warnings
from dataclasses import replace
from typing import Any

import pytest

from birdbone.links.heal import heal
from birdbone.links.healing.settings import (
    DEFAULTS,
    USED,
    HealSettings,
    chosen,
    warn_of_ignored,
    warn_of_ranks,
)


def test_given_settings_replace_the_defaults_of_the_method() -> None:
    assert chosen(HealSettings(method="lora")) == DEFAULTS["lora"]
    given = HealSettings(method="lora", rank=3, target="block")
    assert chosen(given) == replace(DEFAULTS["lora"], rank=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": "lora", "target": "block"},
            "heal(target='block') is not used by method 'lora', only by 'blocks'",
        ),
        (
            {"kl_weight": 0.0},
            (
                "heal(kl_weight=0.0) is not used by method 'blocks', "
                "only by 'scales', 'lora', 'qlora', 'full'"
            ),
        ),
    ],
)
def test_a_setting_the_method_does_not_use_is_named(settings: Any, message: str) -> None:
    with pytest.warns(UserWarning, match="is not used") as heard:
        warn_of_ignored(heal(**settings).settings)
    assert [str(each.message) for each in heard] == [message]


@pytest.mark.parametrize("method", sorted(USED))
def test_settings_it_uses_pass_in_silence(method: Any) -> None:
    with warnings.catch_warnings(record=True) as heard:
        given = {name: getattr(DEFAULTS[method], name) for name in USED[method]}
        warn_of_ignored(HealSettings(method=method, **given))
    assert heard == []


def test_steps_of_fewer_windows_than_ranks_are_told(on_three: Any) -> None:
    how = DEFAULTS["blocks"]
    with pytest.warns(UserWarning, match=r"batch_size=2\): each step has fewer.*batch_size=3"):
        on_three(lambda rank: warn_of_ranks(replace(how, batch_size=2)))
    on_three(lambda rank: warn_of_ranks(replace(how, batch_size=3)))


def test_a_model_to_divide_over_one_process_is_told() -> None:
    with pytest.warns(UserWarning, match=r"shard=True\) divides.*torchrun"):
        warn_of_ranks(replace(DEFAULTS["full"], shard=True))
