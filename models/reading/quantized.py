"""Folders somebody quantised: their tensors as the weights the codes stand for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from ...checkpoints import Checkpoint, TensorRef
from ...errors import ModelError, SettingError
from ..codecs.bitsandbytes import read_bitsandbytes
from ..codecs.compressed_tensors import Unpacked, unpack

COMPRESSED_TENSORS, BITSANDBYTES = "compressed-tensors", "bitsandbytes"

# What quantisers call the parts of a weight in files: after its name, or in its module.
_AFTER_THE_NAME = re.compile(
    r"(_packed|_scale|_scale_inv|_shape|_zero_point|_g_idx|_global_scale|_format|\.absmax"
    r"|\.quant_map|\.nested_absmax|\.nested_quant_map|\.quant_state\..*)$"
)
_IN_ITS_MODULE = re.compile(
    r"\.(SCB|qweight|qzeros|scales|g_idx|(input|output)_(scale|zero_point|global_scale))$"
)


def weight_of(name: str) -> str:
    """The weight that a tensor of a folder is a part of, if it is named as parts are; else itself.

    ``x.weight_packed``, ``x.weight.absmax`` and ``x.SCB`` are parts of ``x.weight``.
    """
    base, is_part = _AFTER_THE_NAME.subn("", name)
    if is_part and base.endswith(".weight"):
        return base
    return _IN_ITS_MODULE.sub(".weight", name)


def multiplied_out(
    refs: Mapping[str, TensorRef], settings: object, label: str
) -> dict[str, TensorRef] | None:
    """Tensors under their names in the folder; None for a kind that only transformers reads.

    Args:
        settings: what ``config.json`` says under ``quantization_config``.
        label: what to call the model.

    Raises:
        ModelError: quantised by a method that is not read.
        CheckpointError: parts of a weight that are missing or do not fit each other.
    """
    known = settings if isinstance(settings, Mapping) else {"quant_method": settings}
    # Releases of bitsandbytes' first years left the method out.
    implied = BITSANDBYTES if known.get("load_in_4bit") or known.get("load_in_8bit") else "unknown"
    method = known.get("quant_method", implied)
    if method == COMPRESSED_TENSORS:
        return unpack(refs, known)
    if method == BITSANDBYTES:
        return read_bitsandbytes(refs)
    raise ModelError(
        f"'{label}' is already quantised ({method}), and of quantised folders only those of "
        f"{COMPRESSED_TENSORS} and {BITSANDBYTES} are read; give the model it was made from"
    )


def with_codes(checkpoint: Checkpoint, label: str) -> Checkpoint:
    """The same with codes instead of the values they stand for, where they were `unpack`ed.

    Raises:
        SettingError: there are none.
    """
    codes = {n: ref.codes() for n, ref in checkpoint.refs.items() if isinstance(ref, Unpacked)}
    if not codes:
        raise SettingError(
            f"the codes of '{label}' cannot be kept as they are, only multiplied out; leave "
            f"dequantize on: of quantised models, integer codes of {COMPRESSED_TENSORS} are kept"
        )
    return replace(checkpoint, refs={**checkpoint.refs, **codes})
