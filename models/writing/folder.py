"""Write a checkpoint as a Hugging Face folder, with the tensor names that transformers loads."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ...checkpoints import (
    BitsAndBytes,
    Checkpoint,
    Converted,
    GgmlBlocks,
    Quantized,
    write_folder,
)
from ...checkpoints.shards import append_to_folder, sync
from ...errors import CheckpointError
from ..blocks.announcing import AnnounceCount
from ..blocks.config import has_code
from ..blocks.empty_model import empty_model, find_blocks, shared_model
from ..codecs.bitsandbytes import quantize_folder
from ..codecs.compressed_tensors_writing import (
    quantization_config,
)
from .outgoing import Outgoing, of_kind, packed_experts, stored_per_row


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
    codes = of_kind(checkpoint, Quantized)
    handed_over = of_kind(checkpoint, BitsAndBytes)
    _check_quantized(model, codes, handed_over)
    if handed_over:
        config["quantization_config"] = _write_bitsandbytes(
            checkpoint, model, folder, max_shard_bytes, announce
        )
    else:
        outgoing = Outgoing(checkpoint, model, announce)
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
    blocks = of_kind(checkpoint, GgmlBlocks)
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
    others = stored_per_row(model, codes).keys() | packed_experts(codes).keys()
    for name in sorted((codes.keys() | handed_over.keys()) - linears - others):
        raise CheckpointError(
            f"'{name}' is quantised but belongs to no nn.Linear, and no packed format of "
            f"transformers holds it; leave it dense"
        )


def _codes_config(
    model: PreTrainedModel, codes: Mapping[str, Quantized], outline: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The quantisation settings of a folder with integer codes, 8-bit embeddings included.

    Args:
        outline: the tensors of the folder.
    """
    stored = stored_per_row(model, codes).items()
    rows = [each for name, heads in stored for each in (name, *heads)]
    linears, experts = _modules(model, nn.Linear), list(packed_experts(codes).values())
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
    codes, handed_over = of_kind(checkpoint, Quantized), of_kind(checkpoint, BitsAndBytes)
    _check_quantized(model, codes, handed_over)
    outline = Outgoing(checkpoint, model, _silent).outline
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
    return Outgoing(plain, shared_model(plain), _silent).groups


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
            kind=next(iter(of_kind(checkpoint, BitsAndBytes).values())).kind,
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
    covered = {name.removesuffix(".weight") for name in of_kind(checkpoint, BitsAndBytes)}
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
