"""Predefined chains with trained scales, or without: what is trained, and who evaluates it."""

from __future__ import annotations

import pytest

from birdbone.chains.healing import with_healed_scales, without_healing
from birdbone.chains.overrides import configure
from birdbone.chains.predefined import fit, quantize_only
from birdbone.chains.removing import with_removal
from birdbone.engine import Chain


def _names(chain: Chain) -> list[str]:
    return [each.__name__ for each in chain.links]


def test_quantize_only_is_healed_before_it_is_evaluated_on_text_read_for_it() -> None:
    chain = quantize_only(model="m", out="light")
    healed = with_healed_scales(chain)
    assert _names(healed)[2:] == ["quantize", "heal", "validate", "save"]
    assert healed.links[3].settings.method == "scales"
    windows = [each.links[1].settings.healing_windows for each in (chain, healed)]
    assert windows == [1, 64]


@pytest.mark.parametrize("out", ["light", "light.gguf"])
def test_fit_trains_scales_unless_it_is_told_not_to(out: str) -> None:
    chain = fit(model="m", out=out)
    assert _names(chain)[4:] == ["select", "heal", "validate", "save"]
    assert chain.links[1].settings.healing_windows == 64
    bare = without_healing(chain)
    assert _names(bare)[4:] == ["select", "save"]
    assert bare.links[1].settings.healing_windows == 1
    assert without_healing(bare) is bare


def test_removal_heals_too_so_its_text_is_read() -> None:
    chain = without_healing(with_removal(fit(model="m", out="light"), [0.1]))
    assert _names(chain)[4:] == ["select", "save"]
    assert chain.links[1].settings.healing_windows == 64
    few = configure(fit(model="m", out="light"), {"calibrate.healing_windows": 16})
    assert with_removal(few, [0.1]).links[1].settings.healing_windows == 16
