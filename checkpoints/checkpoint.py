"""The immutable checkpoint: a model's config, tensors and other files as one value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import CheckpointError, did_you_mean
from .tensors import InMemory, TensorRef

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Tensors(Mapping[str, Tensor]):
    """A read-only mapping from name to tensor that loads on every access and caches nothing."""

    def __init__(self, refs: Mapping[str, TensorRef]) -> None:
        self._refs = refs

    def __getitem__(self, name: str) -> Tensor:
        return self._refs[name].load()

    def __iter__(self) -> Iterator[str]:
        return iter(self._refs)

    def __len__(self) -> int:
        return len(self._refs)


@dataclass(frozen=True)
class LeftOut:
    """Something the source of a checkpoint holds and the checkpoint does not carry.

    Attributes:
        name: the file, a folder (ending in ``/``) or the tensor.
        num_bytes: its size on disk.
        why: the reason, a phrase that completes "left out: ...".
    """

    name: str
    num_bytes: int
    why: str


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model as an immutable value. Checkpoints with equal content have equal ids.

    Tensors are named as in ``model.state_dict()`` of the transformers class. Tied tensors are
    stored once, under the name transformers saves them by.

    Attributes:
        config: the contents of ``config.json``, copied; nested values must not be changed in place.
        refs: tensor name to `TensorRef`.
        files: tokenizer, generation config, chat template and all other files beside the weights,
            unchanged, by name; a file in a subfolder by ``folder/name``.
        source: the name the user gave the model, for the model card.
        parent: id of the checkpoint this one was made from.
        unused: tensors of the source that the transformers class has no parameter for, by their
            names in its files. They take part in no computation and are saved unchanged.
        left_out: what the source holds and this checkpoint does not carry.

    Raises:
        CheckpointError: a config value that JSON cannot represent, or a file name that points
            outside the folder.
    """

    config: Mapping[str, Any]
    refs: Mapping[str, TensorRef]
    files: Mapping[str, bytes] = field(default_factory=dict)
    source: str = ""
    parent: str | None = None
    unused: Mapping[str, TensorRef] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()

    def __post_init__(self) -> None:
        for name in self.files:
            _check_file_name(name)
        parts = {
            "config": _as_json(self.config),
            "refs": dict(self.refs),
            "files": dict(self.files),
            "unused": dict(self.unused),
        }
        for name, part in parts.items():
            object.__setattr__(self, name, MappingProxyType(part))

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Name to tensor, loaded on access. A tensor from here must not be changed in place."""
        return Tensors(self.refs)

    @property
    def all_refs(self) -> dict[str, TensorRef]:
        """The model's tensors and, after them, the `unused` ones."""
        return {**self.refs, **{n: ref for n, ref in self.unused.items() if n not in self.refs}}

    @property
    def top_files(self) -> dict[str, bytes]:
        """The files that are in no subfolder. These are the ones transformers reads."""
        return {name: data for name, data in self.files.items() if "/" not in name}

    @cached_property
    def id(self) -> str:
        """SHA-256, in hex, over config, files and the content of every tensor."""
        content: dict[str, Any] = {
            "config": dict(self.config),
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()},
            "tensors": {name: ref.digest for name, ref in self.refs.items()},
        }
        if self.unused:
            content["unused"] = {name: ref.digest for name, ref in self.unused.items()}
        if self.left_out:
            content["left_out"] = [asdict(each) for each in self.left_out]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def evolve(
        self,
        tensors: Mapping[str, Tensor | TensorRef | None] | None = None,
        *,
        config: Mapping[str, Any] | None = None,
    ) -> Checkpoint:
        """Return a new checkpoint with some tensors replaced and some config keys set.

        All other tensors are shared with this checkpoint.

        Args:
            tensors: name to the new tensor; None removes it. The caller must not change them
                afterwards.
            config: keys to set.

        Raises:
            CheckpointError: a tensor name the checkpoint does not have.
        """
        refs = dict(self.refs)
        for name, tensor in (tensors or {}).items():
            if name not in refs:
                raise CheckpointError(f"no tensor '{name}' to replace; {did_you_mean(name, refs)}")
            if tensor is None:
                del refs[name]
            else:
                refs[name] = InMemory(tensor) if isinstance(tensor, Tensor) else tensor
        merged = {**self.config, **(config or {})}
        return replace(self, config=merged, refs=refs, parent=self.id)

    @property
    def num_parameters(self) -> int:
        """Number of values in all tensors of the model, tied ones once; `unused` excluded."""
        return sum(ref.num_values for ref in self.refs.values())

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors as stored, tied ones once, `unused` ones included."""
        return sum(ref.num_bytes for ref in self.refs.values()) + self.unused_bytes

    @property
    def unused_bytes(self) -> int:
        """Bytes of the tensors that the transformers class has no parameter for."""
        return sum(ref.num_bytes for ref in self.unused.values())

    def to_model(self, dtype: torch.dtype | None = None) -> PreTrainedModel:
        """The transformers model with copies of the tensors, in eval mode, on the default device.

        Quantised weights are dequantised. The tokenizer is in `files`;
        `birdbone.models.load_tokenizer` loads it.

        Args:
            dtype: of all floating-point tensors; None for the dtype the device computes in.

        Raises:
            CheckpointError: a tensor of the model is missing.
            ModelError: transformers cannot build the model.
        """
        # Imported by name: the models package is built on this one.
        to_model = import_module("..models.reading.in_memory", __package__).to_model
        model: PreTrainedModel = to_model(self, dtype)
        return model

    def count_nonzero(self) -> int:
        """Number of non-zero parameters; loads every tensor, one at a time."""
        return sum(_count_nonzero(ref.load()) for ref in self.refs.values())

    def __repr__(self) -> str:
        # Without the id, which would read every tensor.
        kind = self.config.get("model_type", "model")
        size = f"{self.num_parameters:,} parameters, {self.num_bytes / 1e6:.1f} MB"
        return f"Checkpoint({self.source!r}, {kind}, {size})"


def _as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy as reading config.json back would give it: text keys, lists for tuples."""
    for key, value in config.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"config key '{key}' holds {value!r}, which config.json cannot represent "
                f"({error}); convert it to text or a number"
            ) from None
    copy: dict[str, Any] = json.loads(json.dumps(dict(config)))
    return copy


def _check_file_name(name: str) -> None:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name:
        raise CheckpointError(
            f"file name {name!r} points outside the folder; give a name relative to it"
        )


def _count_nonzero(tensor: Tensor) -> int:
    """Count non-zero values. Float8 has no such operation, so it is converted to float32."""
    narrow_float = tensor.is_floating_point() and tensor.itemsize == 1
    return int(torch.count_nonzero(tensor.float() if narrow_float else tensor))
