"""Weights that a config says are tied, but that have values of their own.

A folder may say ``tie_word_embeddings: true`` and hold an output head that differs from the
embedding. Such a head is kept, and the config is corrected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PreTrainedModel

from ...checkpoints import Checkpoint, TensorRef
from ...errors import ModelError
from ..blocks.empty_model import shared_model, tied_parameters
from ..blocks.parameter_names import parameter_finder

TIES = "tie_word_embeddings"
"""What configs call it that the output head is the embedding."""


def tied_names(model: PreTrainedModel) -> dict[str, str]:
    """Each tied parameter of a model, and the parameter it is tied to, by the model's config."""
    found = tied_parameters(model)
    expand = getattr(model, "get_expanded_tied_weights_keys", None)
    return found if expand is None else {**expand(all_submodels=True), **found}


def same_values(first: TensorRef, second: TensorRef) -> bool:
    """Whether two tensors hold the same values, in whichever dtypes; reads both."""
    if first is second:
        return True
    if first.shape != second.shape:
        return False
    one, other = first.load(), second.load()
    if one.data_ptr() == other.data_ptr() and one.stride() == other.stride():
        return True
    wide = torch.promote_types(one.dtype, other.dtype)
    return torch.equal(one.to(wide), other.to(wide))


def differing_ties(ties: Mapping[str, str], refs: Mapping[str, TensorRef]) -> list[str]:
    """The tied parameters that have values of their own; reads tensors only where both exist.

    Args:
        ties: each tied parameter and the parameter it is tied to.
        refs: tensors by the names of parameters.
    """
    return [
        target
        for target, source in ties.items()
        if target in refs and source in refs and not same_values(refs[target], refs[source])
    ]


def with_ties_settled(checkpoint: Checkpoint, ties: Mapping[str, str]) -> Checkpoint:
    """The checkpoint with each tied tensor once; untied, by its config, where values differ.

    Args:
        ties: each tied parameter and the parameter it is tied to.

    Raises:
        ModelError: the class ties them whatever the config says.
    """
    refs = dict(checkpoint.refs)
    differing = differing_ties(ties, refs)
    if not differing:
        return replace(checkpoint, refs={n: ref for n, ref in refs.items() if n not in ties})
    for target, source in ties.items():
        if target not in refs and source in refs:
            refs[target] = refs[source]
    return untied(replace(checkpoint, refs=refs), differing)


def with_config_settled(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, untied by its config where its tensors, named as in files, say otherwise."""
    model = shared_model(checkpoint)
    ties = tied_names(model)
    if not ties:
        return checkpoint
    find = parameter_finder(model)
    differing = differing_ties(ties, {find(name)[0]: r for name, r in checkpoint.refs.items()})
    return untied(checkpoint, differing) if differing else checkpoint


def untied(checkpoint: Checkpoint, differing: list[str]) -> Checkpoint:
    """The checkpoint with a config that says its embedding and head are not tied.

    Raises:
        ModelError: the class ties them whatever the config says.
    """
    changed = replace(checkpoint, config=untied_config(checkpoint.config))
    still = tied_names(shared_model(changed)).keys() & set(differing)
    for name in sorted(still):
        raise ModelError(
            f"'{checkpoint.source}' holds '{name}' with values of its own, but the class of type "
            f"'{checkpoint.config.get('model_type')}' always ties it; give a folder whose tied "
            f"tensors are equal"
        )
    return changed


def untied_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the embedding and the head untied, in every part that may be the one read."""
    kind = str(config.get("model_type"))
    parts = CONFIG_MAPPING[kind].sub_configs if kind in CONFIG_MAPPING else {}
    nested = {
        name: {**value, TIES: False}
        for name, value in config.items()
        if isinstance(value, Mapping) and (TIES in value or (name in parts and "text" in name))
    }
    return {**config, **nested, TIES: False}
