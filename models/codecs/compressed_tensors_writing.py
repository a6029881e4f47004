"""Writing codes as compressed-tensors stores them.

Each quantised ``nn.Linear`` becomes ``weight_packed`` (codes shifted to unsigned, packed densely
into int32 along the row), ``weight_scale`` and ``weight_shape``, format ``pack-quantized``. Where
the inputs are rounded too, and for float8, ``weight`` holds a code per byte, format
``int-quantized`` or ``float-quantized``; float8 may have scales per block. The format's zero points
do not load in plain transformers, so only symmetric grids are written. FP4 is packed by `float4`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
)
from torch import Tensor

from ...checkpoints import Quantized
from ...checkpoints.coded import Float4, InputActivations
from ...errors import CheckpointError
from .compressed_tensors import FLOAT, PACKED, PLAIN
from .float4 import packed_float4, packed_float4_outline

_MIXED = "mixed-precision"
_EXPERTS = r"re:.*\.experts\.\d+\..*"


@dataclass(frozen=True)
class _Scheme:
    """What the linears of one group of the config share.

    Attributes:
        bits: of a code.
        group_size: columns that share a scale; None for a whole row, and where the format fixes it.
        is_float: whether codes are float8.
        input_activations: what inputs are rounded to.
        block_size: rows and columns that share a scale; None for groups.
        float4: the format of FP4 numbers; None for integers and float8.
    """

    bits: int
    group_size: int | None
    is_float: bool = False
    input_activations: InputActivations | None = None
    block_size: int | None = None
    float4: Float4 | None = None

    @classmethod
    def of(cls, ref: Quantized) -> _Scheme:
        """The scheme of a weight."""
        fixed = ref.num_groups == 1 or ref.block_size or ref.float4
        size = None if fixed else ref.group_size
        return cls(ref.bits, size, ref.is_float, ref.input_activations, ref.block_size, ref.float4)

    @property
    def format(self) -> str:
        """The format its weights are stored in."""
        if self.float4 is not None:
            return f"{self.float4}-pack-quantized"
        if self.is_float:
            return FLOAT
        return PACKED if self.input_activations is None else PLAIN


def packed(name: str, ref: Quantized) -> dict[str, Tensor]:
    """The tensors that stand for a quantised weight in a saved folder, by full name.

    Codes of a byte each if the inputs are rounded too, or if they are float8.

    Args:
        name: of the weight, ending in ``.weight``.

    Raises:
        CheckpointError: the grid is asymmetric.
    """
    if not ref.symmetric:
        raise CheckpointError(
            f"'{name}' is quantised with zero points, which plain transformers does not load "
            f"from a packed folder; quantise with symmetric=True"
        )
    if ref.float4 is not None:
        return packed_float4(name, ref)
    if _Scheme.of(ref).format != PACKED:
        return per_row(name, ref, ())
    parts = ref.parts()  # read once
    return {
        f"{name}_packed": pack_to_int32(parts["codes"].cpu().contiguous(), ref.bits),
        f"{name}_scale": parts["scales"],
        f"{name}_shape": torch.tensor(ref.shape),
    }


def packed_outline(name: str, ref: Quantized) -> dict[str, Tensor]:
    """The same names, shapes and dtypes as `packed`, on the meta device."""
    if ref.float4 is not None:
        return packed_float4_outline(name, ref)
    if _Scheme.of(ref).format != PACKED:
        return per_row_outline(name, ref, ())
    rows, width = ref.shape
    words = math.ceil(width * ref.bits / 32)
    return {
        f"{name}_packed": torch.empty(rows, words, dtype=torch.int32, device="meta"),
        f"{name}_scale": _scales_outline(ref),
        f"{name}_shape": torch.empty(2, dtype=torch.int64, device="meta"),
    }


def per_row(name: str, ref: Quantized, heads: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of an 8-bit weight in a saved folder, ``int-quantized`` or ``float-quantized``.

    Args:
        name: of the weight, ending in ``.weight``; a byte each, [out_features, in_features] or
            [vocabulary, width].
        heads: names of tied heads; each repeats the scales [vocabulary, 1], never the codes.
    """
    parts = ref.parts()  # read once
    scales = {f"{each}_scale": parts["scales"] for each in (name, *heads)}
    return {name: parts["codes"].contiguous(), **scales}


def per_row_outline(name: str, ref: Quantized, heads: Iterable[str]) -> dict[str, Tensor]:
    """The same names, shapes and dtypes as `per_row`, on the meta device."""
    scales = {f"{each}_scale": _scales_outline(ref) for each in (name, *heads)}
    dtype = torch.float8_e4m3fn if ref.is_float else torch.int8
    return {name: torch.empty(ref.shape, dtype=dtype, device="meta"), **scales}


