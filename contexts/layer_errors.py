"""Output errors of linear layers as figures of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ERRORS = "relative_errors"
"""The metric that holds the error of each layer by name."""


def error_metrics(errors: Mapping[str, float]) -> dict[str, Any]:
    """The mean error, the worst layer, and all errors; nothing if there are none.

    Args:
        errors: by name of the layer, squared output error on the calibration inputs over the
            squared output.
    """
    if not errors:
        return {}
    worst = max(errors, key=errors.__getitem__)
    return {
        "mean_relative_error": sum(errors.values()) / len(errors),
        "worst_layer": worst,
        "worst_relative_error": errors[worst],
        ERRORS: dict(errors),
    }
