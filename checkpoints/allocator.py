"""Returning unused memory to the operating system.

The C library keeps freed memory that lies between blocks in use. When tensors are allocated and
freed block after block, that can grow to hundreds of megabytes.
"""

from __future__ import annotations

import ctypes


def release_unused_memory() -> None:
    """Return freed memory to the operating system, if the C library supports it (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
