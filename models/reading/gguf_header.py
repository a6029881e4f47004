"""The header of a GGUF file, held against the file before anything is made as large as it says."""

from __future__ import annotations

from gguf import GGUFReader

from ...errors import ModelError
from ..blocks.transformers_errors import REFUSED, reason
from ..codecs.gguf_head import read_head
from .sources import Source


def read_header(source: Source) -> GGUFReader:
    """The fields and tensors of ``source``, a GGUF file; tensors stay on disk.

    Raises:
        ModelError: it is damaged, or says that there are more layers than tensors.
    """
    try:
        path = source.folder / str(source.gguf)
        read_head(path)
        return GGUFReader(path)
    except REFUSED as error:
        raise ModelError(
            f"'{source.label}' cannot be opened as GGUF: {reason(error)}; fetch it again"
        ) from error
