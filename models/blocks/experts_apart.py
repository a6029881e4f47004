"""Experts that transformers keeps in one tensor and files hold one by one.

Mixtral's ``mlp.experts.gate_up_proj`` ``[experts, out_features, in_features]`` is in files
``block_sparse_moe.experts.0.w1.weight`` and so on. Only such experts can be packed: transformers
dequantises the matrices of single experts before it stacks them.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache

from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from ...checkpoints import Checkpoint
from .config import has_code
from .empty_model import shared_model

_MATRIX_OF_AN_EXPERT = re.compile(r"\.experts\.\d+\..*\.weight$")


def apart(model: PreTrainedModel, name: str, tensor: Tensor) -> dict[str, Tensor]:
    """What files hold of a tensor ``[experts, out_features, columns]``, by names in files.

    Only rows are divided, so that scales ``[experts, out_features, groups]`` are divided like the
    weights they belong to.
    """
    found: dict[str, Tensor] = revert_weight_conversion(model, {name: tensor})
    return found


def is_expert_matrix(name: str) -> bool:
    """Whether a tensor of a file, by its name, is the matrix of one expert."""
    return _MATRIX_OF_AN_EXPERT.search(name) is not None


def stored_apart(checkpoint: Checkpoint) -> frozenset[str]:
    """Names of the tensors whose experts are matrices of their own in files, cached by config."""
    if has_code(checkpoint):
        return frozenset()
    return _of_config(json.dumps(dict(checkpoint.config)))


@lru_cache(maxsize=64)
def _of_config(config: str) -> frozenset[str]:
    model = shared_model(Checkpoint(json.loads(config), {}))
    stacked = {name: each for name, each in model.named_parameters() if each.ndim == 3}
    return frozenset(name for name, each in stacked.items() if _is_apart(model, name, each.data))


def _is_apart(model: PreTrainedModel, name: str, tensor: Tensor) -> bool:
    found = apart(model, name, tensor)
    return all(
        is_expert_matrix(each) and part.ndim == 2 and part.shape[1] == tensor.shape[2]
        for each, part in found.items()
    )
