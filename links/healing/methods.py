"""What the methods of heal share: the dtype of products, and the windows held out."""

from __future__ import annotations

import math

import torch

from ...errors import DataError
from ...texts import Windows
from .settings import Precision


def autocast_dtype(precision: Precision) -> torch.dtype | None:
    """The dtype of autocast; None for float32."""
    return torch.bfloat16 if precision == "bfloat16" else None


def num_heldout(windows: Windows, fraction: float) -> int:
    """How many of the last windows are held out: at least one, with at least one left to train on.

    Raises:
        DataError: there are not enough.
    """
    heldout = math.ceil(fraction * windows.num_windows)
    if heldout < windows.num_windows:
        return heldout
    raise DataError(
        f"healing text '{windows.text}' has {windows.num_windows} windows and "
        f"heldout_share={fraction} holds out {heldout}, so none is left to train on; give more "
        f"windows or lower heldout_share"
    )
