"""Memory that nothing holds, back to the system it came from.

The C library keeps what was let go of in the middle of what it holds, and with tensors coming and
going, block after block, that grows to hundreds of megabytes.
"""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Return what nothing holds to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
