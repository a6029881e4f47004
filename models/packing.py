"""Codes on a grid as compressed-tensors stores them, format ``pack-quantized``.

Each quantised ``nn.Linear`` becomes ``weight_packed`` (codes shifted to unsigned, packed densely
into int32 along the row), ``weight_scale`` and ``weight_shape``. The format's zero points do not
load in plain transformers, so only symmetric grids are written.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
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

from ..checkpoints import Quantized
from ..errors import CheckpointError

_FORMAT = "pack-quantized"
_Grid = tuple[int, int | None]


def packed(name: str, ref: Quantized) -> dict[str, Tensor]:
    """The tensors that stand for a quantised weight in a saved folder, by full name.

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
    return {
        f"{name}_packed": pack_to_int32(ref.codes.cpu().contiguous(), ref.bits),
        f"{name}_scale": ref.scales,
        f"{name}_shape": torch.tensor(ref.shape),
    }


def packed_outline(name: str, ref: Quantized) -> dict[str, Tensor]:
    """The same names, shapes and dtypes as `packed`, on the meta device."""
    rows, width = ref.shape
    words = math.ceil(width * ref.bits / 32)
    return {
        f"{name}_packed": torch.empty(rows, words, dtype=torch.int32, device="meta"),
        f"{name}_scale": torch.empty(ref.scales.shape, dtype=ref.scales.dtype, device="meta"),
        f"{name}_shape": torch.empty(2, dtype=torch.int64, device="meta"),
    }


def quantization_config(
    quantized: Mapping[str, Quantized], linears: Iterable[str]
) -> dict[str, Any]:
    """What ``config.json`` says under ``quantization_config``.

    One group for each pair of bits and group size; with a single one it covers every linear.

    Args:
        quantized: weight name to its codes.
        linears: paths of all ``nn.Linear`` modules of the model, in its order; those not quantised
            are ignored.
    """
    modules: dict[_Grid, list[str]] = {}
    linears = list(linears)
    for path in linears:
        if (ref := quantized.get(f"{path}.weight")) is not None:
            modules.setdefault(_grid(ref), []).append(path)
    covered = {name for names in modules.values() for name in names}
    config = QuantizationConfig(
        config_groups={
            f"group_{place}": _scheme(grid, ["Linear"] if len(modules) == 1 else names)
            for place, (grid, names) in enumerate(modules.items())
        },
        format=_FORMAT,
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=[name for name in linears if name not in covered],
    )
    written: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
    return written


def _grid(ref: Quantized) -> _Grid:
    """Bits and group size; None where a whole row shares its scale."""
    return ref.bits, None if ref.scales.shape[1] == 1 else ref.group_size


def _scheme(grid: _Grid, targets: list[str]) -> QuantizationScheme:
    bits, group_size = grid
    weights = QuantizationArgs(
        num_bits=bits,
        type="int",
        symmetric=True,
        strategy="channel" if group_size is None else "group",
        group_size=group_size,
    )
    return QuantizationScheme(targets=targets, weights=weights, format=_FORMAT)
