"""The patterns of prune that leave a smaller model: whole neurons, or key/value groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard, get_args

from ..checkpoints import BitsAndBytes, Checkpoint, Quantized
from ..contexts.flow import Pruned, Scored
from ..contexts.plan import Plan
from ..engine import announce, in_thread
from ..errors import ModelError, SettingError
from ..models.hollowing import hollow_blocks
from ..models.linears import all_linears
from ..models.memory import pass_bytes
from ..models.narrowing import Narrowing, narrowing, units_of
from ..models.sizes import Kind
from ..texts import Windows
from .masking import kept_layers
from .removal import Removal, default_multiple, units_left

_SPARSITY = 0.5
_MATCHING = 0.5
# Settings of masks alone, with the values that say nobody set them.
_UNUSED = {"method": "admm", "allocation": "uniform", "polish": 0}


def takes_units(pattern: str) -> TypeGuard[Kind]:
    """Whether a pattern takes whole units out, rather than single weights."""
    return pattern in get_args(Kind)


async def hollow(
    ctx: Scored,
    *,
    pattern: Kind,
    sparsity: float | None,
    damping: float,
    matching: float | None,
    multiple: int | None,
    batch_size: int,
) -> Pruned:
    """Take the units that carry least out of every block; the settings are prune's."""
    checkpoint = ctx["checkpoint"]
    share = _MATCHING if matching is None else matching

    def work() -> tuple[Checkpoint, Removal]:
        change = _change(checkpoint, pattern, sparsity, multiple)
        removal = Removal(change, damping, share)
        smaller = hollow_blocks(
            checkpoint,
            ctx["calibration"],
            change,
            removal,
            batch_size=batch_size,
            matched=share > 0,
            announce=lambda done, total: announce("hollowing blocks", done, total),
        )
        return smaller, removal

    smaller, removal = await in_thread(work)
    change = removal.change
    errors = {name: plan.relative_error for name, plan in removal.plans.items()}
    return {
        "checkpoint": smaller,
        "plan": Plan(
            "obs", pattern, removal.plans, (change.before, change.after), kept_layers(ctx)
        ),
        "metrics": {
            f"{pattern}_before": change.before,
            f"{pattern}_after": change.after,
            "parameters_before": checkpoint.num_parameters,
            "parameters_after": smaller.num_parameters,
            "mean_relative_error": sum(errors.values()) / len(errors),
            "worst_layer": max(errors, key=errors.__getitem__),
            "worst_relative_error": max(errors.values()),
        },
    }


def _change(
    checkpoint: Checkpoint, pattern: Kind, sparsity: float | None, multiple: int | None
) -> Narrowing:
    """What the model is to become.

    Raises:
        SettingError: a size that cannot be had, with the nearest that can.
        ModelError: the config has no way to say it.
    """
    before = units_of(checkpoint, pattern)
    share = _SPARSITY if sparsity is None else sparsity
    after = units_left(pattern, before, share, multiple)
    try:
        return narrowing(checkpoint, pattern, after)
    except ModelError as error:
        step = multiple or default_multiple(pattern, before)
        legal = [size for size in range(step, before, step) if _fits(checkpoint, pattern, size)]
        nearest = min(legal, key=lambda size: abs(size - after), default=None)
        mend = (
            "no smaller one can be had"
            if nearest is None
            else f"the nearest that can be had is {nearest}: set sparsity to "
            f"{1 - nearest / before:.4g}"
        )
        raise SettingError(
            f"prune(pattern='{pattern}', sparsity={share:g}) would leave {after} of {before} "
            f"{pattern} in every block, which the model does not take ({error}); {mend}"
        ) from error


def _fits(checkpoint: Checkpoint, pattern: Kind, after: int) -> bool:
    try:
        narrowing(checkpoint, pattern, after)
    except ModelError:
        return False
    return True


def check_hollow(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse what cannot work before any work; say which settings are not used."""
    pattern = settings["pattern"]
    for name, unset in _UNUSED.items():
        if settings[name] != unset:
            raise SettingError(
                f"prune({name}={settings[name]!r}) is for masks and pattern '{pattern}' leaves "
                f"none; leave it out"
            )
    checkpoint: Checkpoint | None = ctx.get("checkpoint")
    if checkpoint is None:
        return
    for linear in all_linears(checkpoint):
        if isinstance(checkpoint.refs[linear.tensor], Quantized | BitsAndBytes):
            raise SettingError(
                f"layer '{linear.name}' is quantised, and pruning would store it as floats "
                f"again; put prune before quantize"
            )
    _change(checkpoint, pattern, settings["sparsity"], settings["multiple"])


def hollow_bytes(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    """The pass, and the tensors cut, which stay in memory until the last block is done."""
    checkpoint: Checkpoint = ctx["checkpoint"]
    windows: Windows = ctx["calibration"]
    paired = settings["matching"] != 0
    passed = pass_bytes(checkpoint, windows, settings["batch_size"], grams=True, paired=paired)
    return checkpoint.num_bytes + passed
