"""Parameters that transformers makes from several tensors of a folder, made when they are loaded.

transformers renames tensors and merges or splits them, such as experts stored one by one. Its own
conversions are applied to one parameter at a time, so that a model larger than memory is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from ...checkpoints import Converted, TensorRef
from ...errors import CheckpointError
from ..blocks.transformers_errors import REFUSED, reason
from .stored_dtypes import widest_dtype


@dataclass
class Conversion:
    """One conversion of transformers and the tensors it is applied to.

    Attributes:
        target: the first parameter it makes.
        sources: pattern of the conversion and tensor, in the order that transformers has.
    """

    target: str
    converter: WeightConverter
    model: PreTrainedModel
    sources: list[tuple[str, str, TensorRef]] = field(default_factory=list)

    def outline(self) -> dict[str, Tensor]:
        """What it makes, without values, on the meta device."""
        return self.apply(
            lambda ref, dtype: torch.empty(
                ref.shape, dtype=dtype if ref.dtype.is_floating_point else ref.dtype, device="meta"
            )
        )

    def values(self) -> dict[str, Tensor]:
        """What it makes, by parameter; reads every source."""
        return self.apply(lambda ref, dtype: _in_dtype(ref, dtype).load())

    def apply(self, read: Callable[[TensorRef, torch.dtype], Tensor]) -> dict[str, Tensor]:
        """What it makes of the tensors that ``read`` gives for its sources, by parameter.

        Args:
            read: receives a source and the widest dtype among them.
        """
        dtype = widest_dtype({name: ref for _, name, ref in self.sources})
        converter = deepcopy(self.converter)
        for pattern, name, ref in self.sources:
            # A callable, so that transformers takes the tensor when the conversion runs.
            later: Any = partial(read, ref, dtype)
            converter.add_tensor(self.target, name, pattern, later)
        try:
            made = converter.convert(self.target, model=self.model, config=self.model.config)
        except REFUSED as error:
            raise CheckpointError(
                f"tensor '{self.target}' cannot be made from {len(self.sources)} tensors of the "
                f"folder: {reason(error)}; fetch it again"
            ) from error
        return {name: each[0] if isinstance(each, list) else each for name, each in made.items()}


class Made(TensorRef):
    """One parameter that a conversion makes, each time it loads."""

    def __init__(self, conversion: Conversion, name: str, outline: Tensor) -> None:
        self.conversion, self._name = conversion, name
        self.dtype, self.shape = outline.dtype, tuple(outline.shape)

    def load(self) -> Tensor:
        return self.conversion.values()[self._name].contiguous()


def converted(model: PreTrainedModel, refs: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """The parameters of a model by name, made from the tensors of a folder when they are loaded.

    Args:
        model: on the meta device; must not be changed.
        refs: tensors by their names in the folder, of which those without a parameter are ignored.

    Raises:
        CheckpointError: tensors that transformers cannot convert.
    """
    mapping = get_model_conversion_mapping(model)
    renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
    converters = [each for each in mapping if isinstance(each, WeightConverter)]
    by_pattern = {pattern: each for each in converters for pattern in each.source_patterns}
    known, prefix = model.state_dict(), model.base_model_prefix
    found: dict[str, TensorRef] = {}
    conversions: dict[str, Conversion] = {}
    for name in sorted(refs, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, prefix, known)
        if target not in known and name in known:
            target, pattern = rename_source_key(name, [], [], prefix, known)
        if target not in known:
            continue
        if pattern is None:
            found[target] = refs[name]
        else:
            made = conversions.setdefault(target, Conversion(target, by_pattern[pattern], model))
            made.sources.append((pattern, name, refs[name]))
    for conversion in conversions.values():
        for name, outline in conversion.outline().items():
            found[name] = Made(conversion, name, outline)
    return found


def _in_dtype(ref: TensorRef, dtype: torch.dtype) -> TensorRef:
    same = ref.dtype == dtype or not ref.dtype.is_floating_point
    return ref if same else Converted(ref, dtype)
