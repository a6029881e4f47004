"""The model that a GGUF file stores, as a checkpoint: what llama.cpp computes with.

Rounding works row by row, so the different row order of the file does not matter.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from gguf.quants import dequantize
from torch import Tensor

from ..checkpoints import Checkpoint, TensorRef
from .ggml_encoding import encode
from .ggml_types import GgmlKind, ggml_type
from .gguf_tensors import file_kind, tensor_kinds, unchanged_kind


class GgmlRounded(TensorRef):
    """Another reference's tensor, rounded to a ggml type when it loads; float32."""

    def __init__(self, name: str, source: TensorRef, kind: GgmlKind, *, transposed: bool) -> None:
        self._name, self._source, self._kind, self._transposed = name, source, kind, transposed
        self.dtype, self.shape = torch.float32, source.shape

    def load(self) -> Tensor:
        values = self._source.load()
        rows = values.T if self._transposed else values
        rows = rows.reshape(1, -1) if rows.ndim == 1 else rows
        stored = dequantize(encode(self._kind, rows, self._name), ggml_type(self._kind))
        found = torch.from_numpy(stored).reshape(rows.shape)
        return (found.T if self._transposed else found).reshape(self.shape)


def stored_values(checkpoint: Checkpoint, *, kind: GgmlKind | None = None) -> Checkpoint:
    """Return the checkpoint with every tensor rounded as `write_gguf` stores it.

    Raises:
        ModelError: GGUF does not support the architecture.
    """
    refs: dict[str, TensorRef] = {}
    chosen = file_kind(checkpoint, kind)
    for name, (found, transposed) in tensor_kinds(checkpoint, kind=kind).items():
        ref = checkpoint.refs[name]
        is_exact = unchanged_kind(ref, chosen) is not None
        refs[name] = ref if is_exact else GgmlRounded(name, ref, found, transposed=transposed)
    return replace(checkpoint, refs=refs)
