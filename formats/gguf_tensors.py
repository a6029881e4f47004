"""Which tensors a GGUF file holds, in which type, and where their data comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import gguf
import numpy as np
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ..checkpoints import Checkpoint, InMemory, Quantized, TensorRef
from ..errors import ModelError
from ..models.blocks.empty_model import empty_model
from .ggml_blocks import exact_blocks, exact_kind
from .ggml_encoding import encode
from .ggml_types import (
    FLOAT_KINDS,
    GgmlKind,
    kind_for_tensor,
    kind_for_width,
    smallest_kind,
    tensor_bytes,
)
from .gguf_architectures import Architecture, architecture_of
from .gguf_rope import rope_tensors


def file_kind(checkpoint: Checkpoint, kind: GgmlKind | None) -> GgmlKind:
    """Return ``kind``, or the default of `write_gguf` if it is None."""
    held = filter(None, map(exact_kind, checkpoint.refs.values()))
    return kind or smallest_kind(held) or "f16"


def unchanged_kind(ref: TensorRef, kind: GgmlKind) -> GgmlKind | None:
    """Return the type whose blocks a weight is written as without change, or None if it is encoded.

    ``kind`` is the type of the file.
    """
    is_dequantized = kind in FLOAT_KINDS and isinstance(ref, Quantized)
    return None if is_dequantized else exact_kind(ref)


def tensor_kinds(
    checkpoint: Checkpoint, *, kind: GgmlKind | None = None
) -> dict[str, tuple[GgmlKind, bool]]:
    """Return, by tensor name, the type it gets and whether it is transposed in the file.

    Raises:
        ModelError: GGUF does not support the architecture.
    """
    kind = file_kind(checkpoint, kind)
    model = empty_model(checkpoint)
    architecture, _ = architecture_of(model.config)
    entries = tensor_entries(checkpoint, model, architecture, kind)
    # One entry per tensor, in the checkpoint's order; rotary tensors of the file follow them.
    pairs = zip(checkpoint.refs, entries, strict=False)
    return {name: (entry.kind, architecture.is_transposed(name)) for name, entry in pairs}


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of the file.

    Attributes:
        name: its name in GGUF.
        source: loads its values, or its blocks if ``is_encoded``.
        shape: of its values, width last.
        kind: the ggml type it is stored in.
        is_fallback: whether ``kind`` replaces the file's type because of the width.
        is_encoded: whether ``source`` returns blocks instead of values.
    """

    name: str
    source: Callable[[], Tensor]
    shape: tuple[int, ...]
    kind: GgmlKind
    is_fallback: bool = False
    is_encoded: bool = False

    @property
    def num_bytes(self) -> int:
        """Bytes in the file."""
        return tensor_bytes(self.kind, self.shape)

    def data(self) -> np.ndarray:
        """Return its bytes, uint8."""
        found = self.source()
        return found.numpy() if self.is_encoded else encode(self.kind, found, self.name)


def tensor_entries(
    checkpoint: Checkpoint, model: PreTrainedModel, architecture: Architecture, kind: GgmlKind
) -> list[TensorEntry]:
    """Return the entries of all tensors, those of the rotary embedding last.

    Raises:
        ModelError: a tensor has no name in GGUF.
    """
    config = model.config
    names = gguf.get_tensor_name_map(architecture.arch, config.num_hidden_layers)
    tied = "lm_head.weight" not in checkpoint.refs
    entries = []
    for name, ref in checkpoint.refs.items():
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if gguf_name is None:
            raise ModelError(
                f"tensor '{name}' of {config.model_type} has no name in GGUF; "
                f"save the model as safetensors"
            )
        shape = ref.shape[::-1] if architecture.is_transposed(name) else ref.shape
        is_head = gguf_name == ("token_embd.weight" if tied else "output.weight")
        unchanged = unchanged_kind(ref, kind)
        found = unchanged or kind_for_tensor(kind, gguf_name, shape, is_head=is_head)
        source = _Reordered(name, gguf_name, ref, architecture, config, bool(unchanged))
        is_fallback = found == kind_for_width(kind, shape[-1]) != kind
        is_fallback = is_fallback and not (is_head or unchanged)
        entries.append(TensorEntry(gguf_name, source, shape, found, is_fallback, bool(unchanged)))
    for gguf_name, tensor in rope_tensors(config).items():
        ref = InMemory(tensor)
        entries.append(TensorEntry(gguf_name, ref.load, ref.shape, "f32"))
    return entries


def fallback_warnings(entries: list[TensorEntry], kind: GgmlKind) -> Iterator[str]:
    """Yield a warning for each type that replaces ``kind`` in some tensors."""
    others = [entry for entry in entries if entry.is_fallback]
    for other in sorted({entry.kind for entry in others}):
        names = [entry.name for entry in others if entry.kind == other]
        yield (
            f"{len(names)} tensors, such as '{names[0]}', are written as {other}: the blocks of "
            f"{kind} do not divide their width"
        )


def recoding_warnings(
    checkpoint: Checkpoint, entries: list[TensorEntry], asked: GgmlKind | None
) -> Iterator[str]:
    """Yield warnings for quantised weights kept in another type than ``asked``, or dequantised."""
    coded = [
        entry
        for ref, entry in zip(checkpoint.refs.values(), entries, strict=False)
        if isinstance(ref, Quantized)
    ]
    others = [entry for entry in coded if entry.is_encoded and asked not in (None, entry.kind)]
    if others:
        yield (
            f"{len(others)} tensors, such as '{others[0].name}', are written as {others[0].kind}, "
            f"which stores their codes exactly; '{asked}' would round them again"
        )
    values = [entry for entry in coded if not entry.is_encoded]
    if values and asked is None:
        yield (
            f"{len(values)} quantised tensors, such as '{values[0].name}', are dequantised and "
            f"written as {values[0].kind}: ggml's blocks store only codes of 4 and 8 bits without "
            f"zero points, in groups that are multiples of 32, with scales that float16 "
            f"represents exactly"
        )


@dataclass(frozen=True)
class _Reordered:
    """Loads a tensor of the checkpoint in the row order llama.cpp expects."""

    name: str
    gguf_name: str
    ref: TensorRef
    architecture: Architecture
    config: PreTrainedConfig
    as_blocks: bool

    def __call__(self) -> Tensor:
        tensor = self._stored()
        order = self.architecture.row_order(self.name, tensor.shape[0], self.config)
        if order is not None:
            tensor = tensor[order]
        offset = self.architecture.offset(self.gguf_name)
        return tensor.float() + offset if offset else tensor

    def _stored(self) -> Tensor:
        """Return one row per output feature: blocks if ``as_blocks``, values otherwise."""
        if self.as_blocks:
            return exact_blocks(self.ref)
        tensor = self.ref.load()
        return tensor.T if self.architecture.is_transposed(self.name) else tensor
