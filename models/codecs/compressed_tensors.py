"""Reading what compressed-tensors stores: codes back as references to weights.

Three of its formats hold codes that this package keeps as they are: ``pack-quantized`` and
``int-quantized``, and ``float-quantized`` with one scale per row or square block (`unpacked`). They
are read lazily, a layer at a time. Its other formats of small floats are read lazily too, by
`float8` and `float4`. `compressed_tensors_writing` is the other direction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
)
from compressed_tensors.utils.match import match_name
from pydantic import ValidationError

from ...checkpoints import TensorRef
from ...checkpoints.coded import block_scales
from ...errors import CheckpointError
from ..blocks.transformers_errors import reason
from .float4 import FORMATS as _FLOAT4
from .float4 import Float4
from .float8 import Float8, is_float8
from .unpacked import Unpacked, is_kept, kept_block

PACKED, PLAIN, FLOAT = "pack-quantized", "int-quantized", "float-quantized"
"""Its formats of codes: packed densely into words, one byte each, and float8."""

_FLOAT8 = (FLOAT, "naive-quantized", "mxfp8-quantized")
_ACTIVATIONS = ("input_scale", "input_zero_point", "input_global_scale")
_PART_NAMES = ("packed", "scale", "shape", "zero_point", "g_idx", "global_scale")


def unpack(
    refs: Mapping[str, TensorRef], settings: Mapping[str, Any]
) -> dict[str, TensorRef] | None:
    """A folder's tensors with its codes as dequantised weights; None for formats not read here.

    Integers, and float8 with one scale per row or square block, become `Unpacked`, others `Float8`
    or `Float4`.

    Args:
        refs: the tensors as the folder names them.
        settings: the contents of ``quantization_config`` in ``config.json``.

    Raises:
        CheckpointError: settings that are none, parts missing or not fitting, rotated weights.
    """
    config = _parsed(settings)
    schemes = _schemes(config)
    if not all(_is_read(scheme, config) for scheme in schemes):
        return None
    _refuse_transforms(settings)
    scaled = [name.removesuffix("_scale") for name in refs if name.endswith(".weight_scale")]
    tied = {base for base in scaled if _repeats_scales(refs, base, scaled)}
    bases = [base for base in scaled if base not in tied]
    parts = {base: _parts(refs, base) for base in bases}
    taken = {f"{base}_{part}" for base in scaled for part in _PART_NAMES}
    taken |= {f"{base.removesuffix('weight')}{part}" for base in scaled for part in _ACTIVATIONS}
    found = {name: ref for name, ref in refs.items() if name not in taken and name not in parts}
    for base in bases:
        if "g_idx" in parts[base]:
            raise CheckpointError(
                f"'{base}' has its columns in an order of their own (g_idx), which is not read; "
                f"give the model it was made from"
            )
        scheme = _scheme_of(base.removesuffix(".weight"), schemes)
        found[base] = _weight(base, parts[base], scheme, scheme.format or config.format)
    return found


def _weight(
    name: str, parts: Mapping[str, TensorRef], scheme: QuantizationScheme, format: str | None
) -> TensorRef:
    args = scheme.weights
    if _is_integer(args, format) or (_is_kept_float8(args, format) and _has_scales(parts, args)):
        return Unpacked(name, parts, args, scheme.input_activations)
    if not args.symmetric:
        raise CheckpointError(
            f"'{name}' is stored in floats with zero points, which is not read; give the model it "
            f"was made from"
        )
    if format in _FLOAT4:
        return Float4(name, parts)
    if "codes" not in parts or not is_float8(parts["codes"]):
        raise CheckpointError(f"'{name}' has a scale but no float8 codes; fetch the folder again")
    block = tuple(args.block_structure) if args.block_structure else None
    return Float8(name, parts["codes"], parts["scale"], block)


def _refuse_transforms(settings: Mapping[str, Any]) -> None:
    """Refuse weights that are multiplied by rotations the plain class knows nothing of."""
    transforms = settings.get("transform_config")
    if isinstance(transforms, Mapping) and transforms.get("config_groups"):
        raise CheckpointError(
            "the weights are rotated (transform_config in config.json), which is not read; give "
            "the model they were made from"
        )


def _repeats_scales(refs: Mapping[str, TensorRef], base: str, scaled: Sequence[str]) -> bool:
    """Whether a weight is a tied head: no codes of its own, scales equal to an embedding's."""
    if base in refs or f"{base}_packed" in refs:
        return False
    scale = refs[f"{base}_scale"]
    others = [refs[f"{each}_scale"] for each in scaled if each != base and each in refs]
    return any(
        other.shape == scale.shape and torch.equal(other.load(), scale.load()) for other in others
    )


