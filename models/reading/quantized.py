"""Read the tensors of quantised folders as dequantised weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...checkpoints import LeftOut, TensorRef, open_folder
from ...errors import ModelError
from ..blocks.experts_apart import is_expert_matrix
from ..codecs.bitsandbytes import read_bitsandbytes
from ..codecs.compressed_tensors import unpack
from ..codecs.float4 import holds_float4
from ..codecs.float8 import read_float8
from ..codecs.mxfp4 import read_mxfp4

COMPRESSED_TENSORS, BITSANDBYTES = "compressed-tensors", "bitsandbytes"
_FLOAT8, _MXFP4 = ("fp8", "fbgemm_fp8"), "mxfp4"
_READ = (COMPRESSED_TENSORS, BITSANDBYTES, *_FLOAT8, _MXFP4)

# Names of the parts of a quantised weight in files: suffixes of its name, or names in its module.
_AFTER_THE_NAME = re.compile(
    r"(_packed|_scale|_scale_inv|_shape|_zero_point|_g_idx|_global_scale|_format|\.absmax"
    r"|\.quant_map|\.nested_absmax|\.nested_quant_map|\.quant_state\..*)$"
)
_IN_ITS_MODULE = re.compile(
    r"\.(SCB|qweight|qzeros|scales?|g_idx|qscale_(weight|act)|activation_scale|input_scale_ub"
    r"|(input|output)_(scale|zero_point|global_scale))$"
)
# Of experts that are kept in one tensor, such as "experts.gate_up_proj".
_OF_EXPERTS = re.compile(r"(?<=_proj)_(blocks|scales|scale_inv|scale|activation_scale)$")

# Of activations, which only computing in the quantised format needs.
_OF_ACTIVATIONS = re.compile(
    r"(_activation_scale|\.(activation_scale|input_scale_ub|qscale_act"
    r"|(input|output)_(scale|zero_point|global_scale)))$"
)


def activation_scales(refs: Mapping[str, TensorRef]) -> list[LeftOut]:
    """The scales of activations in a quantised folder, which are not carried."""
    why = "a scale of activations, which dequantised weights do not need"
    return [
        LeftOut(name, ref.num_bytes, why)
        for name, ref in refs.items()
        if _OF_ACTIVATIONS.search(name)
    ]


def weight_of(name: str) -> str:
    """The weight that a tensor is a part of, judged by its name; the name itself if it is no part.

    ``x.weight_packed``, ``x.weight.absmax`` and ``x.SCB`` are parts of ``x.weight``,
    ``x.gate_up_proj_blocks`` is one of ``x.gate_up_proj``.
    """
    base, is_part = _AFTER_THE_NAME.subn("", name)
    if is_part and base.endswith(".weight"):
        return base
    return _IN_ITS_MODULE.sub(".weight", _OF_EXPERTS.sub("", name))


def multiplied_out(
    refs: Mapping[str, TensorRef], settings: object, label: str
) -> dict[str, TensorRef] | None:
    """The dequantised tensors by their names in the folder; None if only transformers reads it.

    Args:
        settings: the ``quantization_config`` of ``config.json``.
        label: name of the model in messages.

    Raises:
        ModelError: the quantisation method is not supported.
        CheckpointError: parts of a weight are missing or inconsistent.
    """
    known = settings if isinstance(settings, Mapping) else {"quant_method": settings}
    # Early releases of bitsandbytes wrote no quant_method.
    implied = BITSANDBYTES if known.get("load_in_4bit") or known.get("load_in_8bit") else "unknown"
    method = known.get("quant_method", implied)
    if method == COMPRESSED_TENSORS:
        return unpack(refs, known)
    if method == BITSANDBYTES:
        return read_bitsandbytes(refs)
    if method in _FLOAT8:
        return read_float8(refs, known)
    if method == _MXFP4:
        return read_mxfp4(refs)
    raise ModelError(
        f"'{label}' is already quantised ({method}), which is not supported; use the original "
        f"model, or one quantised with {', '.join(_READ[:-1])} or {_READ[-1]}"
    )


def only_dtype(folder: Path, config: Mapping[str, Any]) -> torch.dtype | None:
    """The only dtype in which transformers computes a saved folder; None if there are several.

    Args:
        config: the contents of its ``config.json``.

    Raises:
        CheckpointError: missing or damaged weight files.
    """
    if holds_float4(config):
        return torch.bfloat16
    settings = config.get("quantization_config")
    if not isinstance(settings, Mapping) or settings.get("quant_method") != COMPRESSED_TENSORS:
        return None
    scales = (
        ref.dtype
        for name, ref in open_folder(folder).items()
        if name.endswith("_scale") and is_expert_matrix(name.removesuffix("_scale"))
    )
    return next(scales, None)


def dequantised_dtype(settings: object) -> torch.dtype:
    """The dtype of dequantised weights: bfloat16 holds MXFP4 exactly, float32 what is read else.

    Args:
        settings: the ``quantization_config`` of ``config.json``.
    """
    method = settings.get("quant_method") if isinstance(settings, Mapping) else settings
    return torch.bfloat16 if method == _MXFP4 else torch.float32
