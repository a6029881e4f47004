"""The budget of an allocation: one of bytes, a fraction of the original, or bits per parameter."""

from __future__ import annotations

import re
from typing import Any

from ...checkpoints import Checkpoint
from ...errors import SettingError
from ..saving.target import is_file_name

DEFAULT_RATIO = 0.3

_SIZE = re.compile(r"\s*(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[kKMGT]?i?)B?\s*")
_UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"k": 2**10, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def read_bytes(value: Any) -> Any:
    """A size such as ``80MB``, ``1.5 GB`` or ``75 MiB`` in bytes; other types are returned as is.

    Raises:
        ValueError: text that is no size.
    """
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value)
    unit = found["unit"] if found else ""
    if found is None or unit == "i":
        raise ValueError(f"'{value}' is not a size; write one such as 80MB, 1.5GB or 75MiB")
    factor = _BINARY[unit[0]] if unit.endswith("i") else _UNITS[unit]
    return round(float(found["number"]) * factor)


def budget_bytes(
    checkpoint: Checkpoint,
    original_bytes: int,
    *,
    num_bytes: int | None,
    ratio: float | None,
    bits: float | None,
) -> int:
    """The budget in bytes of weight files.

    Args:
        original_bytes: weight files of the model as it is.
        bits: bits per parameter, of everything that is stored.

    Raises:
        SettingError: the budget is not below the original.
    """
    if num_bytes is not None:
        budget, words = num_bytes, f"bytes={num_bytes:,}"
    elif bits is not None:
        budget, words = int(bits * checkpoint.num_parameters / 8), f"bits={bits}"
    else:
        ratio = DEFAULT_RATIO if ratio is None else ratio
        budget, words = int(ratio * original_bytes), f"ratio={ratio}"
    if budget >= original_bytes:
        raise SettingError(
            f"allocate({words}) allows {budget:,} bytes, and the weight files of the model take "
            f"{original_bytes:,} as they are; give a smaller budget"
        )
    return budget


def check_one_budget(**budgets: Any) -> None:
    """Refuse several budgets at once.

    Raises:
        SettingError: more than one is given.
    """
    given = [f"{name}={value}" for name, value in budgets.items() if value is not None]
    if len(given) > 1:
        raise SettingError(
            f"allocate({', '.join(given)}) states {len(given)} budgets; give one of them"
        )


def check_folder(out: str) -> None:
    """Refuse an output whose size is not predicted.

    Raises:
        SettingError: it is a GGUF file.
    """
    if is_file_name(out):
        raise SettingError(
            f"the budget is one of a folder of safetensors files, and '{out}' is a GGUF file, "
            f"whose types have other sizes; give a folder, with runtime llama.cpp, and export it"
        )
