"""FP4 (E2M1) weights, two per byte, with one scale per group of columns.

Read and written here: ``nvfp4-pack-quantized`` (groups of 16, float8 scales divided by one global
scale) and ``mxfp4-pack-quantized`` (groups of 32, power-of-two scales) of compressed-tensors. A
value is the E2M1 number times its scale, in float32.

OCP Microscaling Formats (MX) specification 1.0, sections 5.3.3 (E2M1) and 5.4.1 (E8M0).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...checkpoints import Quantized, TensorRef
from ...errors import CheckpointError

FORMATS = ("nvfp4-pack-quantized", "mxfp4-pack-quantized")
"""What compressed-tensors calls the two."""

_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_EXPONENT_BIAS = 127


def holds_float4(config: object) -> bool:
    """Whether a ``config.json`` describes FP4 weights; anything that is no such config does not.

    transformers computes them in bfloat16 only.
    """
    settings = config.get("quantization_config") if isinstance(config, Mapping) else None
    if not isinstance(settings, Mapping):
        return False
    groups = settings.get("config_groups")
    every = [settings, *(groups.values() if isinstance(groups, Mapping) else ())]
    return any(isinstance(each, Mapping) and each.get("format") in FORMATS for each in every)


def unpack_e2m1(packed: Tensor) -> Tensor:
    """The numbers in bytes ``[..., columns / 2]``: float32 ``[..., columns]``, low bits first."""
    codes = packed.contiguous().view(torch.uint8)
    table = torch.tensor([*_MAGNITUDES, *(-value for value in _MAGNITUDES)])
    pairs = torch.stack((table[(codes & 0xF).int()], table[(codes >> 4).int()]), dim=-1)
    return pairs.flatten(-2)


def pack_e2m1(codes: Tensor) -> Tensor:
    """The inverse for twice the numbers: int8 ``[..., columns]`` to ``[..., columns / 2]``."""
    table = torch.tensor([2 * value for value in _MAGNITUDES])
    places = torch.searchsorted(table, codes.abs().float()).to(torch.uint8)
    places |= (codes < 0).to(torch.uint8) << 3
    low, high = places.unflatten(-1, (-1, 2)).unbind(-1)
    packed: Tensor = low | high << 4
    return packed


def packed_float4(name: str, ref: Quantized) -> dict[str, Tensor]:
    """The tensors that stand for an FP4 weight in a saved folder, by full name.

    Args:
        name: of the weight, ending in ``.weight``.
    """
    parts = ref.parts()  # read once
    scales = 2 * parts["scales"].cpu().float()  # codes are twice the numbers
    packed = {f"{name}_packed": pack_e2m1(parts["codes"].cpu())}
    if "global_scale" not in parts:
        _, exponents = torch.frexp(scales)  # 2^(e-1)
        return {**packed, f"{name}_scale": (exponents - 1 + _EXPONENT_BIAS).to(torch.uint8)}
    divisor = parts["global_scale"].cpu()
    stored = (scales * divisor).to(torch.float8_e4m3fn)
    return {**packed, f"{name}_scale": stored, f"{name}_global_scale": divisor}


def packed_float4_outline(name: str, ref: Quantized) -> dict[str, Tensor]:
    """The same names, shapes and dtypes, on the meta device."""
    rows, width = ref.shape
    is_nvfp4 = ref.float4 == "nvfp4"
    kind = torch.float8_e4m3fn if is_nvfp4 else torch.uint8
    found = {
        f"{name}_packed": torch.empty(rows, width // 2, dtype=torch.uint8, device="meta"),
        f"{name}_scale": torch.empty(rows, ref.num_groups, dtype=kind, device="meta"),
    }
    if is_nvfp4:
        found[f"{name}_global_scale"] = torch.empty(1, device="meta")
    return found


def float_scales(stored: Tensor) -> Tensor:
    """Scales in float32: bytes are exponents of two (E8M0), everything else is a number."""
    if stored.dtype == torch.uint8:
        exponents = stored.to(torch.int32) - _EXPONENT_BIAS
        return torch.ldexp(torch.ones(stored.shape), exponents)
    return stored.float()


class Float4(TensorRef):
    """An FP4 weight of compressed-tensors: float32, dequantised each time it loads.

    Args:
        parts: ``packed``, uint8 ``[rows, columns / 2]``; ``scale`` ``[rows, groups]``; with NVFP4
            also ``global_scale``, one value by which the scales are divided.

    Raises:
        CheckpointError: parts that are missing or do not fit each other.
    """

    def __init__(self, name: str, parts: Mapping[str, TensorRef]) -> None:
        self._name, self._parts = name, parts
        packed, scale = parts.get("packed"), parts.get("scale")
        if packed is None or scale is None:
            raise CheckpointError(
                f"'{name}' lacks its {'codes' if packed is None else 'scales'}; fetch the folder "
                f"again"
            )
        rows, columns = packed.shape[0], 2 * packed.shape[-1]
        fits = (
            packed.dtype == torch.uint8
            and len(packed.shape) == len(scale.shape) == 2
            and scale.shape[0] == rows
            and columns % (scale.shape[1] or columns + 1) == 0
        )
        if not fits:
            raise CheckpointError(
                f"'{name}' has {packed.dtype} codes {list(packed.shape)} and scales "
                f"{list(scale.shape)}, which is not a packed FP4 weight; fetch the folder again"
            )
        divisor = parts.get("global_scale")
        if divisor is not None and divisor.num_values != 1:
            raise CheckpointError(
                f"'{name}' has {divisor.num_values} global scales, not one; fetch the folder again"
            )
        self.dtype, self.shape = torch.float32, (rows, columns)

    def load(self) -> Tensor:
        scales = float_scales(self._parts["scale"].load())
        if "global_scale" in self._parts:
            scales = scales / self._parts["global_scale"].load().float().reshape(())
        values = unpack_e2m1(self._parts["packed"].load())
        grouped = values.unflatten(1, (scales.shape[1], -1))  # [rows, groups, group_size]
        grouped *= scales.unsqueeze(2)
        return values
