"""Switch off the progress bars of transformers and the libraries it uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from compressed_tensors.compressors.model_compressors import model_compressor
from compressed_tensors.quantization.lifecycle import apply
from transformers import modeling_gguf_pytorch_utils
from transformers.utils import logging as transformers_logging

# Modules without a setting for their progress bars.
_UNSETTABLE: tuple[Any, ...] = (modeling_gguf_pytorch_utils, model_compressor, apply)


@contextmanager
def quietly() -> Iterator[None]:
    """Switch off progress bars, except those of middleware, inside the context."""
    shown = transformers_logging.is_progress_bar_enabled()
    bars = [module.tqdm for module in _UNSETTABLE]
    transformers_logging.disable_progress_bar()
    for module in _UNSETTABLE:
        module.tqdm = transformers_logging.tqdm
    try:
        yield
    finally:
        for module, bar in zip(_UNSETTABLE, bars, strict=True):
            module.tqdm = bar
        if shown:
            transformers_logging.enable_progress_bar()
