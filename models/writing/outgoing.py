"""The tensors of a folder before they are written, computed when they are read.

transformers converts some names and shapes when it loads (experts stored one by one, renamed
heads). Its own reverse conversion is applied to groups of tensors, so that a model larger than
memory is written block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from ...checkpoints import Checkpoint, Quantized, TensorRef
from ...checkpoints.allocator import release_unused_memory
from ...checkpoints.safetensors_layout import StoredTensor
from ...errors import CheckpointError, ModelError
from ..blocks.announcing import AnnounceCount
from ..blocks.embeddings import embedding_paths
from ..blocks.empty_model import find_blocks, tied_parameters
from ..blocks.experts_apart import apart
from ..codecs.compressed_tensors_writing import (
    packed,
    packed_outline,
    per_row,
    per_row_outline,
)
from .wrapper_names import names_for_files

Ref = TypeVar("Ref", bound=TensorRef)


class Outgoing(Mapping[str, Tensor]):
    """The tensors to write, computed when they are read; the last group is cached.

    Attributes:
        outline: the model's tensors on the meta device, by their names in files.
        stored: dtypes and shapes by name, unused tensors included.
        groups: the names, in the checkpoint, of tensors that are converted together.
    """

    def __init__(
        self, checkpoint: Checkpoint, model: PreTrainedModel, announce: AnnounceCount
    ) -> None:
        self._refs, self._model, self._announce = checkpoint.refs, model, announce
        codes = of_kind(checkpoint, Quantized)
        self._is_packed, self._has_experts = bool(codes), bool(packed_experts(codes))
        self._rows = stored_per_row(model, codes)
        self.groups = self._group()
        outlines = [self._translated(self._outline(group)) for group in self.groups]
        translated = [name for outline in outlines for name in outline]
        renamed = names_for_files(checkpoint, model, translated)
        self._place_of: dict[str, tuple[int, str]] = {}
        self.outline: dict[str, Tensor] = {}
        for place, outline in enumerate(outlines):
            for name, tensor in outline.items():
                self._place_of[renamed[name]] = (place, name)
                self.outline[renamed[name]] = tensor
        self.stored = {name: StoredTensor.of(tensor) for name, tensor in self.outline.items()}
        self._unused = checkpoint.unused
        for name, ref in self._unused.items():
            if name in self.stored:
                raise CheckpointError(
                    f"unused tensor '{name}' has the name of a tensor of the model; load with "
                    f"keep_unused=False"
                )
            self.stored[name] = StoredTensor.of(ref)
        self._made: tuple[int, dict[str, Tensor]] = (-1, {})

    def __getitem__(self, name: str) -> Tensor:
        if name in self._unused:
            return self._unused[name].load()
        place, translated = self._place_of[name]
        if self._made[0] != place:
            self._announce(place, len(self.groups))
            # The tensors of the last group, and what packing allocated, before the next is made.
            self._made = (-1, {})
            release_unused_memory()
            self._made = (place, self._translated(self._values(self.groups[place])))
        return self._made[1][translated]

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def _group(self) -> list[list[str]]:
        """Groups of names that are converted together: single names, or the names of a block."""
        outline = self._outline(self._refs)
        whole = self._translated(outline)
        if whole is outline:
            return [[name] for name in self._refs]
        inside = f"{find_blocks(self._model)[0]}."
        groups: dict[str, list[str]] = {}
        for name in self._refs:
            block = name.removeprefix(inside).split(".")[0] if name.startswith(inside) else ""
            groups.setdefault(block, []).append(name)
        self._check_whole(whole, list(groups.values()))
        return list(groups.values())

    def _check_whole(self, whole: Mapping[str, Tensor], groups: list[list[str]]) -> None:
        found = {name for group in groups for name in self._translated(self._outline(group))}
        for name in sorted(found ^ whole.keys()):
            raise ModelError(
                f"tensor '{name}' of {type(self._model).__name__} is made from several blocks at "
                f"once, which is not supported; save the model with transformers"
            )

    def _outline(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The tensors on the meta device: shapes and dtypes only."""
        outline: dict[str, Tensor] = {}
        for name in names:
            ref = self._refs[name]
            if isinstance(ref, Quantized) and name in self._rows:
                outline.update(per_row_outline(name, ref, self._rows[name]))
            elif isinstance(ref, Quantized):
                for each, matrix in self._apart(name, ref, partial(_on_meta, ref)).items():
                    outline.update(packed_outline(each, matrix))
            else:
                dense = torch.empty(ref.shape, dtype=ref.dtype, device="meta")
                outline.update(self._dense(name, dense))
        return outline

    def _values(self, names: Iterable[str]) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        for name in names:
            ref = self._refs[name]
            if isinstance(ref, Quantized) and name in self._rows:
                values.update(per_row(name, ref, self._rows[name]))
            elif isinstance(ref, Quantized):
                for each, matrix in self._apart(name, ref, ref.parts).items():
                    values.update(packed(each, matrix))
            else:
                values.update(self._dense(name, ref.load()))
        return values

    def _apart(
        self, name: str, ref: Quantized, read: Callable[[], Mapping[str, Tensor]]
    ) -> Mapping[str, Quantized]:
        """The weight itself by its name; of experts the matrix of each by its name in files.

        Args:
            read: returns the parts of the weight; called for experts only.
        """
        if len(ref.shape) == 2:
            return {name: ref}
        parts = read()
        codes, scales = (apart(self._model, name, parts[part]) for part in ("codes", "scales"))
        return {each: ref.with_values(codes[each], scales[each]) for each in codes}

    def _dense(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        """A tensor beside packed experts by its name in files; unchanged in any other folder."""
        if not self._has_experts:
            return {name: tensor}
        found = apart(self._model, name, tensor)
        return found if len(found) == 1 else {name: tensor}

    def _translated(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors under their names in files; the same dictionary if no name differs.

        A packed folder keeps the names of dense experts: next to packed linears, transformers 5.23
        mistakes single experts for packed ones and drops them.
        """
        if self._is_packed:
            return tensors
        reverted: dict[str, Tensor] = revert_weight_conversion(self._model, tensors)
        return reverted


def _on_meta(ref: Quantized) -> dict[str, Tensor]:
    """The parts of a quantised weight on the meta device; nothing is read."""
    codes = torch.float8_e4m3fn if ref.is_float else torch.int8
    return {
        "codes": torch.empty(ref.shape, dtype=codes, device="meta"),
        "scales": torch.empty(ref.scales_shape, dtype=ref.dtype, device="meta"),
    }


def stored_per_row(model: PreTrainedModel, codes: Mapping[str, Quantized]) -> dict[str, list[str]]:
    """Embeddings and heads stored as int8 rows, each with the heads tied to it."""
    names, tied = [f"{path}.weight" for path in embedding_paths(model)], tied_parameters(model)
    return {
        name: [head for head in names if tied.get(head) == name]
        for name in names
        if (ref := codes.get(name)) is not None
        and ref.bits == 8
        and ref.symmetric
        and ref.num_groups == 1
        and not ref.is_float
        and ref.input_activations is None
    }


def packed_experts(codes: Mapping[str, Quantized]) -> dict[str, Quantized]:
    """The tensors of all experts of a block, which are packed one by one."""
    return {name: ref for name, ref in codes.items() if len(ref.shape) == 3}


def of_kind(checkpoint: Checkpoint, kind: type[Ref]) -> dict[str, Ref]:
    return {name: ref for name, ref in checkpoint.refs.items() if isinstance(ref, kind)}
