"""Presets of the predefined chains: how much time to spend for how good a result."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

from ..engine import Chain
from ..errors import SettingError, did_you_mean
from ..texts import DataSetting
from .overrides import configure
from .predefined import CHAINS

Preset = Literal["fast", "balanced", "best"]

_FEW_WINDOWS = {
    "calibrate.windows": 16,
    "calibrate.healing_windows": 16,
    "calibrate.heldout_windows": 8,
    "calibrate.elsewhere_windows": 8,
}
PRESETS: Mapping[str, Mapping[Preset, Mapping[str, Any]]] = MappingProxyType(
    {
        "quantize-only": {
            "fast": {**_FEW_WINDOWS, "quantize.matching": 0.0},
            "balanced": {},
            "best": {"quantize.method": "signround"},
        },
        "fit": {
            "fast": {**_FEW_WINDOWS, "quantize.matching": 0.0, "allocate.variants": 1},
            "balanced": {},
            "best": {"allocate.variants": 3, "allocate.uniform": 2},
        },
        "bird-bone": {
            "fast": {**_FEW_WINDOWS, "waves.target": 0.9, "heal.epochs": 1},
            "balanced": {},
            "best": {"calibrate.healing_windows": 128, "waves.target": None, "heal.epochs": 2},
        },
    }
)
"""Settings that differ from those of the chain, by chain and preset. ``balanced`` is the chain."""


def preset_chain(
    name: str, preset: Preset, *, model: str, out: str, data: DataSetting | None = None
) -> Chain:
    """A predefined chain with the settings of a preset.

    Raises:
        SettingError: the chain has no presets, or none of that name.
    """
    if name not in PRESETS:
        raise SettingError(f"chain '{name}' has no presets; {did_you_mean(name, PRESETS)}")
    if preset not in PRESETS[name]:
        raise SettingError(
            f"chain '{name}' has no preset '{preset}'; {did_you_mean(preset, get_args(Preset))}"
        )
    make = CHAINS[name]
    chain = make(model=model, out=out) if data is None else make(model=model, out=out, data=data)
    return configure(chain, PRESETS[name][preset])
