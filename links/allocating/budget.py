"""The budget of an allocation: bytes, or what is turned into bytes, or speed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ...checkpoints import Checkpoint
from ...contexts.sensitivity import QuantizedFormat
from ...errors import SettingError
from ...models.blocks.config import context_length
from ...models.blocks.device import stored_dtype
from ...models.blocks.embeddings import table_names
from ...models.planning.kv_cache import kv_cache_bytes
from ...models.planning.stored_bytes import stored_bytes

DEFAULT_RATIO = 0.3

CONTEXT = 4096
"""Tokens of the KV cache that a budget of memory counts by default."""

_HALF = 2  # bytes of a value of llama.cpp's cache

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


def read_ratio(value: Any) -> Any:
    """A ratio such as ``1.5x`` as a number; other types are returned as they are.

    Raises:
        ValueError: text that is no ratio.
    """
    if not isinstance(value, str):
        return value
    try:
        return float(value.strip().removesuffix("x"))
    except ValueError:
        raise ValueError(f"'{value}' is not a ratio; write one such as 1.5 or 1.5x") from None


def budget_bytes(
    checkpoint: Checkpoint,
    original_bytes: int,
    *,
    num_bytes: int | None,
    ratio: float | None,
    bits: float | None,
    memory: int | None = None,
    cache_bytes: int = 0,
) -> int:
    """The budget in bytes of weight files.

    Args:
        original_bytes: weight files of the model as it is.
        bits: bits per parameter, of everything that is stored.
        memory: bytes of weights and KV cache together.
        cache_bytes: what the cache takes of ``memory``.

    Raises:
        SettingError: the budget is not below the original.
    """
    if num_bytes is not None:
        budget, words = num_bytes, f"bytes={num_bytes:,}"
    elif memory is not None:
        budget, words = memory - cache_bytes, f"memory={memory:,}"
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


def cache_bytes(
    checkpoint: Checkpoint, memory: int, context: int | None, format: QuantizedFormat | None
) -> int:
    """Bytes of the KV cache of ``context`` tokens, in float16 for a GGUF file, else as stored.

    Args:
        memory: what weights and cache may take together.
        context: by default `CONTEXT`, or as many tokens as the model has positions.

    Raises:
        SettingError: the cache alone takes all of the memory, the model has fewer positions, or
            the cache of its layers is not known.
    """
    positions = context_length(checkpoint) or math.inf
    tokens = int(min(CONTEXT, positions)) if context is None else context
    if tokens > positions:
        raise SettingError(
            f"allocate(context={tokens}): the model has {positions} positions; set context to "
            f"{positions} or less"
        )
    embedding = next(iter(table_names(checkpoint)))
    stored = stored_dtype(checkpoint, checkpoint.refs[embedding]).itemsize
    found = kv_cache_bytes(checkpoint, tokens, _HALF if format == "gguf" else stored)
    if found >= memory:
        raise SettingError(
            f"allocate(memory={memory:,}): the KV cache of {tokens:,} tokens alone takes "
            f"{found:,} bytes; give more memory or a shorter context"
        )
    return found


def unquantised_bytes(checkpoint: Checkpoint, format: QuantizedFormat | None) -> int:
    """Bytes of the model as it is: of its weight files, or of a GGUF file with plain values.

    Args:
        format: what it is to be saved as; None if that is not known yet.
    """
    if format != "gguf":
        return stored_bytes(checkpoint)
    from ...formats.gguf_size import gguf_bytes  # needs the extra gguf

    wide = any(stored_dtype(checkpoint, r).itemsize > 2 for r in checkpoint.refs.values())
    return gguf_bytes(checkpoint, kind="f32" if wide else "f16")


def check_format(given: Mapping[str, Any], format: QuantizedFormat) -> None:
    """Refuse settings of allocate that the format of the sensitivity does not have.

    Args:
        given: the settings that are not left at their defaults.

    Raises:
        SettingError: naming the setting.
    """
    if "speed" in given and format != "gguf":
        raise SettingError(
            f"allocate(speed={given['speed']:g}) is measured in llama.cpp, which runs GGUF files; "
            f"give a .gguf file as output, with sensitivity(format='gguf'); transformers computes "
            f"in floating point, where fewer bits are not faster and removing neurons is"
        )
    if format == "gguf":
        for name in ("group_sizes", "embedding_bits"):
            if name in given:
                raise SettingError(
                    f"allocate({name}={given[name]!r}) is not one of a GGUF file, whose types fix "
                    f"it; set types, such as types=('q4_0', 'q8_0')"
                )
        others = [name for name in given.get("runtimes", ()) if name != "llama.cpp"]
        if others:
            raise SettingError(
                f"allocate(runtimes={list(given['runtimes'])}): {others[0]} was not seen to load a "
                f"GGUF file; give llama.cpp alone, or a folder as output"
            )
    elif "types" in given:
        raise SettingError(
            f"allocate(types={list(given['types'])}) are those of a GGUF file; give one as output, "
            f"with sensitivity(format='gguf'), or set allowed_bits and group_sizes"
        )
