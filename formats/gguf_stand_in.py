"""A GGUF file of the right types and shapes with zeros for values, to measure speed with.

The kernels of llama.cpp do the same work for any values, so that the file runs as fast as the one
it stands for. It is written in a moment: its values are a hole in the file.
"""

from __future__ import annotations

import os
from pathlib import Path

import gguf
from gguf import GGUFWriter

from ..checkpoints import Checkpoint
from ..models.blocks.empty_model import shared_model
from .ggml_types import GgmlKind
from .gguf_architectures import architecture_of
from .gguf_size import gguf_data_bytes, padded_bytes
from .gguf_tensors import file_kind, tensor_entries
from .gguf_tokenizer import describe_tokenizer
from .gguf_writer import describe_model, write_header


def write_stand_in(checkpoint: Checkpoint, path: Path, *, kind: GgmlKind | None = None) -> None:
    """Write a file like that of `write_gguf`; values are not read.

    Args:
        checkpoint: the model, or its outline.
        path: the file; it is replaced.
        kind: as for `write_gguf`.

    Raises:
        ModelError: as `write_gguf`.
    """
    model, kind = shared_model(checkpoint), file_kind(checkpoint, kind)
    architecture, _ = architecture_of(model.config)
    writer = GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture.arch])
    try:
        describe_model(writer, checkpoint, model, architecture, kind)
        describe_tokenizer(writer, checkpoint, int(model.config.vocab_size))
        write_header(writer, tensor_entries(checkpoint, model, architecture, kind))
    finally:
        writer.close()
    data = gguf_data_bytes(checkpoint, kind=kind)
    os.truncate(path, padded_bytes(path.stat().st_size) + data)
