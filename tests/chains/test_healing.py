"""Chains whose quantised model is healed: what is trained, where, and who evaluates it."""

from __future__ import annotations

import pytest

from birdbone.chains.healing import with_healed_scales
from birdbone.chains.overrides import configure
from birdbone.chains.predefined import fit, quantize_only
from birdbone.engine import Chain
from birdbone.errors import SettingError
from birdbone.links import load, save


def _names(chain: Chain) -> list[str]:
    return [each.__name__ for each in chain.links]


def test_it_comes_after_select_and_is_evaluated_as_candidates_were() -> None:
    chain = configure(fit(model="m", out="light"), {"validate.max_rise": 0.5})
    healed = with_healed_scales(chain)
    assert _names(healed)[-4:] == ["select", "heal", "validate", "save"]
    assert healed.links[-3].settings.method == "scales"
    assert healed.links[-2].settings.max_rise == 0.5
    assert _names(chain)[-2:] == ["select", "save"]


def test_a_chain_that_evaluates_already_does_so_once() -> None:
    healed = with_healed_scales(quantize_only(model="m", out="light"))
    assert _names(healed)[2:] == ["quantize", "heal", "validate", "save"]


def test_a_chain_without_quantize_is_refused() -> None:
    with pytest.raises(SettingError, match="chain 'mine' has no quantize or select"):
        with_healed_scales(Chain(load(model="m"), save(path="o"), name="mine"))
