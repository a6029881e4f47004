"""Switch off the progress bars of transformers and the libraries it uses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from compressed_tensors.compressors.model_compressors import model_compressor
from compressed_tensors.quantization.lifecycle import apply
from transformers import modeling_gguf_pytorch_utils
from transformers.utils import logging as transformers_logging

# Modules without a setting for their progress bars.
_UNSETTABLE: tuple[Any, ...] = (modeling_gguf_pytorch_utils, model_compressor, apply)


class _Switch:
    """Counts who wants silence: the settings are global, and links of two runs may overlap."""

    def __init__(self) -> None:
        self._lock, self._count = threading.Lock(), 0
        self._shown, self._bars = False, list[Any]()

    def off(self) -> None:
        """The first switches the bars off."""
        with self._lock:
            self._count += 1
            if self._count > 1:
                return
            self._shown = transformers_logging.is_progress_bar_enabled()
            self._bars = [module.tqdm for module in _UNSETTABLE]
            transformers_logging.disable_progress_bar()
            for module in _UNSETTABLE:
                module.tqdm = transformers_logging.tqdm

    def on(self) -> None:
        """The last restores what was there."""
        with self._lock:
            self._count -= 1
            if self._count:
                return
            for module, bar in zip(_UNSETTABLE, self._bars, strict=True):
                module.tqdm = bar
            if self._shown:
                transformers_logging.enable_progress_bar()


_switch = _Switch()


@contextmanager
def quietly() -> Iterator[None]:
    """Switch off progress bars, except those of middleware, inside the context.

    Contexts may overlap in several threads: the bars are on again after the last one ends.
    """
    _switch.off()
    try:
        yield
    finally:
        _switch.on()
