"""The grids of an allocation as settings of quantize."""

from __future__ import annotations

from ...checkpoints import Checkpoint
from ...contexts.allocation import Allocation
from ...engine import changed
from ...errors import SettingError
from ...models.blocks.linears import all_linears
from .settings import BITSANDBYTES, GridOverride, QuantizeSettings

_DECIDED = ("bits", "group_size", "ignore", "overrides", "embedding_bits")


def allocated(
    settings: QuantizeSettings, checkpoint: Checkpoint, allocation: Allocation | None
) -> QuantizeSettings:
    """The settings with the grids of the current candidate; unchanged without an allocation.

    Raises:
        SettingError: a setting that the allocation decides is set, the method stores no integers,
            or the model lacks a linear of the allocation.
    """
    if allocation is None:
        return settings
    check_undecided(settings)
    candidate = allocation.current
    plain = [linear.name for linear in all_linears(checkpoint) if linear.plain]
    unknown = sorted(candidate.grids.keys() - set(plain))
    if unknown:
        raise SettingError(
            f"the allocation has a grid for layer '{unknown[0]}', which the model does not have; "
            f"put sensitivity and allocate after the links that change the model"
        )
    overrides: dict[str, GridOverride] = {
        name: {"bits": grid.bits, "group_size": grid.group_size}
        for name, grid in candidate.grids.items()
    }
    return settings.model_copy(
        update={
            "overrides": overrides,
            "ignore": tuple(name for name in plain if name not in candidate.grids),
            "embedding_bits": candidate.embedding_bits,
        }
    )


def require_settled(allocation: Allocation | None) -> None:
    """Refuse candidates among which measurements have to decide.

    Raises:
        SettingError: the allocation is one for a largest rise.
    """
    if allocation is not None and allocation.max_rise is not None:
        raise SettingError(
            f"allocate(rise={allocation.max_rise}) leaves the size to select, which measures the "
            f"rise; put quantize into the body of select, or give allocate a budget"
        )


def check_undecided(settings: QuantizeSettings) -> None:
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
    if settings.method in BITSANDBYTES or not settings.symmetric or settings.grid != "int":
        raise SettingError(
            f"quantize(method='{settings.method}', symmetric={settings.symmetric}, "
            f"grid='{settings.grid}') does not store the integers that allocate chose bits for; "
            f"use method='gptq', 'signround' or 'rtn' with symmetric=True and grid='int'"
        )
