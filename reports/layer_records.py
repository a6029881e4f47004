"""What is recorded of every linear layer of a saved model: how it is stored, and its error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..checkpoints import Checkpoint, Quantized, TensorRef
from ..contexts.layer_errors import ERRORS
from ..contexts.sensitivity import SENSITIVITIES
from ..contexts.steps import Step


def layer_records(
    checkpoint: Checkpoint, dense: Checkpoint, history: Sequence[Step]
) -> list[dict[str, Any]]:
    """An entry for each weight matrix or stack of expert matrices, in the order of the checkpoint.

    Each has ``name``, ``shape`` (``[out_features, in_features]``), ``kind`` (a dtype or a grid) and
    ``bits_per_weight`` (scales included). If a step measured it, ``relative_error``, of the last
    step that changed the layer, and ``sensitivity``, the estimated rise of the loss in nats. If
    matrices became smaller, ``width``: values over those of the original's tensor of that name.
    """
    measured: dict[str, dict[str, float]] = {"relative_error": {}, "sensitivity": {}}
    for step in history:
        measured["relative_error"] |= step.metrics.get(ERRORS, {})
        measured["sensitivity"] |= step.metrics.get(SENSITIVITIES, {})
    matrices = {name: ref for name, ref in checkpoint.refs.items() if len(ref.shape) > 1}
    widths = {
        name: ref.num_values / dense.refs[name].num_values
        for name, ref in matrices.items()
        if name in dense.refs
    }
    if any(width != 1 for width in widths.values()):
        measured["width"] = widths
    return [_record(name, ref, measured) for name, ref in matrices.items()]


def _record(
    name: str, ref: TensorRef, measured: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    layer = name.removesuffix(".weight")
    found = {key: values.get(layer, values.get(name)) for key, values in measured.items()}
    return {
        "name": layer,
        "shape": list(ref.shape),
        "kind": _kind(ref),
        "bits_per_weight": 8 * ref.num_bytes / max(1, ref.num_values),
        **{key: value for key, value in found.items() if value is not None},
    }


def _kind(ref: TensorRef) -> str:
    if not isinstance(ref, Quantized):
        return ref.storage_kind
    inputs = "" if ref.input_activations is None else f", {ref.input_activations} inputs"
    if ref.block_size is not None:
        return f"{ref.storage_kind} in blocks of {ref.block_size} by {ref.block_size}{inputs}"
    return f"{ref.storage_kind} in groups of {ref.group_size}{inputs}"
