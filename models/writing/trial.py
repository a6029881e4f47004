"""Try, before any work, whether a folder would load again in plain transformers.

A packed folder holds other tensors than the model has parameters: codes and scales, under names
that transformers, compressed-tensors and the class of the model must agree on. Here the class is
built from the config that the folder would have and loads an outline of the tensors that would be
written, on the meta device: names and shapes of every tensor, none of the values, so that a model
of any size takes no memory. Whether the values are right is proven on the written folder.

For weights meant for bitsandbytes the dense tensors that it is given are tried, and whether the
model still has them once its modules are exchanged for those of bitsandbytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import AutoHfQuantizer
from transformers.utils import logging as transformers_logging

from ...checkpoints import BitsAndBytes, Checkpoint, Converted, Quantized
from ...errors import CheckpointError, first_names
from ..blocks.config import has_code, read_config_object
from ..blocks.empty_model import empty_model, shared_model
from ..blocks.progress_bars import quietly
from ..blocks.transformers_errors import REFUSED, reason
from ..codecs.bitsandbytes import loading_config
from .folder import folder_outline, left_dense, weight_format

_FAULTS = {
    "missing_keys": "missing",
    "unexpected_keys": "not known to the class",
    "mismatched_keys": "of another shape",
    "conversion_errors": "not converted",
    "error_msgs": "refused",
}
"""What transformers reports after loading, and what it is called here."""


def try_folder(checkpoint: Checkpoint) -> None:
    """Load the outline of the folder that `write_model` would make of a checkpoint.

    Args:
        checkpoint: its references need no values.

    Raises:
        CheckpointError: weights no folder holds, or a folder that does not load again.
        ModelError: the architecture is unknown.
    """
    config, tensors = folder_outline(checkpoint)
    model = shared_model(checkpoint)
    try:
        faults = _loading_faults(checkpoint, model, config.get("quantization_config"), tensors)
        faults["in modules that bitsandbytes exchanges"] = _exchanged(checkpoint, model)
        fault = "; ".join(_listed(names, what) for what, names in faults.items() if names)
    except REFUSED as error:
        if not _plain_loads(checkpoint, model):
            return  # such a class cannot be loaded without values, so nothing is known
        fault = reason(error)
    if fault:
        raise CheckpointError(
            f"{type(model).__name__} with {_words(checkpoint)} weights does not load again in "
            f"transformers: {fault}{_own_linears(checkpoint, model)}"
        )


def as_plain(checkpoint: Checkpoint) -> Checkpoint:
    """The same with plain values in place of quantised weights."""
    dtype = getattr(torch, str(checkpoint.config.get("dtype")), torch.float32)
    return replace(
        checkpoint,
        refs={
            name: Converted(ref, dtype) if isinstance(ref, Quantized | BitsAndBytes) else ref
            for name, ref in checkpoint.refs.items()
        },
    )


def _plain_loads(checkpoint: Checkpoint, model: PreTrainedModel) -> bool:
    """Whether the class loads without values when nothing is quantised."""
    plain = as_plain(checkpoint)
    try:
        return not any(_loading_faults(plain, model, None, folder_outline(plain)[1]).values())
    except REFUSED:
        return False


def _loading_faults(
    checkpoint: Checkpoint, model: PreTrainedModel, settings: Any, tensors: Mapping[str, Tensor]
) -> dict[str, Collection[Any]]:
    """What the class reports when it loads the tensors, by what it is called here."""
    with quietly(), _unreported(), read_config_object(checkpoint, has_code(checkpoint)) as config:
        if settings is not None:
            config.quantization_config = settings
        load: Any = type(model).from_pretrained  # typed as if it never returned what it found
        _, found = load(
            None,
            config=config,
            state_dict=dict(tensors),
            device_map={"": "meta"},
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below with the rest
        )
    return {what: found.get(key) or () for key, what in _FAULTS.items()}


@contextmanager
def _unreported() -> Iterator[None]:
    """Without the table that transformers logs of tensors that do not fit, which are returned."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _exchanged(checkpoint: Checkpoint, model: PreTrainedModel) -> set[str]:
    """Tensors that are gone once transformers has made room for weights of bitsandbytes."""
    kinds = [ref.kind for ref in checkpoint.refs.values() if isinstance(ref, BitsAndBytes)]
    if not kinds:
        return set()
    config = loading_config(kinds[0], left_dense(checkpoint, model), torch.float32)
    prepared = empty_model(checkpoint)
    quantizer = AutoHfQuantizer.from_config(config, pre_quantized=True)
    quantizer.preprocess_model(prepared, device_map=None)
    return set(model.state_dict()) - set(prepared.state_dict())


def _listed(found: Collection[Any], what: str) -> str:
    names = sorted(str(each[0] if isinstance(each, tuple) else each) for each in found)
    return f"{len(names)} tensors are {what} ({first_names(names)})"


def _words(checkpoint: Checkpoint) -> str:
    return {"dense": "plain", "packed": "packed integer"}.get(
        weight_format(checkpoint), weight_format(checkpoint)
    )


def _own_linears(checkpoint: Checkpoint, model: PreTrainedModel) -> str:
    """The classes of quantised modules that are no plain nn.Linear, which may be the reason."""
    codes = [
        name.removesuffix(".weight")
        for name, ref in checkpoint.refs.items()
        if isinstance(ref, Quantized) and len(ref.shape) == 2
    ]
    kinds = {type(model.get_submodule(path)) for path in codes}
    others = sorted(kind.__name__ for kind in kinds - {nn.Linear, nn.Embedding})
    return f" (quantised layers are of class {', '.join(others)})" if others else ""
