"""How heal's methods differ: which settings each uses, and what suits it where none is given."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch

from ...errors import DataError
from ...texts import Windows

Method = Literal["blocks", "lora", "qlora", "full"]
Precision = Literal["float32", "bfloat16"]

_STEPPED: Mapping[str, Any] = MappingProxyType(
    {"batch_size": 1, "micro_batch_size": 1, "precision": "float32", "kl_weight": 1.0}
)
_ADAPTED: Mapping[str, Any] = MappingProxyType(
    {**_STEPPED, "epochs": 2, "learning_rate": 1e-3, "rank": 16, "alpha": 32.0}
)
SUITED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "blocks": {
            "epochs": 2,
            "learning_rate": 2e-3,
            "batch_size": 1,
            "precision": "float32",
            "target": "dense",
        },
        "lora": {**_ADAPTED, "gradient_checkpointing": False},
        "qlora": {**_ADAPTED, "gradient_checkpointing": True},
        "full": {**_STEPPED, "epochs": 2, "learning_rate": 3e-4, "gradient_checkpointing": False},
    }
)
"""By method: the settings it uses beside the share kept out and the seed, and what suits it."""


def chosen(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the method uses, as given or as suits it."""
    suited = SUITED[settings["method"]]
    return {
        name: value if settings.get(name) is None else settings[name]
        for name, value in suited.items()
    }


def warn_of_unused(settings: Mapping[str, Any]) -> None:
    """Say which settings were given that the method does not use."""
    known = {name for suited in SUITED.values() for name in suited}
    for name in sorted(known - SUITED[settings["method"]].keys()):
        if settings[name] is not None:
            users = [f"'{method}'" for method, suited in SUITED.items() if name in suited]
            warnings.warn(
                f"heal({name}={settings[name]!r}) is not used by method '{settings['method']}', "
                f"only by {', '.join(users)}",
                stacklevel=3,
            )


def autocast_dtype(precision: Precision) -> torch.dtype | None:
    """The narrow dtype that products are computed in; None for float32."""
    return torch.bfloat16 if precision == "bfloat16" else None


def num_heldout(windows: Windows, share: float) -> int:
    """How many of the last windows judge; at least one, and at least one is left to train on.

    Raises:
        DataError: there are not enough.
    """
    heldout = math.ceil(share * windows.num_windows)
    if heldout < windows.num_windows:
        return heldout
    raise DataError(
        f"healing text '{windows.text}' has {windows.num_windows} windows and "
        f"heldout_share={share} keeps out {heldout}, so none is left to train on; give more "
        f"windows or lower the share"
    )
