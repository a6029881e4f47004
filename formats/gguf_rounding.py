"""The model a GGUF file holds, as a checkpoint: what llama.cpp must compute, to judge it by.

Rounding goes row by row, so it does not matter that the file has rows in llama.cpp's order.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from gguf.quants import dequantize
from torch import Tensor

from ..checkpoints import Checkpoint, TensorRef
from .ggml_encoding import encode
from .ggml_types import GgmlKind, ggml_type
from .gguf import file_kind, kept_kind, tensor_kinds


class RoundedToGgml(TensorRef):
    """Another reference's tensor as a type of ggml's holds it, float32, rounded when it loads."""

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
    """The checkpoint with every tensor as `write_gguf` would store it.

    Raises:
        ModelError: an architecture that GGUF has not.
    """
    refs: dict[str, TensorRef] = {}
    chosen = file_kind(checkpoint, kind)
    for name, (found, transposed) in tensor_kinds(checkpoint, kind=kind).items():
        ref = checkpoint.refs[name]
        kept = kept_kind(ref, chosen) is not None
        refs[name] = ref if kept else RoundedToGgml(name, ref, found, transposed=transposed)
    return replace(checkpoint, refs=refs)
