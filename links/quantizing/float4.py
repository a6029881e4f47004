"""What goes with weights in FP4, and the units of NVFP4's scales."""

from __future__ import annotations

import math
from dataclasses import replace

from ...checkpoints import Checkpoint
from ...engine import announce
from ...errors import SettingError, SolverError
from .grids import Grids
from .settings import FLOAT4, QuantizeSettings
from .uncalibrated import chosen_linears

_REFUSED = {
    "overrides": "all its weights are on one grid; leave linears unquantised with ignore",
    "refit": "refitted scales are no numbers of 8 bits; sweeps improves the codes instead",
    "rank": "a low-rank correction is written beside integers; set rank=0",
}


def check_float4(settings: QuantizeSettings, checkpoint: Checkpoint | None) -> None:
    """Refuse what does not go with FP4 weights.

    Raises:
        SettingError: naming the setting, or the dtype of the model.
    """
    if settings.grid not in FLOAT4:
        return
    asked = f"quantize(grid='{settings.grid}'"
    if settings.method not in ("auto", "gptq", "rtn"):
        raise SettingError(
            f"{asked}, method='{settings.method}'): FP4 weights are made by gptq or rtn; set one "
            f"of them"
        )
    if not settings.symmetric:
        raise SettingError(
            f"{asked}, symmetric=False): FP4 weights have no zero points; leave symmetric at its "
            f"default"
        )
    for name, why in _REFUSED.items():
        if getattr(settings, name):
            raise SettingError(f"{asked}, {name}={getattr(settings, name)!r}): {why}")
    if checkpoint is not None and checkpoint.config.get("dtype") != "bfloat16":
        raise SettingError(
            f"{asked}): transformers computes FP4 weights in bfloat16 only, and "
            f"'{checkpoint.source}' is stored in {checkpoint.config.get('dtype')}; set "
            f"load(dtype='bfloat16')"
        )


def with_units(grids: Grids, checkpoint: Checkpoint) -> Grids:
    """The grids with the unit of every linear's scales, for NVFP4; any others unchanged.

    The linears of one module, such as q, k and v, share a unit: servers compute them as one matrix,
    which has one global scale. Reads all these weights once.

    Raises:
        SolverError: a weight that is not finite; the message names the layer.
    """
    if grids.common.scale_format != "e4m3":
        return grids
    found: dict[str, float] = {}
    linears = chosen_linears(checkpoint, grids, True)
    for done, linear in enumerate(linears, 1):
        module = linear.name.rpartition(".")[0]
        most = float(checkpoint.refs[linear.tensor].load().abs().max())
        if not math.isfinite(most):
            raise SolverError(f"layer '{linear.name}': the weight holds NaN or infinity")
        found[module] = max(found.get(module, 0.0), most)
        announce("reading the largest weights", done, len(linears))
    largest = {each.name: found[each.name.rpartition(".")[0]] for each in linears}
    return replace(grids, largest=largest)
