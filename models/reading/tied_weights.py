"""Tied weights, and weights that are tied by the config but differ in value.

A config may have ``tie_word_embeddings: true`` although the folder has an output head that differs
from the embedding. Such a head is kept, and the config is corrected.
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
"""The key of a config for a tied output head."""


def tied_names(model: PreTrainedModel) -> dict[str, str]:
    """Each tied parameter of a model with the parameter it is tied to, by the model's config."""
    found = tied_parameters(model)
    expand = getattr(model, "get_expanded_tied_weights_keys", None)
    return found if expand is None else {**expand(all_submodels=True), **found}


def same_values(first: TensorRef, second: TensorRef) -> bool:
    """Whether two tensors have equal values, whatever their dtypes; loads both."""
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
    """The tied parameters whose values differ; loads tensors only if both are stored.

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
    """The checkpoint with each tied tensor stored once, and untied if values differ.

    Args:
        ties: each tied parameter and the parameter it is tied to.

    Raises:
        ModelError: the class ties them regardless of the config.
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
    """The checkpoint, untied if values differ; its tensors have their names in files."""
    model = shared_model(checkpoint)
    ties = tied_names(model)
    if not ties:
        return checkpoint
    find = parameter_finder(model)
    differing = differing_ties(ties, {find(name)[0]: r for name, r in checkpoint.refs.items()})
    return untied(checkpoint, differing) if differing else checkpoint


def untied(checkpoint: Checkpoint, differing: list[str]) -> Checkpoint:
    """The checkpoint with a config that does not tie the embedding and the head.

    Raises:
        ModelError: the class ties them regardless of the config.
    """
    changed = replace(checkpoint, config=untied_config(checkpoint.config))
    still = tied_names(shared_model(changed)).keys() & set(differing)
    for name in sorted(still):
        raise ModelError(
            f"'{checkpoint.source}' holds '{name}', which differs from the tensor it is tied to; "
            f"the class of type '{checkpoint.config.get('model_type')}' always ties it; use a "
            f"folder whose tied tensors are equal"
        )
    return changed


def untied_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with embedding and head untied, in every part that transformers may read."""
    kind = str(config.get("model_type"))
    parts = CONFIG_MAPPING[kind].sub_configs if kind in CONFIG_MAPPING else {}
    nested = {
        name: {**value, TIES: False}
        for name, value in config.items()
        if isinstance(value, Mapping) and (TIES in value or (name in parts and "text" in name))
    }
    return {**config, **nested, TIES: False}
