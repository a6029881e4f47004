"""MXFP4 experts as GPT-OSS publishes them: ``*_blocks`` and ``*_scales`` in place of a 3-D weight.

A byte of a block holds two E2M1 numbers, the low bits first; 32 numbers share one scale, a power of
two. A value is their product, which float32 holds exactly, and so does bfloat16.

OCP Microscaling Formats (MX) specification 1.0, section 5.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...checkpoints import TensorRef
from ...errors import CheckpointError
from .float4 import float_scales, unpack_e2m1

BLOCKS, SCALES = "_blocks", "_scales"
"""What the parts of an expert weight are called, after its name."""


class Mxfp4Experts(TensorRef):
    """The weights of all experts of a layer: bfloat16 ``[experts, in_features, out_features]``.

    Dequantised one expert at a time, each time it loads.

    Args:
        blocks: uint8 ``[experts, out_features, groups, bytes]``.
        scales: uint8 ``[experts, out_features, groups]``.

    Raises:
        CheckpointError: parts that do not fit each other.
    """

    def __init__(self, name: str, blocks: TensorRef, scales: TensorRef) -> None:
        whole = (
            len(blocks.shape) == 4
            and blocks.shape[:-1] == scales.shape
            and blocks.dtype == scales.dtype == torch.uint8
        )
        if not whole:
            raise CheckpointError(
                f"'{name}' has {blocks.dtype} blocks {list(blocks.shape)} and {scales.dtype} "
                f"scales {list(scales.shape)}, which is not as MXFP4 is stored; fetch the folder "
                f"again"
            )
        experts, rows, groups, width = blocks.shape
        self._blocks, self._scales = blocks, scales
        self.dtype, self.shape = torch.bfloat16, (experts, groups * width * 2, rows)

    def load(self) -> Tensor:
        blocks, scales = self._blocks.load(), self._scales.load()
        weight = torch.empty(self.shape, dtype=self.dtype)
        for expert, codes, exponents in zip(weight, blocks, scales, strict=True):
            values = unpack_e2m1(codes) * float_scales(exponents).unsqueeze(2)
            expert.copy_(values.flatten(1).T)  # values: [out_features, groups, 32]
        return weight


def read_mxfp4(refs: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """A folder's tensors, with MXFP4 experts as dequantised weights.

    Raises:
        CheckpointError: parts that are missing or do not fit each other.
    """
    found = dict(refs)
    for name in refs:
        weight = name.removesuffix(BLOCKS)
        if weight == name:
            continue
        scales = found.pop(f"{weight}{SCALES}", None)
        if scales is None:
            raise CheckpointError(f"the folder lacks the scales of '{weight}'; fetch it again")
        found[weight] = Mxfp4Experts(weight, found.pop(name), scales)
    return found
