"""What products are computed in while weights stay float32."""

from __future__ import annotations

import torch


def computed_in(dtype: torch.dtype | None, device: torch.device) -> torch.autocast:
    """The context in which products on a device are of a narrower dtype; None for their own."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
