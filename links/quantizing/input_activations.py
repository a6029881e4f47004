"""Which weights the rounding of inputs goes with, and the linears that cannot have it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ...checkpoints import Checkpoint
from ...errors import SettingError
from ...models.blocks.linears import Linear
from ...models.blocks.rounded_inputs import needs_tokens, without_windows
from .settings import QuantizeSettings

_GOES_WITH: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "int8": {"grid": "int", "bits": 8, "group_size": None, "symmetric": True},
        "fp8": {"grid": "fp8"},
    }
)
"""By the kind of inputs: the settings of weights that runtimes multiply with them."""

_WHY = {
    "int8": "vLLM and transformers compute int8 inputs with int8 weights of one scale per row",
    "fp8": "vLLM and transformers compute fp8 inputs with fp8 weights",
}


def check_float8(settings: QuantizeSettings) -> None:
    """Refuse what does not go with fp8 weights.

    Raises:
        SettingError: naming the setting.
    """
    if settings.grid != "fp8":
        if settings.block_size is not None:
            raise SettingError(
                f"quantize(block_size={settings.block_size}): only fp8 weights have scales per "
                f"block; set grid='fp8', or leave block_size unset"
            )
        return
    if settings.method not in ("auto", "rtn"):
        raise SettingError(
            f"quantize(grid='fp8', method='{settings.method}'): fp8 weights are rounded to "
            f"nearest; set method='rtn', or grid='int'"
        )
    if settings.overrides:
        raise SettingError(
            "quantize(grid='fp8', overrides=...): all fp8 weights have the same scales; leave "
            "overrides unset, or leave linears unquantised with ignore"
        )
    if not settings.symmetric:
        raise SettingError(
            "quantize(grid='fp8', symmetric=False): fp8 weights have no zero points; leave "
            "symmetric at its default"
        )


def check_input_activations(settings: QuantizeSettings, *, is_allocated: bool) -> None:
    """Refuse weights that no runtime multiplies with such inputs.

    Args:
        is_allocated: whether bits and group sizes are those of an allocation.

    Raises:
        SettingError: naming the setting and what to set.
    """
    kind = settings.input_activations
    if kind is None:
        return
    asked, wanted = f"quantize(input_activations='{kind}')", _GOES_WITH[kind]
    if is_allocated:
        raise SettingError(
            f"{asked} needs the same kind of weights in every linear, and allocate chooses others; "
            f"remove allocate, or leave input_activations unset"
        )
    if settings.method not in ("auto", "gptq", "signround", "rtn"):
        raise SettingError(
            f"{asked} is stored by compressed-tensors, and method='{settings.method}' by "
            f"bitsandbytes; set method='gptq' or 'rtn', or leave input_activations unset"
        )
    if any(getattr(settings, name) != value for name, value in wanted.items()):
        fix = ", ".join(f"{name}={value!r}" for name, value in wanted.items())
        raise SettingError(f"{asked}: {_WHY[kind]}; set {fix}, or leave input_activations unset")
    for pattern, override in (settings.overrides or {}).items():
        if any(wanted.get(name, value) != value for name, value in override.items()):
            raise SettingError(
                f"{asked}, overrides: {_WHY[kind]}, and '{pattern}' is given others; leave it "
                f"unquantised with ignore"
            )
    if settings.rank:
        raise SettingError(
            f"{asked}: a low-rank correction is computed for inputs that are not rounded; set "
            f"rank=0, or leave input_activations unset"
        )


def check_widths(
    checkpoint: Checkpoint, settings: QuantizeSettings, chosen: Sequence[Linear]
) -> None:
    """Refuse linears that blocks do not divide, or whose inputs cannot be rounded as asked.

    Raises:
        SettingError: naming a layer.
    """
    if settings.block_size is not None:
        for linear in chosen:
            _check_block(settings.block_size, linear)
    elif settings.input_activations is not None:
        check_window_axes(checkpoint, chosen)


def _check_block(block_size: int, linear: Linear) -> None:
    width = linear.shape[1]
    if width % block_size:
        fitting = [str(size) for size in (128, 64, 32, 16) if width % size == 0]
        raise SettingError(
            f"layer '{linear.name}': block_size {block_size} does not divide width {width}; "
            f"sizes that do: {', '.join(fitting) or 'none of the usual ones'}; or leave the layer "
            f"out with ignore, or block_size unset"
        )


def check_window_axes(checkpoint: Checkpoint, chosen: Sequence[Linear]) -> None:
    """Refuse linears that receive their tokens in a form that transformers rounds together.

    Raises:
        SettingError: naming a layer and the patterns to ignore.
    """
    found = without_windows(checkpoint)
    flat = [linear.name for linear in chosen if linear.name in found]
    if flat:
        patterns = sorted({re.sub(r"\.\d+(?=\.)", ".*", name) for name in flat})
        raise SettingError(f"{needs_tokens(flat[0])}; patterns of all such layers: {patterns}")
