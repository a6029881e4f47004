"""Map the names of tensors in files to the names of a model's parameters.

transformers renames tensors when it loads them and merges some into one parameter. Its own renaming
rules are used here, so that a renamed tensor counts as loaded.
"""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key


def parameter_finder(model: PreTrainedModel) -> Callable[[str], tuple[str, bool]]:
    """A function from a tensor's name in a file to its name in the model.

    It returns the name after the renaming of transformers, and whether the model has such a tensor.
    Tensors that are merged into one parameter all map to that parameter.
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
