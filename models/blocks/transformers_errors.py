"""Errors that transformers raises on a config or files of which it can build no model.

Each of these becomes a `ModelError` that names the model. Any other error is a bug of birdbone.
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
    """Whether tokenizers refused the files: a plain exception, or a panic of its Rust code."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


_LONGEST = 400  # characters; some errors of transformers list every parameter


def reason(error: BaseException) -> str:
    """The error message on one line, shortened if it is very long; the error's type if empty."""
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} …"
