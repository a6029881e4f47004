"""The chain fit with removal: models without some of their neurons compete within the budget."""

from __future__ import annotations

from collections.abc import Sequence

from ..engine import Chain
from ..engine.rebuilding import BODY, links_with_settings
from ..links import allocate, heal, profile, prune, score, select, sensitivity
from .healing import with_text_to_heal
from .overrides import configure


def with_removal(chain: Chain, fractions: Sequence[float]) -> Chain:
    """A chain like this one, whose select also tries models without fractions of their neurons.

    Bits are allocated on what is left, with the settings that sensitivity and allocate have in the
    chain. The best of the fractions is tried once more, healed.

    Args:
        chain: one with sensitivity, allocate and select, such as fit.
        fractions: of the neurons of the feed-forward layers.

    Raises:
        SettingError: the chain has no select, or a fraction is not between 0 and 1.
    """
    estimating = [
        each for each in links_with_settings(chain) if each.factory in (sensitivity, allocate)
    ]
    removal = Chain(profile(), score(), prune(pattern="neurons"), heal(), *estimating, name=BODY)
    name = select.name
    changes = {f"{name}.removal": removal, f"{name}.remove": tuple(fractions)}
    return with_text_to_heal(configure(chain, changes))
