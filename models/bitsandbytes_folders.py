"""Reading what bitsandbytes stores: its codes back as references to weights.

The values are those it computes with: a 4-bit weight comes in the dtype its folder states, as
`bitsandbytes.functional.dequantize_4bit` makes it, bit for bit. They are made here from the stored
tensors, so bitsandbytes is not needed, nothing a forward has repacked is ever read, and no size a
file states reaches compiled code unchecked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..checkpoints import TensorRef
from ..errors import CheckpointError
from .refusals import reason

_STATE = ".quant_state.bitsandbytes__"
_INT8_STEPS = 127
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)


class FourBit(TensorRef):
    """A weight as two 4-bit codes a byte, in blocks of one scale; scales may be 8-bit codes too.

    QLoRA, https://arxiv.org/abs/2305.14314, section 3. Its value is a table's entry, times the
    block's scale, in float32, then rounded to the dtype the folder states.
    """

    def __init__(self, name: str, parts: Mapping[str, TensorRef], state: TensorRef) -> None:
        self._name, self._parts = name, parts
        try:
            stated = json.loads(bytes(state.load().flatten().tolist()).decode())
            self.shape = tuple(int(size) for size in stated["shape"])
            self._stored_dtype: torch.dtype = getattr(torch, stated["dtype"])
            self._block = int(stated["blocksize"])
            self._nested_block = int(stated.get("nested_blocksize") or 0)
            self._offset = float(stated.get("nested_offset") or 0.0)
        except _UNREADABLE as error:
            raise CheckpointError(
                f"the state of '{name}' cannot be read: {reason(error)}; fetch the folder again"
            ) from error
        self.dtype = torch.float32
        self._check()

    def load(self) -> Tensor:
        codes = self._parts["codes"].load().flatten()
        nibbles = torch.stack((codes >> 4, codes & 0xF), dim=1).flatten()[: self.num_values]
        scales = self._scales().repeat_interleave(self._block)[: self.num_values]
        values = self._parts["quant_map"].load().float()[nibbles.int()] * scales
        return values.to(self._stored_dtype).float().reshape(self.shape)

    def _scales(self) -> Tensor:
        """float32 ``[blocks]``."""
        stored = self._parts["absmax"].load().flatten()
        if not self._nested_block:
            return stored.float()
        table = self._parts["nested_quant_map"].load().float()
        outer = self._parts["nested_absmax"].load().float().flatten()
        spread = outer.repeat_interleave(self._nested_block)[: stored.numel()]
        return table[stored.int()] * spread + self._offset

    def _check(self) -> None:
        """See that every part is as large as the others and the statement say."""
        blocks = math.ceil(self.num_values / self._block) if self._block > 0 else 0
        wanted = {"codes": (self.num_values + 1) // 2, "absmax": blocks, "quant_map": 16}
        if self._nested_block > 0:
            nested = math.ceil(blocks / self._nested_block)
            wanted |= {"nested_absmax": nested, "nested_quant_map": 256}
        for part, size in wanted.items():
            found = self._parts[part].num_values if part in self._parts else 0
            if found != size or size == 0:
                raise CheckpointError(
                    f"'{self._name}' has {found} values of {part.replace('_', ' ')}, where "
                    f"{size} belong to shape {list(self.shape)}; fetch the folder again"
                )
        coded = ("codes", "absmax") if self._nested_block > 0 else ("codes",)
        floats = self._stored_dtype in (torch.float32, torch.float16, torch.bfloat16)
        if not floats or any(self._parts[part].dtype != torch.uint8 for part in coded):
            raise CheckpointError(
                f"'{self._name}' is not stored as bitsandbytes does; fetch the folder again"
            )


class EightBit(TensorRef):
    """A weight as int8 codes with one scale a row; https://arxiv.org/abs/2208.07339."""

    def __init__(self, name: str, codes: TensorRef, scales: TensorRef) -> None:
        if codes.dtype != torch.int8 or len(codes.shape) != 2 or scales.shape != codes.shape[:1]:
            raise CheckpointError(
                f"'{name}' has {codes.dtype} codes {list(codes.shape)} and scales "
                f"{list(scales.shape)}, which is not as bitsandbytes stores them; "
                f"fetch the folder again"
            )
        self._codes, self._scales = codes, scales
        self.dtype, self.shape = torch.float32, codes.shape

    def load(self) -> Tensor:
        scales = self._scales.load().float() / _INT8_STEPS
        return self._codes.load().float() * scales.unsqueeze(1)


def read_bitsandbytes(refs: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """A folder's tensors with those of bitsandbytes as the weights they stand for.

    Args:
        refs: the tensors as the folder names them.

    Raises:
        CheckpointError: parts that are missing or do not fit each other.
    """
    found = dict(refs)
    for name in refs:
        weight, is_state, _ = name.partition(_STATE)
        if is_state:
            parts = {part: found.pop(f"{weight}.{part}") for part in _parts_of(refs, weight)}
            parts["codes"] = _held(refs, weight)
            found[weight] = FourBit(weight, parts, found.pop(name))
        elif name.endswith(".SCB"):
            weight = f"{name.removesuffix('.SCB')}.weight"
            found[weight] = EightBit(weight, _held(refs, weight), found.pop(name))
            found.pop(f"{weight}_format", None)
    return found


def _parts_of(refs: Mapping[str, TensorRef], weight: str) -> list[str]:
    parts = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
    return [part for part in parts if f"{weight}.{part}" in refs]


def _held(refs: Mapping[str, TensorRef], weight: str) -> TensorRef:
    if weight not in refs:
        raise CheckpointError(f"the folder lacks the codes of '{weight}'; fetch it again")
    return refs[weight]
