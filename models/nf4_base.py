"""Linears of a block exchanged for bitsandbytes' 4-bit ones, to train adapters on.

On a CPU with AVX512-BF16, bitsandbytes repacks 4-bit weights at the first forward in eval mode, and
what is computed or read after it can be garbage. So these linears are in train mode for good, where
that does not happen, and nothing ever reads their weights back.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from .bitsandbytes import fits_nf4, linear_4bit


def to_nf4(block: nn.Module, path: str, names: Collection[str]) -> dict[str, Tensor]:
    """Hold the named linears of a block in NF4 with double quantisation, in place.

    Args:
        path: the block's, which the names begin with. A linear of another kind, or of a shape that
            does not run everywhere (`bitsandbytes.fits_nf4`), is left as it is.

    Returns:
        Where the weights that held zeros were not zero, by name; booleans
        ``[out_features, in_features]``.

    Raises:
        MissingExtraError: bitsandbytes cannot be used here.
    """
    masks = {}
    for inner, linear in list(block.named_modules()):
        name = f"{path}.{inner}"
        if name in names and type(linear) is nn.Linear and fits_nf4(linear.weight.shape):
            mask = linear.weight.detach() != 0
            if not bool(mask.all()):
                masks[name] = mask
            block.set_submodule(inner, _in_4_bits(linear))
    return masks


def _in_4_bits(linear: nn.Linear) -> nn.Module:
    made = linear_4bit(linear.weight.detach())
    made.bias = linear.bias
    made.train()
    assert made.weight.dtype == torch.uint8
    return made
