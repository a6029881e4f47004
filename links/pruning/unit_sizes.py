"""How many units prune leaves in every block, and whether the config can express it."""

from __future__ import annotations

from collections.abc import Sequence

from ...checkpoints import Checkpoint
from ...contexts.flow import Partial
from ...engine import changed
from ...errors import ModelError, SettingError
from ...models.units.config_keys import UnitKind
from ...models.units.narrowing import Resizing, resizing, units_of
from ...models.units.remove_layers import require_alike
from .masks import require_floats
from .settings import SPARSITY, PruneSettings, UnitPattern

# For neurons: quantize's default group size, so that it divides the width that is left.
MULTIPLE = 64
_FEWEST_STEPS = 8
# Settings for masks only.
_OF_MASKS = ("method", "allocation", "spread", "polish", "regrow")


def wanted_size(checkpoint: Checkpoint, kind: UnitKind, settings: PruneSettings) -> Resizing:
    """The change of size that the settings ask for.

    Raises:
        SettingError: an impossible size, with the nearest possible one.
        ModelError: the config cannot express it.
    """
    before = units_of(checkpoint, kind)
    sparsity, multiple = _sparsity(settings), settings.multiple
    after = units_left(kind, before, sparsity, multiple)
    try:
        return resizing(checkpoint, kind, after)
    except ModelError as error:
        step = multiple or default_multiple(kind, before)
        legal = [size for size in range(step, before, step) if _can_be(checkpoint, kind, size)]
        raise SettingError(
            f"prune(pattern='{kind}', sparsity={sparsity:g}) would leave {after} of {before} "
            f"{kind} in every block, which the model does not support ({error}); "
            f"{_nearest(legal, after, before)}"
        ) from error


def _can_be(checkpoint: Checkpoint, kind: UnitKind, after: int) -> bool:
    try:
        resizing(checkpoint, kind, after)
    except ModelError:
        return False
    return True


def layers_left(checkpoint: Checkpoint, settings: PruneSettings) -> int:
    """How many blocks are kept.

    Raises:
        SettingError: an impossible number, with the nearest possible one.
        ModelError: the blocks are not all alike.
    """
    return units_left("layers", require_alike(checkpoint), _sparsity(settings), settings.multiple)


def _sparsity(settings: PruneSettings) -> float:
    return SPARSITY if settings.sparsity is None else settings.sparsity


def units_left(kind: UnitPattern, before: int, sparsity: float, multiple: int | None) -> int:
    """How many of ``before`` units are kept: the multiple nearest to the sparsity asked for.

    Raises:
        SettingError: that is none or all of them; with the nearest possible size.
    """
    step = multiple or default_multiple(kind, before)
    after = round((1 - sparsity) * before / step) * step
    if 1 <= after < before:
        return after
    legal = range(step, before, step)
    if not legal:
        raise SettingError(
            f"prune(pattern='{kind}', multiple={step}): there are {before} {kind}, so no "
            f"smaller multiple of {step} is left; set multiple to less"
        )
    raise SettingError(
        f"prune(pattern='{kind}', sparsity={sparsity:g}): {after} of {before} {kind} would be "
        f"left; sizes are multiples of {step}, {_nearest(legal, after, before)}"
    )


def _nearest(legal: Sequence[int], after: int, before: int) -> str:
    """The setting for the possible size nearest to the impossible one."""
    if not legal:
        return "and no smaller size is possible"
    nearest = min(legal, key=lambda size: abs(size - after))
    return f"and the nearest possible one is {nearest}: set sparsity to {1 - nearest / before:.4g}"


def default_multiple(kind: UnitPattern, before: int) -> int:
    """64 neurons, less in narrow blocks: the largest power of two up to an eighth of the width."""
    if kind != "neurons":
        return 1
    step = MULTIPLE
    while step > 1 and step * _FEWEST_STEPS > before:
        step //= 2
    return step


def check_units(ctx: Partial, settings: PruneSettings, pattern: UnitPattern) -> None:
    """Refuse settings for masks, and sizes the model cannot have.

    Raises:
        SettingError: naming the setting, or the nearest possible size.
        ModelError: the config cannot express it.
    """
    for name, value in changed(settings).items():
        if name in _OF_MASKS:
            raise SettingError(
                f"prune({name}={value!r}) is for masks, and pattern '{pattern}' leaves none; "
                f"leave it out"
            )
    checkpoint = ctx.get("checkpoint")
    if checkpoint is None:
        return
    require_floats(checkpoint)
    if pattern == "layers":
        layers_left(checkpoint, settings)
    else:
        wanted_size(checkpoint, pattern, settings)
