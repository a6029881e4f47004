"""Write a checkpoint as a Hugging Face folder, with the tensor names that transformers loads.

transformers converts some names and shapes when it loads (experts stored one by one, renamed
heads). Its own reverse conversion is applied to groups of tensors, so that a model larger than
memory is written block by block.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.pytorch_utils import Conv1D

from ...checkpoints import (
    BitsAndBytes,
    Checkpoint,
    Converted,
    GgmlBlocks,
    Quantized,
    TensorRef,
    write_folder,
)
from ...checkpoints.allocator import release_unused_memory
from ...checkpoints.safetensors_layout import StoredTensor
from ...checkpoints.shards import append_to_folder, sync
from ...errors import CheckpointError, ModelError
from ..blocks.announcing import AnnounceCount
from ..blocks.config import has_code
from ..blocks.embeddings import embedding_paths
from ..blocks.empty_model import empty_model, find_blocks, shared_model, tied_parameters
from ..blocks.experts_apart import apart
from ..codecs.bitsandbytes import quantize_folder
from ..codecs.compressed_tensors_writing import (
    packed,
    packed_outline,
    per_row,
    per_row_outline,
    quantization_config,
)
from .wrapper_names import names_for_files

Ref = TypeVar("Ref", bound=TensorRef)


def _silent(done: int, total: int) -> None:
    """Announce nothing."""


def write_model(
    checkpoint: Checkpoint, folder: Path, *, max_shard_bytes: int, announce: AnnounceCount = _silent
) -> None:
    """Write weights, config, tokenizer and other files into an existing, private folder.

    Quantised weights are written packed, or as bitsandbytes stores them, and other tensors
    unchanged, including those that match no parameter. The same checkpoint gives the same weight
    files, byte for byte.

    Args:
        announce: called with the number of groups of tensors written and their total; may raise
            to stop.

    Raises:
        CheckpointError: quantised weights of several formats, or ones the format does not support.
        ModelError: the architecture is unknown.
        MissingExtraError: bitsandbytes is needed and not installed.
    """
    checkpoint = _without_blocks(checkpoint)
    model = empty_model(checkpoint)
    config = dict(checkpoint.config)
    codes = _of_kind(checkpoint, Quantized)
    handed_over = _of_kind(checkpoint, BitsAndBytes)
    _check_quantized(model, codes, handed_over)
    if handed_over:
        config["quantization_config"] = _write_bitsandbytes(
            checkpoint, model, folder, max_shard_bytes, announce
        )
    else:
        outgoing = _Outgoing(checkpoint, model, announce)
        write_folder(
            folder,
            outgoing,
            outgoing.stored,
            max_bytes=max_shard_bytes,
            verbatim=checkpoint.unused.keys(),
        )
        if codes:
            config["quantization_config"] = _codes_config(model, codes, outgoing.outline)
    write_files(folder, {**checkpoint.files, "config.json": _as_json(config)})


def _without_blocks(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with ggml blocks dequantised, which transformers has no format for."""
    blocks = _of_kind(checkpoint, GgmlBlocks)
    if not blocks:
        return checkpoint
    warnings.warn(
        f"{len(blocks)} weights on ggml's blocks are written as the values they stand for, so the "
        f"folder gets no smaller by them; a GGUF file holds them as they are",
        stacklevel=3,
    )
    dtype = getattr(torch, str(checkpoint.config.get("dtype")), torch.float32)
    values = {name: Converted(ref, dtype) for name, ref in blocks.items()}
    return replace(checkpoint, refs={**checkpoint.refs, **values})


def weight_format(checkpoint: Checkpoint) -> str:
    """The storage format of the quantised weights: ``dense``, ``packed``, ``nf4``, ``llm.int8``."""
    for ref in checkpoint.refs.values():
        if isinstance(ref, BitsAndBytes):
            return "nf4" if ref.kind == "nf4.single" else ref.kind
        if isinstance(ref, Quantized):
            return "packed"
    return "dense"


def _of_kind(checkpoint: Checkpoint, kind: type[Ref]) -> dict[str, Ref]:
    return {name: ref for name, ref in checkpoint.refs.items() if isinstance(ref, kind)}


def _modules(model: PreTrainedModel, *kinds: type[nn.Module]) -> list[str]:
    return [path for path, module in model.named_modules() if isinstance(module, kinds)]


def _check_quantized(
    model: PreTrainedModel, codes: Mapping[str, Quantized], handed_over: Mapping[str, BitsAndBytes]
) -> None:
    """Refuse several formats in one folder, and quantised tensors that no format holds."""
    formats = {ref.kind for ref in handed_over.values()} | ({"packed"} if codes else set())
    if len(formats) > 1:
        raise CheckpointError(
            f"weights are quantised as {' and '.join(sorted(formats))}; one folder holds one "
            f"format: quantise every layer the same way"
        )
    linears = {f"{path}.weight" for path in _modules(model, nn.Linear)}
    others = _stored_per_row(model, codes).keys() | _experts(codes).keys()
    for name in sorted((codes.keys() | handed_over.keys()) - linears - others):
        raise CheckpointError(
            f"'{name}' is quantised but belongs to no nn.Linear, and no packed format of "
            f"transformers holds it; leave it dense"
        )


def _stored_per_row(model: PreTrainedModel, codes: Mapping[str, Quantized]) -> dict[str, list[str]]:
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


