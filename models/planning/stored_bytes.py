"""The size on disk of a model's weight files, before they are written, to the byte.

The size of a folder is the sum of its safetensors files with their headers, as `weight_bytes` of a
saved folder counts it. `linear_bytes` and `embedding_bytes` are the values of single tensors, which
is what an allocation trades; headers are counted for the whole folder only.
"""

from __future__ import annotations

import torch

from ...checkpoints import BitsAndBytes, Checkpoint, Quantized
from ...checkpoints.safetensors_layout import StoredTensor, safetensors_bytes
from ...checkpoints.shards import METADATA, plan_shards
from ...errors import SettingError
from ..codecs.compressed_tensors_writing import packed_outline, per_row
from ..writing.folder import folder_outline

MAX_SHARD_BYTES = int(5e9)
"""The default of save."""


def stored_bytes(checkpoint: Checkpoint, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> int:
    """Bytes of the safetensors files that `write_model` writes; values are not read.

    Raises:
        SettingError: weights meant for bitsandbytes, which lays out its own files.
        CheckpointError, ModelError: as `write_model`.
    """
    for name, ref in checkpoint.refs.items():
        if isinstance(ref, BitsAndBytes):
            raise SettingError(
                f"'{name}' is stored by bitsandbytes, whose file sizes are not predicted; "
                f"quantise to integers"
            )
    _, outline = folder_outline(checkpoint)
    tensors = {name: StoredTensor.of(tensor) for name, tensor in outline.items()}
    tensors.update({name: StoredTensor.of(ref) for name, ref in checkpoint.unused.items()})
    sizes = {name: each.num_bytes for name, each in tensors.items()}
    shards = plan_shards(sizes, max_shard_bytes)
    return sum(safetensors_bytes({n: tensors[n] for n in names}, METADATA) for names in shards)


def linear_bytes(
    shape: tuple[int, int], bits: int, group_size: int | None, scale_dtype: torch.dtype
) -> int:
    """Bytes of a linear [out_features, in_features] as packed integers, scales and shape.

    Args:
        group_size: input columns that share a scale; None for a whole row.
    """
    groups = 1 if group_size is None else shape[1] // group_size
    parts = packed_outline(".weight", _on_meta(shape, groups, bits, scale_dtype))
    return sum(part.nbytes for part in parts.values())


def embedding_bytes(shape: tuple[int, int], scale_dtype: torch.dtype, num_heads: int = 0) -> int:
    """Bytes of an embedding [vocabulary, width] as int8 rows, with the scales of tied heads."""
    heads = [f"head{place}.weight" for place in range(num_heads)]
    parts = per_row(".weight", _on_meta(shape, 1, 8, scale_dtype), heads)
    return sum(part.nbytes for part in parts.values())


def _on_meta(shape: tuple[int, int], groups: int, bits: int, dtype: torch.dtype) -> Quantized:
    codes = torch.empty(shape, dtype=torch.int8, device="meta")
    return Quantized(codes, torch.empty(shape[0], groups, dtype=dtype, device="meta"), bits=bits)
