"""The chain fit with removal: what competes, and with which settings."""

from __future__ import annotations

from birdbone.chains.overrides import configure
from birdbone.chains.predefined import fit
from birdbone.chains.removing import with_removal


def test_with_removal() -> None:
    """Estimates and allocation of the smaller model have the settings of the chain."""
    chain = configure(fit(model="m", out="light.gguf"), {"allocate.variants": 1})
    found = with_removal(chain, [0.1, 0.2]).links[4].settings
    assert found.remove == (0.1, 0.2)
    names = [each.__name__ for each in found.removal.links]
    assert names == ["profile", "score", "prune", "heal", "sensitivity", "allocate"]
    assert found.removal.links[2].settings.pattern == "neurons"
    assert found.removal.links[4].settings.format == "gguf"
    assert found.removal.links[5].settings.variants == 1
    assert found.body is chain.links[4].settings.body
    assert chain.links[4].settings.removal is None
