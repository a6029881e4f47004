"""transformers without its progress bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import modeling_gguf_pytorch_utils
from transformers.utils import logging as transformers_logging


@contextmanager
def quietly() -> Iterator[None]:
    """No progress bars from transformers: ours are drawn by middleware, or not at all."""
    shown = transformers_logging.is_progress_bar_enabled()
    gguf: Any = modeling_gguf_pytorch_utils
    gguf_bar = gguf.tqdm
    transformers_logging.disable_progress_bar()
    # The bar of a GGUF file heeds no setting of its own.
    gguf.tqdm = transformers_logging.tqdm
    try:
        yield
    finally:
        gguf.tqdm = gguf_bar
        if shown:
            transformers_logging.enable_progress_bar()
