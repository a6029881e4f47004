"""Running a link again with smaller batches where the device has no memory left.

The rule: the setting marked `Halved` (windows per forward pass) is halved and the link starts
again, until it fits. A link does not change its input, so starting again is safe; what it had saved
of its work is used again only where it fits the new batches. The history records the batch size
that was used. At one window, or for a link without such a setting, the error names what else helps.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ..contexts.placement import counted_device, free_unused, is_out_of_memory
from ..contexts.ranks import size
from ..errors import ResourceError
from .settings import Settings

if TYPE_CHECKING:
    from .bound import Link


class Halved:
    """Marks a setting that may be halved: windows per forward pass, on which no result depends."""


BatchSize = Annotated[int, Field(ge=1), Halved()]
"""The type of such a setting."""


async def run_halving(step: Link[Any], ctx: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What the link's function returns, and the settings that were halved, with ``_used`` behind.

    Raises:
        ResourceError: the device has no memory left for a single window.
    """
    settings: Settings = step.settings
    while True:
        try:
            return await step.factory.run(dict(ctx), settings), _halved(step.settings, settings)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            smaller, reason = _smaller(settings) if size() == 1 else None, str(error)
            if smaller is None:
                raise _exhausted(step, settings, error) from error
        name = _name_of_halved(settings)
        warnings.warn(
            f"{step.__name__}: {counted_device() or 'the device'} has no memory left with "
            f"{name}={getattr(settings, name)}; starting again with {getattr(smaller, name)} "
            f"({reason.splitlines()[0]})",
            stacklevel=2,
        )
        settings = smaller
        free_unused()


def _name_of_halved(settings: Settings) -> str:
    """The setting that is marked; empty if there is none."""
    for name, field in type(settings).model_fields.items():
        if any(isinstance(each, Halved) for each in field.metadata):
            return name
    return ""


def _smaller(settings: Settings) -> Settings | None:
    """The settings with half as large batches; None if they cannot be halved."""
    name = _name_of_halved(settings)
    size = getattr(settings, name, None)
    if not isinstance(size, int) or size < 2:
        return None
    return settings.model_copy(update={name: size // 2})


def _halved(before: Settings, after: Settings) -> dict[str, Any]:
    name = _name_of_halved(before)
    return {} if before == after else {f"{name}_used": getattr(after, name)}


def _exhausted(step: Link[Any], settings: Settings, error: BaseException) -> ResourceError:
    name = _name_of_halved(settings)
    batch = f" with {name}={getattr(settings, name)}" if name else ""
    if size() > 1 and _smaller(settings) is not None:
        return ResourceError(
            f"{counted_device() or 'the device'} has no memory left for {step.__name__}{batch}; "
            f"batches are not halved on several ranks: lower {name} "
            f"({str(error).splitlines()[0]})"
        )
    return ResourceError(
        f"{counted_device() or 'the device'} has no memory left for {step.__name__}{batch}; use "
        f"load(activations='host'), shorter windows (calibrate(length=...)), or another device "
        f"({str(error).splitlines()[0]})"
    )
