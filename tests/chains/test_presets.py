"""Presets change settings of their chain and nothing else."""

from __future__ import annotations

import pytest

from birdbone.chains import CHAINS
from birdbone.chains.presets import PRESETS, preset_chain
from birdbone.errors import SettingError


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_chain(name: str) -> None:
    chains = {p: preset_chain(name, p, model="m", out="o", data="t.txt") for p in PRESETS[name]}
    links = [each.__name__ for each in CHAINS[name](model="m", out="o").links]
    assert list(chains) == ["fast", "balanced", "best"]
    for chain in chains.values():
        assert [each.__name__ for each in chain.links] == links
    calibrating = [dict(chain.links[1].settings) for chain in chains.values()]
    assert {each["data"] for each in calibrating} == {"t.txt"}
    assert [each["windows"] for each in calibrating] == [16, None, None]


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(SettingError, match=r"'one-shot' has no presets; .*quantize-only"):
        preset_chain("one-shot", "fast", model="m", out="o")
    with pytest.raises(SettingError, match=r"no preset 'fats'; did you mean 'fast'"):
        preset_chain("bird-bone", "fats", model="m", out="o")  # type: ignore[arg-type]
