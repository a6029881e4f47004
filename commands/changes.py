"""Settings of a chain changed by options: ``--set``, and options that stand for one setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import SettingError

if TYPE_CHECKING:
    from ..engine import Chain

_SETTINGS = {
    "target": "waves.target",
    "stop-loss": "waves.stop_loss",
    "bits": "quantize.bits",
    "elsewhere": "calibrate.elsewhere",
    "bytes": "allocate.bytes",
    "ratio": "allocate.ratio",
    "average-bits": "allocate.bits",
    "memory": "allocate.memory",
    "context": "allocate.context",
    "speed": "allocate.speed",
    "rise": "allocate.rise",
    "runtime": "allocate.runtimes",
    "time": "heal.time",
    "keep-unused": "load.keep_unused",
    "device": "load.device",
    "activations": "load.activations",
    "precision": "load.precision",
}


def configured(
    chain: Chain, assignments: Sequence[str], options: Mapping[str, Any], *, force: bool
) -> Chain:
    """The chain with the given options applied; its output is known to be writable.

    Args:
        assignments: of the form ``link.setting=value``.
        options: option names without dashes in front to values; None for options not given.
        force: replace an output that birdbone did not write.

    Raises:
        SettingError: an unknown or repeated setting, or an output that may not be replaced.
    """
    from ..chains import configure, parse_assignment
    from ..links.saving.target import check_output
    from ..reports.chains import save_links

    changes = _changes_of(chain, options)
    if force:
        changes["save.force"] = True
    for text in assignments:
        key, value = parse_assignment(text)
        if key in changes:
            raise SettingError(f"{key} is set twice; set it once")
        changes[key] = value
    changed = configure(chain, changes)
    for each in save_links(changed):
        check_output(each.settings.path, each.settings.format, each.settings.force, tries=False)
    return changed


def _changes_of(chain: Chain, options: Mapping[str, Any]) -> dict[str, Any]:
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
