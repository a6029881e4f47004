"""Names for the text part of a multimodal model, so that both model classes load it.

transformers may build only the text part of a multimodal model, whose parameters have shorter names
than its tensors in files. A folder with the shorter names would load as a causal language model
and no longer as the multimodal model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import transformers
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import PrefixChange, apply_renamings

from ...checkpoints import Checkpoint
from ..blocks.config import has_code, read_config_object
from ..blocks.empty_model import without_weights
from ..blocks.parameter_names import parameter_finder
from ..blocks.transformers_errors import REFUSED

Rename = Callable[[str], str]


def names_for_files(
    checkpoint: Checkpoint, model: PreTrainedModel, names: Iterable[str]
) -> dict[str, str]:
    """The name in files of each parameter of ``model``.

    Names differ only if the config is that of a multimodal model which has other names for all of
    them.
    """
    names = list(names)
    whole = _larger_model(checkpoint, model)
    if whole is not None:
        known = parameter_finder(whole)
        for rename in _candidates(model):
            renamed = {name: rename(name) for name in names}
            if all(known(name)[1] for name in renamed.values()):
                return renamed
    return {name: name for name in names}


def _candidates(model: PreTrainedModel) -> list[Rename]:
    """Candidates: the name itself, with the prefix transformers removes, and in the whole model."""
    changes: list[Any] = [
        each.reverse_transform()
        for each in get_model_conversion_mapping(model, add_legacy=False)
        if isinstance(each, PrefixChange)
    ]
    return [
        lambda name: name,
        lambda name: apply_renamings(name, changes),
        lambda name: f"{model.base_model_prefix}.{name}",
    ]


def _larger_model(checkpoint: Checkpoint, model: PreTrainedModel) -> PreTrainedModel | None:
    """The multimodal model of the config, on the meta device; None if it is ``model``."""
    named = checkpoint.config.get("architectures") or [""]
    kind = getattr(transformers, str(named[0]), None)
    if has_code(checkpoint) or not isinstance(kind, type) or not issubclass(kind, PreTrainedModel):
        return None
    try:
        with (
            read_config_object(checkpoint, trust=False) as config,
            without_weights(),
        ):
            expected = kind.config_class
            if isinstance(config, type(model.config)) or expected is None:
                return None
            if not isinstance(config, expected):
                return None
            return kind(config)
    except REFUSED:  # only the text part can be built from this config
        return None