def _experts(codes: Mapping[str, Quantized]) -> dict[str, Quantized]:
    """The tensors of all experts of a block, which are packed one by one."""
    return {name: ref for name, ref in codes.items() if len(ref.shape) == 3}


def _codes_config(
    model: PreTrainedModel, codes: Mapping[str, Quantized], outline: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The quantisation settings of a folder with integer codes, 8-bit embeddings included.

    Args:
        outline: the tensors of the folder.
    """
    stored = _stored_per_row(model, codes).items()
    rows = [each for name, heads in stored for each in (name, *heads)]
    linears, experts = _modules(model, nn.Linear), list(_experts(codes).values())
    inside = f"{find_blocks(model)[0]}."
    dense = [
        name.removesuffix(".weight")
        for name, tensor in outline.items()
        if name.startswith(inside) and name.endswith(".weight") and tensor.ndim == 2
    ]
    return quantization_config(
        codes,
        linears,
        [name.removesuffix(".weight") for name in rows],
        experts,
        [path for path in dense if path not in linears] if experts else (),
    )


def folder_outline(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the tensors, on the meta device, of the folder `write_model` would write.

    For bitsandbytes: the dense tensors it receives.

    Raises:
        CheckpointError, ModelError: see `write_model`.
    """
    checkpoint = _without_blocks(checkpoint)
    model = shared_model(checkpoint)
    config = dict(checkpoint.config)
    codes, handed_over = _of_kind(checkpoint, Quantized), _of_kind(checkpoint, BitsAndBytes)
    _check_quantized(model, codes, handed_over)
    outline = _Outgoing(checkpoint, model, _silent).outline
    if codes:
        config["quantization_config"] = _codes_config(model, codes, outline)
    return config, outline


def converted_together(checkpoint: Checkpoint) -> list[list[str]]:
    """The names of the tensors that are in memory together while a folder is written.

    Single names, or those of a block if transformers converts names or shapes. Nothing is read.

    Raises:
        ModelError: the architecture is unknown, or a tensor is made from several blocks.
    """
    plain = replace(checkpoint, unused={})
    return _Outgoing(plain, shared_model(plain), _silent).groups


class _Outgoing(Mapping[str, Tensor]):
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
        self._is_packed = weight_format(checkpoint) == "packed"
        self._has_experts = bool(_experts(_of_kind(checkpoint, Quantized)))
        self._rows = _stored_per_row(model, _of_kind(checkpoint, Quantized))
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
                for each, matrix in self._apart(name, ref, _on_meta(ref)).items():
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
                for each, matrix in self._apart(name, ref, ref.parts()).items():
                    values.update(packed(each, matrix))
            else:
                values.update(self._dense(name, ref.load()))
        return values

    def _apart(
        self, name: str, ref: Quantized, parts: Mapping[str, Tensor]
    ) -> Mapping[str, Quantized]:
        """The weight itself by its name; of experts the matrix of each by its name in files."""
        if len(ref.shape) == 2:
            return {name: ref}
        codes, scales = (apart(self._model, name, parts[part]) for part in ("codes", "scales"))
        inputs = ref.input_activations
        return {
            each: Quantized(codes[each], scales[each], bits=ref.bits, input_activations=inputs)
            for each in codes
        }

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
    scales = (*ref.shape[:-1], ref.num_groups)
    codes = torch.float8_e4m3fn if ref.is_float else torch.int8
    return {
        "codes": torch.empty(ref.shape, dtype=codes, device="meta"),
        "scales": torch.empty(scales, dtype=ref.dtype, device="meta"),
    }


def _write_bitsandbytes(
    checkpoint: Checkpoint,
    model: PreTrainedModel,
    folder: Path,
    max_bytes: int,
    announce: AnnounceCount,
) -> dict[str, Any]:
    """Write the dense weights to a temporary folder and convert it with bitsandbytes.

    Returns the quantization settings of the result."""
    sources = {
        name: ref.source if isinstance(ref, BitsAndBytes) else ref
        for name, ref in checkpoint.refs.items()
    }
    with tempfile.TemporaryDirectory(dir=folder, prefix=".dense-") as aside:
        write_model(
            replace(checkpoint, refs=sources, unused={}),
            Path(aside),
            max_shard_bytes=max_bytes,
            announce=announce,
        )
        quantize_folder(
            Path(aside),
            folder,
            kind=next(iter(_of_kind(checkpoint, BitsAndBytes).values())).kind,
            skipped=left_dense(checkpoint, model),
            dtype=getattr(torch, str(checkpoint.config.get("dtype")), torch.float32),
            max_shard_bytes=max_bytes,
            trust_remote_code=has_code(checkpoint),
        )
    sync(folder.glob("*.safetensors"))
    if checkpoint.unused:
        append_to_folder(folder, checkpoint.unused)
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings: dict[str, Any] = written["quantization_config"]
    return settings


def left_dense(checkpoint: Checkpoint, model: PreTrainedModel) -> Sequence[str]:
    """Paths of the linears that are not meant for bitsandbytes."""
    covered = {name.removesuffix(".weight") for name in _of_kind(checkpoint, BitsAndBytes)}
    return [path for path in _modules(model, nn.Linear, Conv1D) if path not in covered]


def _as_json(config: Mapping[str, Any]) -> bytes:
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by name into a folder and sync them to the disk."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    sync(folder / name for name in files)
