"""The chains that come with bird-bone, each written as its recipe reads."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from ..engine import Chain
from ..engine.rebuilding import BODY
from ..links import calibrate, heal, load, profile, prune, quantize, save, score, validate
from ..links.waves import waves
from ..texts import DataSetting


class ChainMaker(Protocol):
    """A function from what every run must name to a chain; its docstring says what for."""

    def __call__(self, *, model: str, out: str, data: DataSetting = "default") -> Chain: ...


def bird_bone(*, model: str, out: str, data: DataSetting = "default") -> Chain:
    """Thin in waves, heal each, step back where it does not hold; then quantize, heal, check."""
    return Chain(
        load(model=model),
        calibrate(data=data),
        profile(),
        score(),
        waves(body=Chain(prune(pattern="neurons"), heal(), validate(), name=BODY)),
        quantize(),
        heal(),
        validate(),
        save(path=out),
        name="bird-bone",
    )


def one_shot(*, model: str, out: str, data: DataSetting = "default") -> Chain:
    """Prune and quantize without training: minutes instead of hours, at a higher price."""
    return Chain(
        load(model=model),
        calibrate(data=data),
        profile(),
        score(),
        prune(sparsity=0.3),
        quantize(),
        validate(),
        save(path=out),
        name="one-shot",
    )


def quantize_only(*, model: str, out: str, data: DataSetting = "default") -> Chain:
    """Keep every weight and store each in fewer bits."""
    return Chain(
        load(model=model),
        calibrate(data=data),
        quantize(),
        validate(),
        save(path=out),
        name="quantize-only",
    )


CHAINS: Mapping[str, ChainMaker] = MappingProxyType(
    {"bird-bone": bird_bone, "one-shot": one_shot, "quantize-only": quantize_only}
)
