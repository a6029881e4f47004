"""What can be told of a chain by its links alone: what would fail hours after it began."""

from __future__ import annotations

import math

from ..engine import Chain, Link
from ..errors import ChainError
from ..links.sizing import MULTIPLE
from ..links.uncalibrated import BITSANDBYTES, packs_codes
from .rebuilding import links_with_settings
from .wave_body import prunes_of

_ADAPTED = ("lora", "qlora")


def check_order(chain: Chain) -> Chain:
    """Refuse links that do not go with those before them, whatever the model is.

    After quantize nothing may store its codes, or the values that stand for them, as other floats;
    and its groups must divide every width that waves of neurons may leave. A share that is fixed
    leaves one width, which the links themselves check.

    Raises:
        ChainError: naming the link and the mend.
    """
    earlier: list[Link] = []
    for each in links_with_settings(chain):
        quantized = [other for other in earlier if other.__name__ == "quantize"]
        if quantized:
            _check_after_quantize(each, quantized, earlier)
        if each.__name__ == "quantize":
            _check_groups(each, earlier)
        earlier.append(each)
    return chain


def _check_groups(quantize: Link, earlier: list[Link]) -> None:
    group_size, method = quantize.settings["group_size"], quantize.settings["method"]
    fixed = isinstance(group_size, int) and quantize.settings["grid"] == "int"
    if not fixed or method in BITSANDBYTES:
        return
    bodies = [each.settings["body"] for each in earlier if each.__name__ == "waves"]
    for settings in (each for body in bodies for each in prunes_of(body)):
        multiple = settings["multiple"] or MULTIPLE
        if settings["pattern"] == "neurons" and multiple % group_size:
            raise ChainError(
                f"waves leave multiples of {multiple} neurons, which groups of {group_size} of "
                f"quantize need not divide; set prune.multiple={math.lcm(multiple, group_size)}, "
                f"or quantize.group_size=auto"
            )


def _check_after_quantize(each: Link, quantized: list[Link], earlier: list[Link]) -> None:
    if each.__name__ == "prune":
        raise ChainError("prune after quantize would store codes as floats; put it before quantize")
    if each.__name__ != "heal":
        return
    if any(_leaves_values(other) for other in quantized):
        raise ChainError(
            "heal after quantize(symmetric=False) would train the values off their grid, which "
            "stand in the model as floats; leave quantize.symmetric as it is, or heal before"
        )
    if each.settings["method"] in _ADAPTED:
        method = each.settings["method"]
        heals = sum(other.__name__ == "heal" for other in earlier)
        others = " and ".join(f"heal#{place}.method={method}" for place in range(1, heals + 1))
        mend = f"; set {others} for those before it" if others else ", or put it before quantize"
        raise ChainError(
            f"heal(method='{method}') after quantize would store codes as floats; 'blocks' and "
            f"'full' leave codes as they are and train the rest{mend}"
        )


def _leaves_values(quantize: Link) -> bool:
    settings = quantize.settings
    rounded = settings["grid"] == "int" and settings["method"] not in BITSANDBYTES
    return rounded and not packs_codes(settings)
