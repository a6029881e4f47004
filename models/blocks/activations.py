"""Where hidden states rest between blocks: on the device that computes, or in the machine's memory.

A pass holds the hidden states of every window before and after a block. In the machine's memory
they are moved to the device batch by batch, which costs two transfers for each batch and block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...checkpoints.devices import CPU, counts_bytes, free_and_total_bytes
from ...checkpoints.placement import current_placement
from .shared_state import carry_state

# With activations="auto": largest fraction of the device's free memory that hidden states may take.
_LARGEST_SHARE = 0.25


def resting_device(device: torch.device, num_bytes: int) -> torch.device:
    """Where hidden states of so many bytes in all rest, in a pass that computes on ``device``.

    By the ``activations`` of the placement in force: ``device``, ``host``, or for ``auto`` the host
    if they would take more than a quarter of the device's free memory.
    """
    wanted = current_placement().activations
    if wanted == "auto" and counts_bytes(device):
        free, _ = free_and_total_bytes(device)
        wanted = "device" if num_bytes <= _LARGEST_SHARE * free else "host"
    return CPU if wanted == "host" else device


def moved(states: Tensor, device: torch.device) -> Tensor:
    """Hidden states on a device, with what blocks passed on beside them."""
    return states if states.device == device else carry_state(states, states.to(device))
