"""The format a model is saved in, decided before anything is written."""

from __future__ import annotations

from typing import Literal

from ...checkpoints import BitsAndBytes, Checkpoint, Quantized
from ...checkpoints.gguf_package import require_gguf
from ...errors import SettingError
from ...formats.ggml_blocks import exact_kind
from ...formats.ggml_types import FLOAT_KINDS, GgmlKind
from ...formats.llama_cpp import require_llama_cpp
from ...models.blocks.empty_model import empty_model
from ...models.blocks.linears import all_linears

Format = Literal["auto", "safetensors", "compressed-tensors", "bitsandbytes", "gguf"]

_FIXES = {
    "safetensors": "load(dequantize=True) reads a saved model as values",
    "compressed-tensors": "quantize(bits=4) makes codes that it holds",
    "bitsandbytes": "quantize(method='nf4') hands weights over to it",
}
_WORDS = {
    "safetensors": "plain values",
    "compressed-tensors": "codes on an integer grid",
    "bitsandbytes": "meant for bitsandbytes",
}


def chosen_form(checkpoint: Checkpoint, format: Format, kind: GgmlKind | None) -> Format:
    """The format to write; auto uses the one that fits the weights.

    Raises:
        SettingError: a format that does not hold these weights, with the one that does.
    """
    made_for = _made_for(checkpoint)
    if format == "auto" or format == made_for:
        return made_for
    if format == "gguf":
        _check_gguf(checkpoint, made_for, kind)
        return format
    raise SettingError(
        f"save(format='{format}') does not hold this model: its weights are "
        f"{_WORDS[made_for]}, which '{made_for}' holds; {_FIXES[format]}"
    )


def check_settings(checkpoint: Checkpoint | None, format: Format, kind: GgmlKind | None) -> None:
    """Refuse what is known to fail before the model is final.

    Raises:
        SettingError: settings that do not go together, or an architecture that does not fit.
        ModelError: an architecture GGUF has not.
        MissingExtraError: gguf, or llama.cpp, which proves GGUF files, is not installed.
    """
    if kind is not None and format != "gguf":
        raise SettingError(f"save(kind='{kind}') is ggml's and of format 'gguf' alone; set both")
    if format == "gguf":
        require_llama_cpp()
        require_gguf()
        from ...formats.gguf_architectures import architecture_of

        if checkpoint is not None:
            architecture_of(empty_model(checkpoint).config)
    elif format in ("compressed-tensors", "bitsandbytes") and checkpoint is not None:
        _check_linears(checkpoint, format)


def _made_for(
    checkpoint: Checkpoint,
) -> Literal["safetensors", "compressed-tensors", "bitsandbytes"]:
    """The format of the first weight that is not plain; a mixture is refused when written."""
    for ref in checkpoint.refs.values():
        if isinstance(ref, BitsAndBytes):
            return "bitsandbytes"
        if isinstance(ref, Quantized):
            return "compressed-tensors"
    return "safetensors"


def check_inputs(checkpoint: Checkpoint) -> None:
    """Refuse a GGUF file of a model whose linears round their inputs.

    Raises:
        SettingError: naming a layer.
    """
    for name, ref in checkpoint.refs.items():
        if isinstance(ref, Quantized) and ref.input_activations is not None:
            raise SettingError(
                f"save(format='gguf') does not hold this model: '{name.removesuffix('.weight')}' "
                f"rounds its inputs to {ref.input_activations}, and llama.cpp rounds them in its "
                f"own way; leave quantize(input_activations=...) unset, or save a folder; "
                f"load(dequantize=True) reads a saved model without this rounding"
            )


def _check_gguf(checkpoint: Checkpoint, made_for: Format, kind: GgmlKind | None) -> None:
    check_inputs(checkpoint)
    require_gguf()
    from ...formats.gguf_tensors import file_kind

    if file_kind(checkpoint, kind) in FLOAT_KINDS:
        return
    for name, ref in checkpoint.refs.items():
        if isinstance(ref, Quantized | BitsAndBytes) and exact_kind(ref) is None:
            given = "" if kind is None else f", kind='{kind}'"
            raise SettingError(
                f"save(format='gguf'{given}) would round '{name}' once more, which is rounded "
                f"already; '{made_for}' holds the weights as they are, and kind "
                f"{', '.join(FLOAT_KINDS)} their values"
            )


def _check_linears(checkpoint: Checkpoint, format: Format) -> None:
    linears = all_linears(checkpoint)
    if not any(linear.plain for linear in linears):
        raise SettingError(
            f"save(format='{format}') holds linears alone, and '{checkpoint.source}' has none: its "
            f"weights are {linears[0].name} and the like; 'safetensors' holds them"
        )
