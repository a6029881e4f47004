"""Read the header of a GGUF file, checked against the file size before memory is allocated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...checkpoints.gguf_package import require_gguf
from ...errors import ModelError
from ..blocks.transformers_errors import REFUSED, reason
from ..codecs.gguf_head import read_head
from .sources import Source

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor


def read_header(source: Source) -> GGUFReader:
    """The fields of a GGUF model and the tensors of its first file; tensor data stays on disk.

    Raises:
        ModelError: the file is damaged, or declares more layers than tensors.
        MissingExtraError: the package gguf is not installed.
    """
    return read_headers(source)[0]


def read_tensors(source: Source) -> list[ReaderTensor]:
    """The tensors of all files of a GGUF model; their data stays on disk.

    Raises:
        ModelError: see `read_header`.
    """
    return [tensor for reader in read_headers(source) for tensor in reader.tensors]


def read_headers(source: Source) -> list[GGUFReader]:
    """A reader of each file of a GGUF model; takes seconds for a large vocabulary.

    Raises:
        ModelError, MissingExtraError: see `read_header`.
    """
    gguf = require_gguf()
    try:
        read_head(*source.gguf_paths)
        return [gguf.GGUFReader(path) for path in source.gguf_paths]
    except REFUSED as error:
        raise ModelError(f"'{source.label}' cannot be opened as GGUF: {reason(error)}") from error
