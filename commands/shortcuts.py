"""Options of ``birdbone run`` that set one setting of one link."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import SettingError

if TYPE_CHECKING:
    from ..engine import Chain

_SETTINGS = {
    "target": "waves.target",
    "stop-loss": "waves.stop_loss",
    "bits": "quantize.bits",
    "elsewhere": "calibrate.elsewhere",
    "keep-unused": "load.keep_unused",
}


def changes_of(chain: Chain, options: Mapping[str, Any]) -> dict[str, Any]:
    """``link.setting`` to value, for each option that was given.

    Raises:
        SettingError: the chain has no such link.
    """
    from ..reports.chains import each_link

    names = [getattr(each, "__name__", "") for each in each_link(chain)]
    given = {option: value for option, value in options.items() if value is not None}
    for option in given:
        link = _SETTINGS[option].split(".")[0]
        if link not in names:
            raise SettingError(
                f"--{option} sets {_SETTINGS[option]}, but chain '{chain.__name__}' has no {link}; "
                f"use bird-bone, or a recipe that contains {link}"
            )
    return {_SETTINGS[option]: value for option, value in given.items()}
