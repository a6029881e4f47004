"""Describe a model from its config, headers and provenance record.

Weights are read only if the config ties two tensors and the files hold both.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ..checkpoints import Checkpoint, TensorRef, open_folder
from ..checkpoints.shards import shard_paths
from ..errors import ModelError
from ..models.blocks.empty_model import empty_model, find_blocks, tied_parameters
from ..models.blocks.linears import find_linears
from ..models.blocks.transformers_errors import REFUSED, reason
from ..models.codecs.gguf_config import gguf_config
from ..models.reading.gguf_header import read_tensors
from ..models.reading.opening import open_checkpoint
from ..models.reading.sources import Source, find_model, read_config
from ..models.reading.tied_weights import with_config_settled
from ..models.writing.publishing import PROVENANCE
from .inventory import Inventory, inventory, num_parameters


@dataclass(frozen=True)
class BlockLinear:
    """A weight matrix of a block; ``count`` is above 1 if experts share one tensor."""

    name: str
    out_features: int
    in_features: int
    count: int = 1


@dataclass(frozen=True)
class BlockGroup:
    """Consecutive blocks, ``first`` to ``last``, whose linears have the same names and shapes."""

    first: int
    last: int
    linears: tuple[BlockLinear, ...]


@dataclass(frozen=True)
class Inspection:
    """A model as its config and headers describe it.

    Attributes:
        parameters: number of parameters; tied ones count once, quantised ones unpacked.
        weight_bytes: bytes on disk of the weight files.
        stored_bytes: bytes of tensor data by stored dtype, largest first.
        tied: whether the output head shares the weights of the embedding.
        path: module path of the blocks, such as ``model.layers``.
        quantization: ``quantization_config`` of the config, or None.
        contents: what of the source is in the model, what is carried and what is not.
        provenance: the record that birdbone saved with the model, or None.
        zero_share: fraction of parameters that are zero, or None if weights were not read.
    """

    name: str
    architecture: str
    model_type: str
    parameters: int
    weight_bytes: int
    stored_bytes: Mapping[str, int]
    tied: bool
    path: str
    blocks: tuple[BlockGroup, ...]
    contents: Inventory
    quantization: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] | None = None
    zero_share: float | None = None

    @property
    def num_blocks(self) -> int:
        """Number of decoder blocks."""
        return self.blocks[-1].last + 1 if self.blocks else 0

    @property
    def dtype(self) -> str:
        """The dtype that most bytes of the weights are stored in."""
        return next(iter(self.stored_bytes), "none")

    def as_dict(self) -> dict[str, Any]:
        """The record as types that JSON can represent."""
        return {**asdict(self), "num_blocks": self.num_blocks, "dtype": self.dtype}


def inspect_model(name: str, *, zeros: bool = False) -> Inspection:
    """Describe a hub id, a folder, quantised or not, or a GGUF file.

    Args:
        zeros: also count zeros, which reads all weights.

    Raises:
        ModelError: there is no model, or it is not a stack of blocks, or zeros cannot be counted
            because the quantisation method is not supported.
        CheckpointError: weight files are missing, pickled or damaged.
    """
    source = find_model(name)
    if source.gguf is not None:
        config, refs, stored, size = _gguf(source)
    else:
        config, refs, stored, size = _folder(source)
    held = Checkpoint(config, refs, source=source.label)
    model = empty_model(with_config_settled(held) if refs else held)
    contents = inventory(source, model, refs, config.get("quantization_config"))
    path, blocks = find_blocks(model)
    shapes = [_linears(block, f"{path}.{index}.") for index, block in enumerate(blocks)]
    return Inspection(
        name=source.label,
        architecture=type(model).__name__,
        model_type=str(config["model_type"]),
        parameters=num_parameters(model),
        weight_bytes=size,
        stored_bytes=dict(sorted(stored.items(), key=lambda item: -item[1])),
        tied=bool(tied_parameters(model)),
        path=path,
        blocks=_grouped(shapes),
        contents=contents,
        quantization=_mapping(config.get("quantization_config")),
        provenance=None if source.gguf else _provenance(source.folder),
        zero_share=_zero_share(source) if zeros else None,
    )


def _folder(
    source: Source,
) -> tuple[dict[str, Any], Mapping[str, TensorRef], dict[str, int], int]:
    """Config, tensors, bytes by stored dtype, and bytes on disk of a Hugging Face folder."""
    config = read_config(source)
    stored: dict[str, int] = {}
    refs = open_folder(source.folder)
    for ref in refs.values():
        kind = str(ref.dtype).removeprefix("torch.")
        stored[kind] = stored.get(kind, 0) + ref.num_bytes
    size = sum(shard.stat().st_size for shard in shard_paths(source.folder))
    return config, refs, stored, size


def _gguf(
    source: Source,
) -> tuple[dict[str, Any], Mapping[str, TensorRef], dict[str, int], int]:
    """The same for a GGUF model, without tensors; only the headers of its files are read."""
    tensors = read_tensors(source)
    try:
        found = gguf_config(*source.gguf_paths)
    except REFUSED as error:
        raise ModelError(f"'{source.label}' cannot be read as GGUF: {reason(error)}") from error
    stored: dict[str, int] = {}
    for tensor in tensors:
        kind = tensor.tensor_type.name
        stored[kind] = stored.get(kind, 0) + int(tensor.n_bytes)
    return (
        json.loads(found.to_json_string(use_diff=False)),
        {},
        stored,
        sum(path.stat().st_size for path in source.gguf_paths),
    )


def _linears(block: Any, prefix: str) -> tuple[BlockLinear, ...]:
    """The linears of a block by tensor; experts in one tensor are counted together."""
    by_tensor = groupby(find_linears(block, prefix), key=lambda linear: linear.tensor)
    found = []
    for tensor, same in by_tensor:
        linears = list(same)
        name = tensor.removeprefix(prefix).removesuffix(".weight")
        found.append(BlockLinear(name, *linears[0].shape, count=len(linears)))
    return tuple(found)


def _grouped(shapes: Sequence[tuple[BlockLinear, ...]]) -> tuple[BlockGroup, ...]:
    groups = []
    for linears, same in groupby(enumerate(shapes), key=lambda each: each[1]):
        indices = [index for index, _ in same]
        groups.append(BlockGroup(indices[0], indices[-1], linears))
    return tuple(groups)


def _provenance(folder: Path) -> Mapping[str, Any] | None:
    path = folder / PROVENANCE
    if not path.is_file():
        return None
    try:
        found = _mapping(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        warnings.warn(f"{PROVENANCE} cannot be read and is ignored: {error}", stacklevel=2)
        return None
    if found is None:
        warnings.warn(f"{PROVENANCE} holds no record and is ignored", stacklevel=2)
    return found


def _mapping(found: object) -> Mapping[str, Any] | None:
    return found if isinstance(found, Mapping) else None


def _zero_share(source: Source) -> float:
    checkpoint = open_checkpoint(source)
    return 1 - checkpoint.count_nonzero() / checkpoint.num_parameters


def done_to(found: Inspection) -> Iterable[str]:
    """The steps that made the model, one line each, as far as its folder records them."""
    if found.quantization is not None:
        yield f"quantised: {_quantization(found.quantization)}"
    if found.provenance is None:
        return
    yield f"made by birdbone {found.provenance.get('birdbone')}"
    yield f"from {found.provenance.get('source') or 'an unnamed model'}"
    steps = found.provenance.get("steps")
    for step in steps if isinstance(steps, list) else []:
        if isinstance(step, Mapping):
            settings = _mapping(step.get("settings")) or {}
            written = ", ".join(f"{name}={value!r}" for name, value in settings.items())
            yield f"{step.get('link')}({written})"


def _quantization(config: Mapping[str, Any]) -> str:
    """The entries of a quantization_config that identify the format."""
    known = ("quant_method", "format", "bnb_4bit_quant_type", "load_in_8bit")
    words = [f"{key}={config[key]}" for key in known if config.get(key)]
    groups = _mapping(config.get("config_groups")) or {}
    grids = [_grid(_mapping(group) or {}) for group in groups.values()]
    return ", ".join([*words, *dict.fromkeys(filter(None, grids))]) or "method not stated"


def _grid(group: Mapping[str, Any]) -> str:
    weights = _mapping(group.get("weights")) or {}
    if "num_bits" not in weights:
        return ""
    size, block = weights.get("group_size"), weights.get("block_structure")
    if block:
        return f"{weights['num_bits']} bits in blocks of {' by '.join(map(str, block))}"
    return f"{weights['num_bits']} bits " + (
        f"in groups of {size}" if size else "with one scale per row"
    )
