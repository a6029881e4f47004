"""Writing integer codes as compressed-tensors stores them.

Each quantised ``nn.Linear`` becomes ``weight_packed`` (codes shifted to unsigned, packed densely
into int32 along the row), ``weight_scale`` and ``weight_shape``, format ``pack-quantized``. The
format's zero points do not load in plain transformers, so only symmetric grids are written.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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
from ...errors import CheckpointError
from .compressed_tensors import PACKED, PLAIN

_MIXED = "mixed-precision"

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
    parts = ref.parts()  # read once
    return {
        f"{name}_packed": pack_to_int32(parts["codes"].cpu().contiguous(), ref.bits),
        f"{name}_scale": parts["scales"],
        f"{name}_shape": torch.tensor(ref.shape),
    }


def packed_outline(name: str, ref: Quantized) -> dict[str, Tensor]:
    """The same names, shapes and dtypes as `packed`, on the meta device."""
    rows, width = ref.shape
    words = math.ceil(width * ref.bits / 32)
    return {
        f"{name}_packed": torch.empty(rows, words, dtype=torch.int32, device="meta"),
        f"{name}_scale": _scales_outline(ref),
        f"{name}_shape": torch.empty(2, dtype=torch.int64, device="meta"),
    }


def per_row(name: str, ref: Quantized, heads: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of an 8-bit embedding in a saved folder, format ``int-quantized``.

    Args:
        name: of the weight, ending in ``.weight``; int8 [vocabulary, width].
        heads: names of tied heads; each repeats the scales [vocabulary, 1], never the codes.
    """
    parts = ref.parts()  # read once
    scales = {f"{each}_scale": parts["scales"] for each in (name, *heads)}
    return {name: parts["codes"].contiguous(), **scales}


def per_row_outline(name: str, ref: Quantized, heads: Iterable[str]) -> dict[str, Tensor]:
    """The same names, shapes and dtypes as `per_row`, on the meta device."""
    scales = {f"{each}_scale": _scales_outline(ref) for each in (name, *heads)}
    return {name: torch.empty(ref.shape, dtype=torch.int8, device="meta"), **scales}


def _scales_outline(ref: Quantized) -> Tensor:
    """The scales ``[out_features, groups]`` on the meta device; nothing is read."""
    return torch.empty(ref.shape[0], ref.num_groups, dtype=ref.dtype, device="meta")


def quantization_config(
    quantized: Mapping[str, Quantized], linears: Iterable[str], embeddings: Sequence[str] = ()
) -> dict[str, Any]:
    """The contents of ``quantization_config`` in ``config.json``.

    One group for each pair of bits and group size; with a single one it covers every linear.

    Args:
        quantized: weight name to its integer codes.
        linears: paths of all ``nn.Linear`` modules of the model, in its order; those not quantised
            are ignored.
        embeddings: paths of embeddings and heads stored by `per_row`, tied heads included.
    """
    modules: dict[_Grid, list[str]] = {}
    linears = [path for path in linears if path not in embeddings]
    for path in linears:
        if (ref := quantized.get(f"{path}.weight")) is not None:
            modules.setdefault(_grid(ref), []).append(path)
    covered = {name for names in modules.values() for name in names}
    whole = len(modules) == 1 and not embeddings
    schemes = [_scheme(grid, ["Linear"] if whole else names) for grid, names in modules.items()]
    if embeddings:
        schemes.append(_scheme((8, None), list(embeddings), PLAIN))
    config = QuantizationConfig(
        config_groups={f"group_{place}": scheme for place, scheme in enumerate(schemes)},
        format=_MIXED if modules and embeddings else PLAIN if embeddings else PACKED,
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=[name for name in linears if name not in covered],
    )
    written: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
    return written


def _grid(ref: Quantized) -> _Grid:
    """Bits and group size; None where a whole row shares its scale."""
    return ref.bits, None if ref.num_groups == 1 else ref.group_size


def _scheme(grid: _Grid, targets: list[str], format: str = PACKED) -> QuantizationScheme:
    bits, group_size = grid
    weights = QuantizationArgs(
        num_bits=bits,
        type="int",
        symmetric=True,
        strategy="channel" if group_size is None else "group",
        group_size=group_size,
    )
    return QuantizationScheme(targets=targets, weights=weights, format=format)
