"""A chain whose quantised model has its scales trained before it is saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..engine import Chain
from ..engine.rebuilding import links_with_settings
from ..errors import SettingError
from ..links import heal, quantize, select, validate


def with_healed_scales(chain: Chain) -> Chain:
    """A chain like this one, with ``heal(method="scales")`` after its last quantize or select.

    The healed model is evaluated with the settings of the chain's last validate.

    Args:
        chain: one that quantizes, such as quantize-only or fit; without routes and middleware.

    Raises:
        SettingError: nothing in it quantizes, or nothing evaluates.
    """
    places = [place for place, each in enumerate(chain.links) if _made_by(each, (quantize, select))]
    judges = [each for each in links_with_settings(chain) if each.factory is validate]
    if not places or not judges:
        raise SettingError(
            f"chain '{chain.__name__}' has no quantize or select with a validate, and "
            f"heal(method='scales') trains the scales that they leave; use quantize-only or fit"
        )
    before, after = chain.links[: places[-1] + 1], chain.links[places[-1] + 1 :]
    judged = any(_made_by(each, (validate,)) for each in after)
    healing = [heal(method="scales"), *([] if judged else judges[-1:])]
    return Chain(*before, *healing, *after, name=chain.__name__)


def _made_by(each: Any, factories: Sequence[Any]) -> bool:
    return getattr(each, "factory", None) in factories
