"""What can be told of a chain by its links alone: an order that would fail hours after it began."""

from __future__ import annotations

from ..engine import Chain, Link
from ..errors import ChainError
from .rebuilding import links_with_settings

_ADAPTED = ("lora", "qlora")


def check_order(chain: Chain) -> Chain:
    """Refuse links after quantize that would store its codes as floats again.

    Raises:
        ChainError: naming the link and the mend.
    """
    coded = False
    heals = 0
    for each in links_with_settings(chain):
        heals += each.__name__ == "heal"
        if coded:
            _check_after_quantize(each, heals)
        coded = coded or each.__name__ == "quantize"
    return chain


def _check_after_quantize(each: Link, heals: int) -> None:
    if each.__name__ == "prune":
        raise ChainError("prune after quantize would store codes as floats; put it before quantize")
    if each.__name__ == "heal" and each.settings["method"] in _ADAPTED:
        method = each.settings["method"]
        others = " and ".join(f"heal#{place}.method={method}" for place in range(1, heals))
        mend = f"; set {others} for those before it" if others else ", or put it before quantize"
        raise ChainError(
            f"heal(method='{method}') after quantize would store codes as floats; 'blocks' and "
            f"'full' leave codes as they are and train the rest{mend}"
        )
