"""What can be told of links by their order alone: what would fail hours after it began."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..engine import Link, LinkFactory, chains_of, every_link
from ..errors import ChainError
from .heal import heal
from .prune import prune
from .pruning.unit_sizes import MULTIPLE
from .quantize import quantize
from .quantizing.uncalibrated import BITSANDBYTES, packs_codes

_ADAPTED = ("lora", "qlora")


@prune.following
def _floats_to_prune(_: Mapping[str, Any], earlier: Sequence[Any]) -> None:
    """Codes cannot be pruned."""
    if _made_by(quantize, _on_this_model(earlier)):
        raise ChainError("prune after quantize would store codes as floats; put it before quantize")


@heal.following
def _codes_stay(settings: Mapping[str, Any], earlier: Sequence[Any]) -> None:
    """Neither codes nor the values that stand for them may be stored as other floats."""
    quantized = _made_by(quantize, _on_this_model(earlier))
    if any(_leaves_values(each.settings) for each in quantized):
        raise ChainError(
            "heal after quantize(symmetric=False) would train the values off their grid, which "
            "stand in the model as floats; leave quantize.symmetric as it is, or heal before"
        )
    if quantized and settings["method"] in _ADAPTED:
        method, heals = settings["method"], len(_made_by(heal, earlier))
        others = " and ".join(f"heal#{place}.method={method}" for place in range(1, heals + 1))
        mend = f"; set {others} for those before it" if others else ", or put it before quantize"
        raise ChainError(
            f"heal(method='{method}') after quantize would store codes as floats; 'blocks' and "
            f"'full' leave codes as they are and train the rest{mend}"
        )


@quantize.following
def _groups_divide(settings: Mapping[str, Any], earlier: Sequence[Any]) -> None:
    """Groups must divide every width that waves of neurons may leave.

    A share that is fixed leaves one width, which the links themselves check.
    """
    group_size, method = settings["group_size"], settings["method"]
    if not isinstance(group_size, int) or settings["grid"] != "int" or method in BITSANDBYTES:
        return
    for thinning in _in_waves(_on_this_model(earlier)):
        multiple = thinning["multiple"] or MULTIPLE
        if thinning["pattern"] == "neurons" and multiple % group_size:
            raise ChainError(
                f"waves leave multiples of {multiple} neurons, which groups of {group_size} of "
                f"quantize need not divide; set prune.multiple={math.lcm(multiple, group_size)}, "
                f"or quantize.group_size=auto"
            )


def _in_waves(earlier: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """The settings of every prune in a chain that a link holds, as waves does."""
    for each in earlier:
        for body in chains_of(each).values():
            yield from (inner.settings for inner in _made_by(prune, [*every_link(body.links)]))


def _on_this_model(earlier: Sequence[Any]) -> Sequence[Any]:
    """The links since the last that may have put another model there: load, or anybody's own."""
    start = max((place for place, each in enumerate(earlier, 1) if _may_replace(each)), default=0)
    return earlier[start:]


def _may_replace(each: Any) -> bool:
    if getattr(each, "factory", None) in (prune, heal, quantize) or chains_of(each):
        return False
    return getattr(each, "opens", True) or "checkpoint" in each.gives


def _made_by(factory: LinkFactory[...], links: Sequence[Any]) -> list[Link]:
    return [each for each in links if getattr(each, "factory", None) is factory]


def _leaves_values(settings: Mapping[str, Any]) -> bool:
    rounded = settings["grid"] == "int" and settings["method"] not in BITSANDBYTES
    return rounded and not packs_codes(settings)
