"""What the methods of heal share: the dtype of products, the windows held out, what they need."""

from __future__ import annotations

import math

import torch

from ...checkpoints import Checkpoint
from ...checkpoints.coded import has_scales
from ...checkpoints.placement import Precision
from ...errors import DataError, SettingError
from ...models.blocks.device import default_device
from ...models.blocks.linears import all_linears
from ...models.blocks.products import product_dtype
from ...texts import Windows
from .settings import HealMethod


def autocast_dtype(precision: Precision) -> torch.dtype | None:
    """The dtype of autocast on the device in use; None for float32."""
    if precision == "auto":
        return product_dtype(default_device())
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


def require_scales(checkpoint: Checkpoint, method: HealMethod) -> None:
    """Refuse method scales for a model none of whose linears has scales to train.

    Raises:
        SettingError: naming what the linears are.
    """
    if method != "scales":
        return
    refs = [checkpoint.refs[each.tensor] for each in all_linears(checkpoint)]
    if any(map(has_scales, refs)):
        return
    kinds = {ref.storage_kind for ref in refs}
    raise SettingError(
        f"heal(method='scales') trains the scales of integers and ggml types, and the linears of "
        f"'{checkpoint.source}' are {', '.join(sorted(kinds))}; put quantize(grid='int') or "
        f"another grid of these before heal, or use method='blocks'"
    )
