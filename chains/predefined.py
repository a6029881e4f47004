"""The predefined chains."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from ..contexts.sensitivity import QuantizedFormat
from ..engine import Chain
from ..engine.rebuilding import BODY
from ..links import (
    allocate,
    calibrate,
    heal,
    load,
    profile,
    prune,
    quantize,
    save,
    score,
    select,
    sensitivity,
    validate,
)
from ..links.saving.target import is_file_name
from ..links.waves import waves
from ..texts import DataSetting


class ChainMaker(Protocol):
    """A function that makes a chain; its docstring describes the chain."""

    def __call__(self, *, model: str, out: str, data: DataSetting = "default") -> Chain: ...


def bird_bone(*, model: str, out: str, data: DataSetting = "default") -> Chain:
    """Prune neurons in waves with training after each, then quantize, train and evaluate.

    A wave is reverted if perplexity on held-out text rises too much. The waves end at 85 % of the
    parameters, or earlier if they keep failing.
    """
    return Chain(
        load(model=model),
        calibrate(data=data),
        profile(),
        score(),
        waves(
            target=0.85, body=Chain(prune(pattern="neurons"), heal(epochs=1), validate(), name=BODY)
        ),
        quantize(),
        heal(),
        validate(),
        save(path=out),
        name="bird-bone",
    )


def one_shot(*, model: str, out: str, data: DataSetting = "default") -> Chain:
    """Prune and quantize without training: faster than bird-bone, at a higher perplexity."""
    return Chain(
        load(model=model),
        calibrate(data=data, healing_windows=1),
        profile(),
        score(),
        prune(sparsity=0.3),
        quantize(),
        validate(),
        save(path=out),
        name="one-shot",
    )


def quantize_only(*, model: str, out: str, data: DataSetting = "default") -> Chain:
    """Quantize only: every weight is kept and stored in fewer bits."""
    return Chain(
        load(model=model),
        calibrate(data=data, healing_windows=1),
        quantize(),
        validate(),
        save(path=out),
        name="quantize-only",
    )


def fit(*, model: str, out: str, data: DataSetting = "default") -> Chain:
    """Quantize into a budget of bytes: bits where they cost least, never worse than uniform.

    The budget is 30 % of the model's weight files, or set by allocate. Allocated and uniform
    candidates are built and judged on both texts. The best is saved after its scales were trained:
    as a folder, or with ggml types if ``out`` is a GGUF file.
    """
    format: QuantizedFormat = "gguf" if is_file_name(out) else "compressed-tensors"
    return Chain(
        load(model=model),
        calibrate(data=data),
        sensitivity(format=format),
        allocate(),
        select(body=Chain(quantize(grid="allocated"), validate(), name=BODY)),
        heal(method="scales"),
        validate(),
        save(path=out),
        name="fit",
    )


CHAINS: Mapping[str, ChainMaker] = MappingProxyType(
    {"bird-bone": bird_bone, "one-shot": one_shot, "fit": fit, "quantize-only": quantize_only}
)
