"""bitsandbytes NF4 and LLM.int8: the values they compute with, and a folder of theirs on disk.

A folder is quantised from a fresh load and saved before any forward: on CPUs with AVX512-BF16 the
first forward repacks 4-bit weights in place, and whatever is saved or dequantised after it is
garbage. Everything happens on the CPU, so that what was measured and what is saved are the same.

Version 0.50.2 dequantises on CPUs as if no block of 64 reached over the end of a row, so a layer
whose width 64 does not divide computes something else there than on CUDA; with AVX512-BF16 it, and
one whose height 32 does not divide, cannot compute at all. NF4 is refused for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from ..checkpoints import BitsAndBytes, TensorRef
from ..checkpoints.tensors import BitsAndBytesKind
from ..errors import MissingExtraError, SettingError

_NF4_BLOCK, _NF4_ROWS = 64, 32
_INT8_STEPS = 127


def handed_over(ref: TensorRef, kind: BitsAndBytesKind) -> BitsAndBytes:
    """A weight with the values bitsandbytes will compute with, which it makes when it is saved.

    Raises:
        SettingError, MissingExtraError: as `nf4_values` does.
    """
    weight = ref.load()
    if kind == "llm.int8":
        return BitsAndBytes(ref, int8_values(weight), kind=kind)
    return BitsAndBytes(ref, nf4_values(weight, double=kind == "nf4"), kind=kind)


def nf4_values(weight: Tensor, *, double: bool = True) -> Tensor:
    """What NF4 makes of a weight, in the weight's own dtype and place.

    QLoRA, https://arxiv.org/abs/2305.14314, section 3: blocks of 64, their scales in 8 bits where
    quantisation is ``double``.

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
    """Whether bitsandbytes gets a shape ``[out_features, in_features]`` right on every CPU."""
    rows, width = shape
    return width % _NF4_BLOCK == 0 and rows % _NF4_ROWS == 0


def check_nf4_shape(shape: Sequence[int]) -> None:
    """Refuse a shape ``[out_features, in_features]`` that bitsandbytes gets wrong on some CPUs.

    Raises:
        SettingError: 32 does not divide the rows, or 64 not the columns.
    """
    if not fits_nf4(shape):
        rows, width = shape
        raise SettingError(
            f"nf4 cannot hold shape {[rows, width]}: bitsandbytes computes wrongly on CPUs unless "
            f"{_NF4_ROWS} divides the rows and {_NF4_BLOCK} the columns; use method='llm.int8', or "
            f"integer codes (method='rtn')"
        )


def int8_values(weight: Tensor) -> Tensor:
    """What LLM.int8 makes of a weight ``[out_features, in_features]``, one scale a row.

    https://arxiv.org/abs/2208.07339. The activations, which it quantises too, are not modelled.

    Raises:
        MissingExtraError: bitsandbytes cannot be used here.
    """
    half = weight.detach().cpu().contiguous().to(torch.float16)
    codes, scales, _ = _functional().int8_vectorwise_quant(half)
    values: Tensor = codes.float() * (scales.float().unsqueeze(1) / _INT8_STEPS)
    return values.to(weight.device, weight.dtype)


def linear_4bit(weight: Tensor) -> nn.Linear:
    """A linear without bias that holds a weight ``[out_features, in_features]`` in NF4.

    With double quantisation, on the weight's device, computing in the dtype of its inputs.

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
        skipped: paths of the linears to leave alone.
        dtype: of what stays dense, and what 4-bit weights compute in.

    Raises:
        MissingExtraError: bitsandbytes cannot be used here.
    """
    _functional()
    with _no_bars():
        model = AutoModelForCausalLM.from_pretrained(
            dense,
            dtype=dtype,
            device_map="cpu",
            quantization_config=_config(kind, skipped, dtype),
            trust_remote_code=trust_remote_code,
            local_files_only=True,
        )
        model.save_pretrained(folder, max_shard_size=max_shard_bytes)


def _config(
    kind: BitsAndBytesKind, skipped: Sequence[str], dtype: torch.dtype
) -> BitsAndBytesConfig:
    if kind == "llm.int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(skipped))
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=kind == "nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(skipped),
    )


@contextmanager
def _no_bars() -> Iterator[None]:
    """No progress bars from transformers: ours are drawn by middleware, or not at all."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _functional() -> ModuleType:
    """bitsandbytes.functional, imported when first needed: it looks for CUDA libraries."""
    try:
        from bitsandbytes import functional
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingExtraError(
            f"bitsandbytes cannot be used here ({error}); run 'pip install bitsandbytes', "
            f"or choose another quantisation method"
        ) from error
    return functional