def _scales_outline(ref: Quantized) -> Tensor:
    """The scales on the meta device; nothing is read."""
    return torch.empty(ref.scales_shape, dtype=ref.dtype, device="meta")


def quantization_config(
    quantized: Mapping[str, Quantized],
    linears: Iterable[str],
    embeddings: Sequence[str] = (),
    experts: Sequence[Quantized] = (),
    routers: Sequence[str] = (),
) -> dict[str, Any]:
    """The contents of ``quantization_config`` in ``config.json``.

    One group for each kind of weights and inputs; with a single one it covers every linear.

    Args:
        quantized: weight name to its codes.
        linears: paths of all ``nn.Linear`` modules of the model, in its order; those not quantised
            are ignored.
        embeddings: paths of embeddings and heads stored by `per_row`, tied heads included.
        experts: packed experts, which transformers has no modules for.
        routers: paths in files of what is a linear in other runtimes, to be ignored too.

    Raises:
        CheckpointError: experts of several kinds, of which transformers reads one.
    """
    modules: dict[_Scheme, list[str]] = {}
    linears = [path for path in linears if path not in embeddings]
    for path in linears:
        if (ref := quantized.get(f"{path}.weight")) is not None:
            modules.setdefault(_Scheme.of(ref), []).append(path)
    covered = {name for names in modules.values() for name in names}
    if experts:
        modules.setdefault(_scheme_of_experts(experts), []).append(_EXPERTS)
    whole = len(modules) == 1 and not embeddings
    schemes = [_scheme(kind, ["Linear"] if whole else names) for kind, names in modules.items()]
    if embeddings:
        schemes.append(_scheme(_Scheme(8, None), list(embeddings), PLAIN))
    formats = {str(scheme.format) for scheme in schemes} or {PACKED}
    config = QuantizationConfig(
        config_groups={f"group_{place}": scheme for place, scheme in enumerate(schemes)},
        format=formats.pop() if len(formats) == 1 else _MIXED,
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=[*(name for name in linears if name not in covered), *routers],
    )
    written: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
    return written


def _scheme_of_experts(experts: Sequence[Quantized]) -> _Scheme:
    """The one scheme of packed experts; a row may be a single group in some of them."""
    kinds = {_Scheme.of(ref) for ref in experts}
    if any(kind.group_size for kind in kinds):
        kinds = {replace(_Scheme.of(ref), group_size=ref.group_size) for ref in experts}
    if len(kinds) > 1:
        found = ", ".join(sorted(f"{each.bits} bits / {each.group_size}" for each in kinds))
        raise CheckpointError(
            f"experts are quantised on several grids (bits / group size: {found}), and a folder "
            f"holds one; quantise all of them with the same bits and group_size"
        )
    return kinds.pop()


def _scheme(kind: _Scheme, targets: list[str], format: str | None = None) -> QuantizationScheme:
    if kind.float4 is not None:
        return _float4_scheme(kind, targets)
    block = None if kind.block_size is None else [kind.block_size, kind.block_size]
    by_row = "channel" if kind.group_size is None else "group"
    weights = QuantizationArgs(
        num_bits=kind.bits,
        type="float" if kind.is_float else "int",
        symmetric=True,
        strategy=by_row if block is None else "block",
        group_size=kind.group_size,
        block_structure=block,
    )
    return QuantizationScheme(
        targets=targets,
        weights=weights,
        input_activations=_inputs(kind.input_activations, kind.block_size),
        format=format or kind.format,
    )


def _float4_scheme(kind: _Scheme, targets: list[str]) -> QuantizationScheme:
    is_nvfp4 = kind.float4 == "nvfp4"
    weights = QuantizationArgs(
        num_bits=4,
        type="float",
        symmetric=True,
        strategy="tensor_group" if is_nvfp4 else "group",
        group_size=16 if is_nvfp4 else 32,
        scale_dtype=torch.float8_e4m3fn if is_nvfp4 else torch.uint8,
    )
    return QuantizationScheme(targets=targets, weights=weights, format=kind.format)


def _inputs(kind: InputActivations | None, group_size: int | None) -> QuantizationArgs | None:
    """One scale per token, or per group of its features, found when it is computed with."""
    if kind is None:
        return None
    return QuantizationArgs(
        num_bits=8,
        type="int" if kind == "int8" else "float",
        symmetric=True,
        strategy="token" if group_size is None else "group",
        group_size=group_size,
        dynamic=True,
    )
