"""Orders of links that would fail hours after the start, refused when a chain is composed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from ...engine import Link, Settings, chains_of, every_link
from ...errors import ChainError
from ..heal import heal
from ..healing.settings import ADAPTERS, HealSettings
from ..load import LoadSettings
from ..prune import prune
from ..pruning.settings import PruneSettings
from ..pruning.unit_sizes import MULTIPLE
from ..quantize import quantize
from ..quantizing.settings import BITSANDBYTES, QuantizeSettings, packs_codes
from ..save import save
from ..saving.settings import SaveSettings
from ..saving.target import asked_format

S = TypeVar("S", bound=Settings)


@prune.follows
def _floats_to_prune(_: PruneSettings, earlier: Sequence[Any]) -> None:
    """Quantised weights cannot be pruned."""
    if _settings(QuantizeSettings, _on_this_model(earlier)):
        raise ChainError(
            "prune after quantize would store integers as floats; put it before quantize"
        )


@heal.follows
def _codes_stay(settings: HealSettings, earlier: Sequence[Any]) -> None:
    """Neither integers nor their dequantised values may be trained."""
    quantized = _settings(QuantizeSettings, _on_this_model(earlier))
    if any(_leaves_values(each) for each in quantized):
        raise ChainError(
            "heal after quantize(symmetric=False) would train the dequantised values off their "
            "grid; leave quantize.symmetric at its default, or put heal before quantize"
        )
    if quantized and settings.method in ADAPTERS:
        method, heals = settings.method, len(_settings(HealSettings, earlier))
        others = " and ".join(f"heal#{place}.method={method}" for place in range(1, heals + 1))
        fix = f"; set {others} for those before it" if others else ", or put it before quantize"
        raise ChainError(
            f"heal(method='{method}') after quantize would store integers as floats; 'scales' "
            f"trains their scales, 'blocks' and 'full' the rest{fix}"
        )
    begun = _settings(LoadSettings, earlier[: _begins(earlier)][-1:])
    if any(each.dequantize for each in begun) and not quantized and settings.method == "scales":
        raise ChainError(
            "heal(method='scales') before quantize finds no scales to train; put it after quantize"
        )


@quantize.follows
def _groups_divide(settings: QuantizeSettings, earlier: Sequence[Any]) -> None:
    """Groups must divide every width that waves of neurons may leave.

    A fixed sparsity leaves one width, which the links themselves check.
    """
    group_size, method = settings.group_size, settings.method
    if not isinstance(group_size, int) or settings.grid != "int" or method in BITSANDBYTES:
        return
    for pruning in _in_waves(_on_this_model(earlier)):
        multiple = pruning.multiple or MULTIPLE
        if pruning.pattern == "neurons" and multiple % group_size:
            raise ChainError(
                f"waves leave multiples of {multiple} neurons, which groups of {group_size} of "
                f"quantize need not divide; set prune.multiple={math.lcm(multiple, group_size)}, "
                f"or quantize.group_size=auto"
            )


@save.follows
def _inputs_in_gguf(settings: SaveSettings, earlier: Sequence[Any]) -> None:
    """A GGUF file does not record that inputs are rounded."""
    kinds = [
        each.input_activations for each in _settings(QuantizeSettings, _on_this_model(earlier))
    ]
    if any(kinds) and asked_format(settings.path, settings.format) == "gguf":
        raise ChainError(
            f"quantize(input_activations='{next(filter(None, kinds))}') and a GGUF file do not go "
            f"together: llama.cpp rounds inputs in its own way; leave quantize.input_activations "
            f"unset, or give save the name of a folder"
        )


def _in_waves(earlier: Sequence[Any]) -> Iterator[PruneSettings]:
    """The settings of every prune in a chain among the settings of a link, as in waves."""
    for each in earlier:
        for body in chains_of(each).values():
            yield from _settings(PruneSettings, every_link(body.links))


def _on_this_model(earlier: Sequence[Any]) -> Sequence[Any]:
    """The links since the last that may have replaced the model: load, or a custom link."""
    return earlier[_begins(earlier) :]


def _begins(earlier: Sequence[Any]) -> int:
    """The number of links up to the last that may have replaced the model."""
    return max((place for place, each in enumerate(earlier, 1) if _may_replace(each)), default=0)


def _may_replace(each: Any) -> bool:
    if getattr(each, "factory", None) in (prune, heal, quantize) or chains_of(each):
        return False
    return getattr(each, "open_ended", True) or "checkpoint" in each.adds


def _settings(kind: type[S], links: Iterable[Any]) -> list[S]:
    """The settings of that type among those of links."""
    every = (each.settings for each in links if isinstance(each, Link))
    return [settings for settings in every if isinstance(settings, kind)]


def _leaves_values(settings: QuantizeSettings) -> bool:
    rounded = settings.grid == "int" and settings.method not in BITSANDBYTES
    return rounded and not packs_codes(settings)
