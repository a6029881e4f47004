"""The grids of an allocation as settings of quantize."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ...checkpoints import Checkpoint
from ...contexts.allocation import Allocation, Candidate
from ...engine import changed
from ...errors import GateError, SettingError
from ...models.blocks.embeddings import table_names
from ...models.blocks.linears import all_linears
from .settings import BITSANDBYTES, GridOverride, QuantizeSettings

_DECIDED = (
    *("bits", "group_size", "ignore", "overrides"),
    *("embedding_bits", "embedding_grid", "head_grid"),
)


def allocated(
    settings: QuantizeSettings, checkpoint: Checkpoint, allocation: Allocation | None
) -> QuantizeSettings:
    """The settings with the grids of the current candidate; unchanged without an allocation.

    Raises:
        SettingError: a setting that the allocation decides is set, the method stores no integers,
            the model lacks a linear of the allocation, or there is none and it is asked for.
    """
    if allocation is None:
        if settings.grid == "allocated":
            raise SettingError(
                "quantize(grid='allocated') needs an allocation; put allocate before it, or set "
                "the grid"
            )
        return settings
    check_undecided(settings, allocation)
    candidate, is_gguf = allocation.current, allocation.format == "gguf"
    every = all_linears(checkpoint)
    plain = [each.name for each in every if (each.has_own_tensor if is_gguf else each.plain)]
    beside = [name.removesuffix(".weight") for name in table_names(checkpoint)] if is_gguf else []
    unknown = sorted(candidate.grids.keys() - {*plain, *beside})
    if unknown:
        raise SettingError(
            f"the allocation has a grid for layer '{unknown[0]}', which the model does not have; "
            f"put sensitivity and allocate after the links that change the model"
        )
    left = tuple(name for name in plain if name not in candidate.grids)
    if is_gguf:
        return settings.model_copy(update={"ignore": left, **_types(candidate, beside)})
    experts = sorted({f"{each.tensor}*" for each in every if each.apart})
    overrides: dict[str, GridOverride] = {
        name: {"bits": grid.bits, "group_size": grid.group_size}
        for name, grid in candidate.grids.items()
    }
    return settings.model_copy(
        update={
            "grid": "int",
            "overrides": overrides,
            "ignore": (*left, *experts),
            "embedding_bits": candidate.embedding_bits,
        }
    )


def _types(candidate: Candidate, beside: Sequence[str]) -> dict[str, Any]:
    """The settings of ggml types: of the linears, and of embedding and head by their names."""
    types = {name: grid.ggml_type for name, grid in candidate.grids.items()}
    linears = {name: kind for name, kind in types.items() if name not in beside}
    return {
        "grid": Counter(linears.values()).most_common(1)[0][0],
        "overrides": {name: {"grid": kind} for name, kind in linears.items()},
        "embedding_grid": types.get(beside[0]) if beside else None,
        "head_grid": types.get(beside[1]) if len(beside) > 1 else None,
    }


def require_settled(allocation: Allocation | None) -> None:
    """Refuse candidates among which measurements have to decide, or that are too slow.

    Raises:
        SettingError: the allocation is one for a largest rise.
        GateError: no candidate reaches a budget of speed.
    """
    if allocation is None:
        return
    if allocation.too_slow is not None:
        raise GateError(allocation.too_slow)
    if allocation.max_rise is not None:
        raise SettingError(
            f"allocate(rise={allocation.max_rise}) leaves the size to select, which measures the "
            f"rise; put quantize into the body of select, or give allocate a budget"
        )


def check_undecided(settings: QuantizeSettings, allocation: Allocation | None = None) -> None:
    """Refuse settings that contradict an allocation.

    Raises:
        SettingError: naming the setting.
    """
    given = changed(settings)
    if given.get("group_size") == "auto":
        del given["group_size"]  # decides nothing, and passes checks made before there are grids
    for name in _DECIDED:
        if name in given:
            raise SettingError(
                f"quantize({name}={given[name]!r}) is decided by allocate; leave it unset, or "
                f"remove allocate"
            )
    fixed = settings.grid not in ("int", "allocated")
    if settings.method in BITSANDBYTES or not settings.symmetric or fixed:
        raise SettingError(
            f"quantize(method='{settings.method}', symmetric={settings.symmetric}, "
            f"grid='{settings.grid}') does not store the integers that allocate chose bits for; "
            f"use method='gptq', 'signround' or 'rtn' with symmetric=True and grid='int'"
        )
    if allocation is not None and allocation.format == "gguf":
        for name in ("method", "rank"):
            if getattr(settings, name) not in ("auto", "gptq", "rtn", 0):
                raise SettingError(
                    f"quantize({name}={getattr(settings, name)!r}) needs packed integers, and the "
                    f"ggml types of a GGUF file were allocated; use method='gptq' or 'rtn', rank=0"
                )