def has_kept_codes(settings: Mapping[str, Any]) -> bool:
    """Whether ``config.json`` describes only codes and inputs that `Quantized` holds.

    Raises:
        CheckpointError: settings that are none.
    """
    config = _parsed(settings)
    return all(
        (_is_integer(args, format) or _is_kept_float8(args, format))
        and is_kept(inputs, kept_block(args))
        for args, inputs, format in (
            (scheme.weights, scheme.input_activations, scheme.format or config.format)
            for scheme in _schemes(config)
        )
    )


def rounds_inputs(settings: Mapping[str, Any]) -> bool:
    """Whether ``config.json`` has the inputs of any linear rounded.

    Raises:
        CheckpointError: settings that are none.
    """
    return any(scheme.input_activations for scheme in _schemes(_parsed(settings)))


def _schemes(config: QuantizationConfig) -> list[QuantizationScheme]:
    """Of weights alone."""
    return [scheme for scheme in config.config_groups.values() if scheme.weights is not None]


def _parsed(settings: Mapping[str, Any]) -> QuantizationConfig:
    try:
        return QuantizationConfig.model_validate(
            {
                key: value
                for key, value in settings.items()
                if key in QuantizationConfig.model_fields
            }
        )
    except (ValidationError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"quantization_config in config.json cannot be read: {reason(error)}"
        ) from error


def _is_integer(args: QuantizationArgs, format: str | None) -> bool:
    return format in (PACKED, PLAIN) and args.type == "int" and 1 <= args.num_bits <= 8


def _is_kept_float8(args: QuantizationArgs, format: str | None) -> bool:
    """Whether weights are float8 with one scale per row or square block."""
    is_float8 = args.type == "float" and args.num_bits == 8 and args.symmetric
    by_row = args.strategy == "channel" or kept_block(args) is not None
    return is_float8 and format in (FLOAT, "naive-quantized") and by_row


def _has_scales(parts: Mapping[str, TensorRef], args: QuantizationArgs) -> bool:
    codes, scale, block = parts.get("codes"), parts.get("scale"), kept_block(args)
    if codes is None or scale is None or codes.dtype != torch.float8_e4m3fn:
        return False
    return scale.shape == (
        (codes.shape[0], 1) if block is None else block_scales(codes.shape, block)
    )


def _is_read(scheme: QuantizationScheme, config: QuantizationConfig) -> bool:
    args, format = scheme.weights, scheme.format or config.format
    bits = 8 if format in _FLOAT8 else 4 if format in _FLOAT4 else None
    return _is_integer(args, format) or (args.type == "float" and args.num_bits == bits)


def _parts(refs: Mapping[str, TensorRef], base: str) -> dict[str, TensorRef]:
    found = {part: refs[f"{base}_{part}"] for part in _PART_NAMES if f"{base}_{part}" in refs}
    if "packed" not in found:
        held = refs.get(base)
        if (
            held is None
            or len(held.shape) != 2
            or not (held.dtype == torch.int8 or is_float8(held))
        ):
            raise CheckpointError(f"'{base}' has a scale but no codes; fetch the folder again")
        found["codes"] = refs[base]
    return found


def _scheme_of(module: str, schemes: Sequence[QuantizationScheme]) -> QuantizationScheme:
    """The scheme of one layer: one that names it, before one for every layer of its class."""
    for scheme in schemes:
        if any(match_name(module, target) for target in scheme.targets):
            return scheme
    for scheme in schemes:
        if "Linear" in scheme.targets:
            return scheme
    raise CheckpointError(
        f"'{module}' holds codes, but no group in quantization_config names it; "
        f"fetch the folder again"
    )
