"""Which parameter of a model each tensor of its files is loaded into.

transformers renames tensors when it loads them and makes some parameters from several. Its own
renaming is asked here, so that a tensor whose name is merely translated counts as loaded.
"""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key


def parameter_finder(model: PreTrainedModel) -> Callable[[str], tuple[str, bool]]:
    """A function from a tensor's name in a file to its name in the model.

    It returns the name as transformers translates it and whether the model has such a tensor.
    Each of several tensors that are merged into one parameter is translated to that parameter.
    """
    mapping = get_model_conversion_mapping(model)
    renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
    converters = [each for each in mapping if isinstance(each, WeightConverter)]
    known, prefix = model.state_dict(), model.base_model_prefix

    def find(name: str) -> tuple[str, bool]:
        renamed, _ = rename_source_key(name, renamings, converters, prefix, known)
        if renamed not in known and name in known:
            renamed, _ = rename_source_key(name, [], [], prefix, known)
        return renamed, renamed in known

    return find
