"""What transformers raises on a config or files it can make no model of, and how it is told.

Every one of these becomes a `ModelError` that names the model; anything else is a fault of ours.
"""

from __future__ import annotations

import struct

from huggingface_hub.errors import StrictDataclassError

REFUSED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
    struct.error,
)
"""The kinds seen."""


def tokenizer_refused(error: BaseException) -> bool:
    """Whether this is how tokenizers says no: a plain error, or a panic, which is not even one."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def reason(error: BaseException) -> str:
    """What an error says, on one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
