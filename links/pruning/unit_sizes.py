"""How many units prune leaves in every block, and whether a config can say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeGuard, get_args

from ...checkpoints import Checkpoint
from ...errors import ModelError, SettingError
from ...models.units.config_keys import Kind
from ...models.units.narrowing import Resizing, resizing, units_of
from ...models.units.remove_layers import require_alike
from .masks import require_floats

UnitPattern = Literal["neurons", "groups", "experts", "layers"]

# The share that goes where none is given, of units as of weights.
SPARSITY = 0.5
# Of neurons: quantize's own group size, so that its default still divides what is left.
MULTIPLE = 64
_FEWEST_STEPS = 8
# Settings of masks alone, with the values that say nobody set them.
_OF_MASKS = {"method": "admm", "allocation": "uniform", "polish": 0, "regrow": None}


def takes_units(pattern: str) -> TypeGuard[UnitPattern]:
    """Whether a pattern takes whole units out, rather than single weights."""
    return pattern in get_args(UnitPattern)


def wanted_size(
    checkpoint: Checkpoint, kind: Kind, sparsity: float | None, multiple: int | None
) -> Resizing:
    """What the model is to become.

    Raises:
        SettingError: a size that cannot be had, with the nearest that can.
        ModelError: the config has no way to say it.
    """
    before = units_of(checkpoint, kind)
    share = SPARSITY if sparsity is None else sparsity
    after = units_left(kind, before, share, multiple)
    try:
        return resizing(checkpoint, kind, after)
    except ModelError as error:
        step = multiple or default_multiple(kind, before)
        legal = [size for size in range(step, before, step) if _can_be(checkpoint, kind, size)]
        raise SettingError(
            f"prune(pattern='{kind}', sparsity={share:g}) would leave {after} of {before} {kind} "
            f"in every block, which the model does not take ({error}); "
            f"{_nearest(legal, after, before)}"
        ) from error


def _can_be(checkpoint: Checkpoint, kind: Kind, after: int) -> bool:
    try:
        resizing(checkpoint, kind, after)
    except ModelError:
        return False
    return True


def layers_left(checkpoint: Checkpoint, sparsity: float | None, multiple: int | None) -> int:
    """How many blocks stay.

    Raises:
        SettingError: a count that cannot be had, with the nearest that can.
        ModelError: the blocks are not all alike.
    """
    share = SPARSITY if sparsity is None else sparsity
    return units_left("layers", require_alike(checkpoint), share, multiple)


def units_left(kind: UnitPattern, before: int, sparsity: float, multiple: int | None) -> int:
    """How many of ``before`` units stay: the multiple nearest to the share asked for.

    Raises:
        SettingError: that is none of them or all; with the nearest sizes that can be had.
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
        f"prune(pattern='{kind}', sparsity={sparsity:g}): {after} of {before} {kind} would stay; "
        f"sizes are multiples of {step}, {_nearest(legal, after, before)}"
    )


def _nearest(legal: Sequence[int], after: int, before: int) -> str:
    """What to set to get the size nearest to the one that cannot be had."""
    if not legal:
        return "and no smaller one can be had"
    nearest = min(legal, key=lambda size: abs(size - after))
    return (
        f"and the nearest that can be had is {nearest}: set sparsity to {1 - nearest / before:.4g}"
    )


def default_multiple(kind: UnitPattern, before: int) -> int:
    """64 neurons, fewer where a block has few: the greatest power of two up to an eighth."""
    if kind != "neurons":
        return 1
    step = MULTIPLE
    while step > 1 and step * _FEWEST_STEPS > before:
        step //= 2
    return step


def check_units(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse what cannot work before any work."""
    pattern: UnitPattern = settings["pattern"]
    for name, unset in _OF_MASKS.items():
        if settings[name] != unset:
            raise SettingError(
                f"prune({name}={settings[name]!r}) is for masks and pattern '{pattern}' leaves "
                f"none; leave it out"
            )
    checkpoint: Checkpoint | None = ctx.get("checkpoint")
    if checkpoint is None:
        return
    require_floats(checkpoint)
    if pattern == "layers":
        layers_left(checkpoint, settings["sparsity"], settings["multiple"])
    else:
        wanted_size(checkpoint, pattern, settings["sparsity"], settings["multiple"])
