"""bitsandbytes NF4 and LLM.int8: dequantised values, writing a folder, and reading one.

A folder is quantised from a fresh load and saved before any forward pass: on CPUs with AVX512-BF16
the first forward pass repacks 4-bit weights in place, and weights saved or dequantised after it are
wrong. Everything happens on the CPU, so that the measured and the saved weights are the same.

Version 0.50.2 dequantises on CPUs as if no block of 64 crossed the end of a row. A layer whose
width is not a multiple of 64 therefore computes other values than on CUDA; with AVX512-BF16 it
cannot run, nor can one whose height is not a multiple of 32. NF4 is refused for both.

Reading does not need bitsandbytes: 4-bit weights are dequantised here from the stored tensors, bit
for bit as by `bitsandbytes.functional.dequantize_4bit`, in the dtype the folder states. No size
stated in a file reaches compiled code unchecked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from ...checkpoints import BitsAndBytes, TensorRef
from ...checkpoints.coded import BitsAndBytesKind
from ...errors import CheckpointError, MissingExtraError, SettingError
from ..blocks.progress_bars import quietly
from ..blocks.transformers_errors import reason

_NF4_BLOCK, _NF4_ROWS = 64, 32
_INT8_STEPS = 127


def handed_over(ref: TensorRef, kind: BitsAndBytesKind) -> BitsAndBytes:
    """A weight that bitsandbytes quantises when the model is saved, with its dequantised values.

    Raises:
        SettingError, MissingExtraError: as `nf4_values` does.
    """
    weight = ref.load()
    if kind == "llm.int8":
        return BitsAndBytes(ref, int8_values(weight), kind=kind)
    return BitsAndBytes(ref, nf4_values(weight, double=kind == "nf4"), kind=kind)


def nf4_values(weight: Tensor, *, double: bool = True) -> Tensor:
    """The weight quantised to NF4 and dequantised, in its dtype and on its device.

    QLoRA, https://arxiv.org/abs/2305.14314, section 3: blocks of 64; with ``double`` quantisation
    their scales are 8-bit.

    Raises:
        SettingError: a shape that does not run everywhere, see `check_nf4_shape`.
        MissingExtraError: bitsandbytes cannot be used here.
    """
    check_nf4_shape(weight.shape)
    functional = _functional()
    codes, state = functional.quantize_4bit(
        weight.detach().cpu().contiguous(), compress_statistics=double, quant_type="nf4"
    )
    values: Tensor = functional.dequantize_4bit(codes, state)
    return values.to(weight.device, weight.dtype)


def fits_nf4(shape: Sequence[int]) -> bool:
    """Whether bitsandbytes runs a shape ``[out_features, in_features]`` correctly on every CPU."""
    rows, width = shape
    return width % _NF4_BLOCK == 0 and rows % _NF4_ROWS == 0


def check_nf4_shape(shape: Sequence[int]) -> None:
    """Check a shape ``[out_features, in_features]`` with `fits_nf4`.

    Raises:
        SettingError: rows are not a multiple of 32, or columns not of 64.
    """
    if not fits_nf4(shape):
        rows, width = shape
        raise SettingError(
            f"nf4 cannot hold shape {[rows, width]}: bitsandbytes computes wrongly on CPUs unless "
            f"{_NF4_ROWS} divides the rows and {_NF4_BLOCK} the columns; use method='llm.int8', or "
            f"integer codes (method='rtn')"
        )


def int8_values(weight: Tensor) -> Tensor:
    """The weight ``[out_features, in_features]`` quantised by LLM.int8 and dequantised.

    One scale per row, https://arxiv.org/abs/2208.07339. Its quantisation of activations is not
    modelled.

    Raises:
        MissingExtraError: bitsandbytes cannot be used here.
    """
    half = weight.detach().cpu().contiguous().to(torch.float16)
    codes, scales, _ = _functional().int8_vectorwise_quant(half)
    values: Tensor = codes.float() * (scales.float().unsqueeze(1) / _INT8_STEPS)
    return values.to(weight.device, weight.dtype)


def linear_4bit(weight: Tensor) -> nn.Linear:
    """A linear without bias with a weight ``[out_features, in_features]`` in NF4.

    Double quantisation, on the weight's device; computes in the dtype of its inputs.

    Raises:
        MissingExtraError: bitsandbytes cannot be used here.
    """
    _functional()
    from bitsandbytes.nn import modules

    rows, cols = weight.shape
    make: Any = modules.Linear4bit
    linear = make(cols, rows, bias=False, quant_type="nf4", device="meta")
    linear.weight = modules.Params4bit(
        weight.cpu().contiguous(),
        requires_grad=False,
        compress_statistics=True,
        quant_type="nf4",
        module=linear,
    )
    placed: nn.Linear = linear.to(weight.device)
    return placed


def quantize_folder(
    dense: Path,
    folder: Path,
    *,
    kind: BitsAndBytesKind,
    skipped: Sequence[str],
    dtype: torch.dtype,
    max_shard_bytes: int,
    trust_remote_code: bool = False,
) -> None:
    """Load a dense folder quantised and save it, weights and config, before any forward.

    Args:
        skipped: paths of the linears that are not quantised.
        dtype: dtype of unquantised weights, and compute dtype of 4-bit ones.

    Raises:
        MissingExtraError: bitsandbytes cannot be used here.
    """
    _functional()
    with quietly():
        model = AutoModelForCausalLM.from_pretrained(
            dense,
            dtype=dtype,
            device_map="cpu",
            quantization_config=loading_config(kind, skipped, dtype),
            trust_remote_code=trust_remote_code,
            local_files_only=True,
        )
        model.save_pretrained(folder, max_shard_size=max_shard_bytes)


def loading_config(
    kind: BitsAndBytesKind, skipped: Sequence[str], dtype: torch.dtype
) -> BitsAndBytesConfig:
    """The settings with which transformers quantises a dense folder while it loads it.

    Args:
        skipped: paths of the linears that are not quantised.
        dtype: compute dtype of 4-bit weights.
    """
    if kind == "llm.int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(skipped))
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=kind == "nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(skipped),
    )


def _functional() -> ModuleType:
    """bitsandbytes.functional, imported lazily because it searches for CUDA libraries."""
    try:
        from bitsandbytes import functional
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingExtraError(
            f"bitsandbytes cannot be used here ({error}); install birdbone[bitsandbytes], or "
            f"choose another quantisation method"
        ) from error
    return functional


_STATE = ".quant_state.bitsandbytes__"
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)


class FourBit(TensorRef):
    """A 4-bit weight: two integer codes per byte, one scale per block; scales may be 8-bit.

    QLoRA, https://arxiv.org/abs/2305.14314, section 3. A value is the table entry of its code times
    the block's scale, in float32, rounded to the dtype the folder states.
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
        """Check the size of every part against the stated shape."""
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
    """An int8 weight with one scale per row, https://arxiv.org/abs/2208.07339."""

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
    """A folder's tensors, with those of bitsandbytes as dequantised weights.

    Args:
        refs: tensors by their names in the folder.

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
