"""Convert a saved model to another format: load, quantise if the format needs it, save.

Weights are rounded to nearest without calibration data. A chain with calibrate() and quantize()
gives better results.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..engine import Chain
from ..errors import SettingError, did_you_mean
from ..formats.ggml_types import GGML_KINDS
from ..links import calibrate, load, quantize, save
from ..links.saving.target import is_file_name
from ..models.reading.opening import keeps_codes, quantized_by, rounds_inputs_of
from ..models.reading.sources import find_model
from ..texts import DataSetting

TYPES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "safetensors": ("float32", "bfloat16", "float16"),
        "compressed-tensors": tuple(f"int{bits}" for bits in range(2, 9)),
        "bitsandbytes": ("nf4", "nf4.single", "llm.int8"),
        "gguf": GGML_KINDS,
    }
)
"""The types that weights can be stored as, by format."""

_USUAL = {"compressed-tensors": "int4", "bitsandbytes": "nf4", "gguf": "f16"}


def export_chain(
    *,
    model: str,
    out: str,
    format: str | None = None,
    type: str | None = None,
    dtype: str = "auto",
    data: DataSetting = "pydoc",
    elsewhere: DataSetting | None = None,
    windows: int = 4,
    length: int = 512,
    force: bool = False,
    trust_remote_code: bool = False,
    keep_unused: bool = True,
    device: str = "auto",
) -> Chain:
    """Write ``model`` in another format.

    Args:
        format: one of the keys of `TYPES`; None for gguf, if ``out`` ends in .gguf.
        type: one of `TYPES`. None keeps the present dtype for safetensors, keeps weights that
            compressed-tensors has quantised if the format can hold them, and is otherwise int4,
            nf4 or f16.
        dtype: of tensors that are not quantised.
        keep_unused: carry tensors that the transformers class has no parameters for.
        device: name of the device that the result is scored on.
        elsewhere: other text to score on; by default a built-in one.
        windows: number of held-out windows the result is scored on, with as many of `elsewhere`,
            or one window of the built-in text; 0 for none.

    Raises:
        SettingError: an unknown format, a type the format does not have, or quantised weights that
            cannot be kept and no type to round them to.
        ModelError: there is no such model.
    """
    if format is None and not is_file_name(out):
        raise SettingError(f"give --format, one of {', '.join(TYPES)}, or --out FILE.gguf")
    format = "gguf" if format is None else format
    if format not in TYPES:
        raise SettingError(f"format '{format}' is not known; {did_you_mean(format, TYPES)}")
    if type is not None and type not in TYPES[format]:
        raise SettingError(
            f"format '{format}' has no type '{type}'; it has {', '.join(TYPES[format])}"
        )
    source = find_model(model)
    if type is None and format == "gguf" and rounds_inputs_of(source):
        raise SettingError(
            f"the linears of '{model}' round their inputs, which a GGUF file does not record; give "
            f"a type, such as q8_0, to store its weights without that rounding"
        )
    kept = type is None and format in ("compressed-tensors", "gguf") and keeps_codes(source)
    if type is None and not kept and format == quantized_by(source) == "compressed-tensors":
        raise SettingError(
            f"the quantised weights of '{model}' cannot be kept as they are; give a type "
            f"to round them to, one of {', '.join(TYPES[format])}"
        )
    chosen = None if kept else type or _USUAL.get(format)
    stored = chosen if format == "safetensors" and chosen is not None else dtype
    loading: dict[str, Any] = {
        "dtype": stored,
        "trust_remote_code": trust_remote_code,
        "keep_unused": keep_unused,
        "device": device,
    }
    links: list[Any] = [load(model=model, dequantize=not kept, **loading)]
    if windows:
        links.append(
            calibrate(
                data=data,
                elsewhere=elsewhere,
                windows=1,
                healing_windows=1,
                heldout_windows=windows,
                elsewhere_windows=1 if elsewhere is None else windows,
                length=length,
            )
        )
    if chosen is not None and format in ("compressed-tensors", "bitsandbytes"):
        links.append(_rounding(chosen))
    kind: Any = chosen if format == "gguf" else None
    links.append(save(path=out, force=force, format=format, kind=kind, compare=False))  # type: ignore[arg-type]
    return Chain(*links, name="export")


def _rounding(type: str) -> Any:
    if type.startswith("int"):
        # Without calibration data, searched scales reduce the weight error but raise perplexity:
        # see docs/log.md.
        return quantize(method="rtn", bits=int(type.removeprefix("int")), group_size="auto")
    method: Any = type
    return quantize(method=method)
