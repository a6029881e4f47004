"""Tensors to which the class of a model writes whenever transformers loads it, as it leaves them.

Youtu sets the embedding of the padding token to zero. A saved folder is opened by transformers
too, so the model that is read has to be the one that transformers makes of the files.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from ...checkpoints import Checkpoint, InMemory
from ...errors import ModelError
from ..blocks.initialising import initialised, initialising


def as_loaded(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the values that transformers computes with; warns if any differ.

    Raises:
        ModelError: a tensor changes again at each further load, so that no file can hold it.
    """
    written = initialising(checkpoint).writes & checkpoint.refs.keys()
    held = {name: checkpoint.refs[name].load() for name in sorted(written)}
    if not held:
        return checkpoint
    once = initialised(checkpoint, held)
    changed = {name: once[name] for name in held if not _same(once[name], held[name])}
    if not changed:
        return checkpoint
    twice = initialised(checkpoint, once)
    for name in changed:
        if not _same(twice[name], once[name]):
            raise ModelError(
                f"transformers changes tensor '{name}' of '{checkpoint.source}' each time it loads "
                f"the model, so no folder holds its values; load it with transformers and save it "
                f"as another architecture, or correct its config"
            )
    warnings.warn(
        f"transformers changes {', '.join(map(repr, changed))} of '{checkpoint.source}' when it "
        f"loads the model; the changed values are used here, and saved",
        stacklevel=2,
    )
    return replace(
        checkpoint,
        refs={**checkpoint.refs, **{name: InMemory(value) for name, value in changed.items()}},
    )


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
