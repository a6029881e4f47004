"""The size of a GGUF file before it is written, to the byte.

A file is its header (metadata, tokenizer, one line per tensor), and the data of every tensor, each
padded to the alignment. The header does not depend on the types of the tensors, so it is priced
once for all ways to store one model.
"""

from __future__ import annotations

from io import BufferedWriter, BytesIO
from pathlib import Path
from typing import Any, cast

import gguf
from gguf import GGUFWriter
from gguf.gguf_writer import WriterState

from ..checkpoints import Checkpoint
from ..models.blocks.empty_model import shared_model
from .ggml_types import GgmlKind, tensor_bytes
from .gguf_architectures import architecture_of
from .gguf_tensors import file_kind, tensor_entries
from .gguf_tokenizer import describe_tokenizer
from .gguf_writer import describe_model, write_header

_ALIGNMENT = gguf.GGUF_DEFAULT_ALIGNMENT


def gguf_bytes(checkpoint: Checkpoint, *, kind: GgmlKind | None = None) -> int:
    """Bytes of the file that `write_gguf` writes; values are not read.

    Raises:
        ModelError: as `write_gguf`.
    """
    return gguf_header_bytes(checkpoint) + gguf_data_bytes(checkpoint, kind=kind)


def gguf_header_bytes(checkpoint: Checkpoint) -> int:
    """Bytes before the data of the first tensor, the same whatever types the tensors have.

    A checkpoint without files, such as the outline of a GGUF file, counts without a tokenizer.

    Raises:
        ModelError: as `write_gguf`.
    """
    model, kind = shared_model(checkpoint), file_kind(checkpoint, None)
    architecture, _ = architecture_of(model.config)
    writer = _InMemory(None, gguf.MODEL_ARCH_NAMES[architecture.arch])
    describe_model(writer, checkpoint, model, architecture, kind)
    if checkpoint.files:
        describe_tokenizer(writer, checkpoint, int(model.config.vocab_size))
    write_header(writer, tensor_entries(checkpoint, model, architecture, kind))
    return padded_bytes(writer.num_bytes)


def gguf_data_bytes(checkpoint: Checkpoint, *, kind: GgmlKind | None = None) -> int:
    """Bytes of the data of all tensors, each padded.

    Raises:
        ModelError: as `write_gguf`.
    """
    model, kind = shared_model(checkpoint), file_kind(checkpoint, kind)
    architecture, _ = architecture_of(model.config)
    entries = tensor_entries(checkpoint, model, architecture, kind)
    return sum(padded_bytes(entry.num_bytes) for entry in entries)


def stored_tensor_bytes(kind: GgmlKind, shape: tuple[int, ...]) -> int:
    """Bytes that a tensor of that shape takes in a file, padding included."""
    return padded_bytes(tensor_bytes(kind, shape))


def padded_bytes(num_bytes: int) -> int:
    """Bytes up to the next multiple of the alignment."""
    return GGUFWriter.ggml_pad(num_bytes, _ALIGNMENT)


class _InMemory(GGUFWriter):
    """A writer that keeps what it writes in memory."""

    def open_output_file(self, path: Path | None = None) -> None:
        self.written = BytesIO()
        self.fout = [BufferedWriter(cast("Any", self.written))]
        self.state = WriterState.EMPTY

    @property
    def num_bytes(self) -> int:
        """Bytes written so far."""
        self.flush()
        return len(self.written.getvalue())
