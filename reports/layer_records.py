"""What is recorded of every linear layer of a saved model: how it is stored, and its error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..checkpoints import Checkpoint, Quantized, TensorRef
from ..contexts.layer_errors import ERRORS
from ..contexts.steps import Step


def layer_records(checkpoint: Checkpoint, history: Sequence[Step]) -> list[dict[str, Any]]:
    """An entry for each weight matrix or stack of expert matrices, in the order of the checkpoint.

    Each has ``name``, ``shape`` (``[out_features, in_features]``), ``kind`` (a dtype or a grid),
    ``bits_per_weight`` (scales included) and, if a step measured it, ``relative_error``: of the
    last step that changed the layer.
    """
    errors: dict[str, float] = {}
    for step in history:
        errors |= step.metrics.get(ERRORS, {})
    return [
        _record(name, ref, errors) for name, ref in checkpoint.refs.items() if len(ref.shape) > 1
    ]


def _record(name: str, ref: TensorRef, errors: Mapping[str, float]) -> dict[str, Any]:
    layer = name.removesuffix(".weight")
    error = errors.get(layer, errors.get(name))
    return {
        "name": layer,
        "shape": list(ref.shape),
        "kind": _kind(ref),
        "bits_per_weight": 8 * ref.num_bytes / max(1, ref.num_values),
        **({} if error is None else {"relative_error": error}),
    }


def _kind(ref: TensorRef) -> str:
    groups = f" in groups of {ref.group_size}" if isinstance(ref, Quantized) else ""
    return f"{ref.storage_kind}{groups}"
