"""Names under which the text part of a larger model is written, so that both classes load it.

Of a model that also sees or hears, transformers may build the text part alone, whose parameters
have shorter names than its tensors in files. Written under those shorter names, a folder would load
as a causal language model and no longer as the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import transformers
from accelerate import init_empty_weights
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import PrefixChange, apply_renamings

from ...checkpoints import Checkpoint
from ..blocks.config import has_code, read_config_object
from ..blocks.parameter_names import parameter_finder
from ..blocks.transformers_errors import REFUSED

Rename = Callable[[str], str]


def names_for_files(
    checkpoint: Checkpoint, model: PreTrainedModel, names: Iterable[str]
) -> dict[str, str]:
    """What each tensor is called in files, by its name as the class of ``model`` has it.

    Names stay as they are unless the config is that of a larger model around it that knows all of
    them by another.
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
    """As it is; under the prefix that transformers takes off; under that of the whole model."""
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
    """What the config describes as a whole, on the meta device; None where that is ``model``."""
    named = checkpoint.config.get("architectures") or [""]
    kind = getattr(transformers, str(named[0]), None)
    if has_code(checkpoint) or not isinstance(kind, type) or not issubclass(kind, PreTrainedModel):
        return None
    try:
        with (
            read_config_object(checkpoint, trust=False) as config,
            init_empty_weights(include_buffers=False),
        ):
            expected = kind.config_class
            if isinstance(config, type(model.config)) or expected is None:
                return None
            if not isinstance(config, expected):
                return None
            return kind(config)
    except REFUSED:  # a config that the text part alone can be built from
        return None
