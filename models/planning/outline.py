"""A checkpoint without values, for planning a run before any weight is loaded.

Shapes and dtypes come from the model that transformers builds from the config. A tensor that is
loaded is random, which is sufficient for timing a block.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...checkpoints import (
    BitsAndBytes,
    Checkpoint,
    GgmlBlocks,
    InMemory,
    Quantized,
    TensorRef,
    open_folder,
)
from ...checkpoints.coded import Float4, InputActivations, block_scales
from ...checkpoints.ggml_sizes import block_size
from ...checkpoints.shards import shard_paths
from ...checkpoints.store import StoredParts
from ...errors import ModelError
from ..blocks.config import check_depth
from ..blocks.empty_model import shared_model, tied_parameters
from ..blocks.transformers_errors import REFUSED, reason
from ..codecs.compressed_tensors import unpack
from ..codecs.gguf_config import gguf_config
from ..codecs.unpacked import Unpacked
from ..reading.converted import converted
from ..reading.folder_files import code_files, folder_files
from ..reading.kept_codes import codes_of
from ..reading.quantized import COMPRESSED_TENSORS, dequantised_dtype, multiplied_out
from ..reading.sources import Source, read_config
from ..reading.tied_weights import with_config_settled
from ..reading.unused import quantised_parameters, unused_tensors

_DRAWN = 1 << 16  # random values; larger tensors repeat them, since drawing is slow
_SPREAD = 0.02  # standard deviation of random weights: activations of a block stay finite


class Outlined(TensorRef):
    """A tensor that does not exist yet: shape and dtype only.

    Attributes:
        held: whether it will be in memory, rather than read from disk when needed.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, *, held: bool) -> None:
        self.shape, self.dtype, self.held = shape, dtype, held

    def load(self) -> Tensor:
        if not self.dtype.is_floating_point:
            return torch.zeros(self.shape, dtype=self.dtype)
        generator, size = torch.Generator().manual_seed(0), self.num_values
        drawn = torch.randn(min(size, _DRAWN), generator=generator) * _SPREAD
        times = -(-size // len(drawn)) if size else 0
        return drawn.to(self.dtype).repeat(times)[:size].reshape(self.shape)

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(f"outline {self.dtype} {self.shape}".encode()).hexdigest()


def outlined_model(
    source: Source,
    dtype: torch.dtype | None,
    *,
    trust_remote_code: bool = False,
    dequantize: bool = True,
) -> Checkpoint:
    """The checkpoint of the model at ``source`` without values.

    Args:
        dtype: dtype of floating-point tensors; default the config's, with dequantised
            weights in the dtype that holds their values.
        trust_remote_code: allow Python code of the model's folder to run.
        dequantize: dequantise quantised weights; otherwise they stay quantised where possible.

    Raises:
        ModelError: its config cannot be read or built, or asks for more than its files hold.
        CheckpointError: its weight files are missing or damaged.
    """
    config = _config(source)
    # With its tokenizer, but that of a GGUF file, which takes seconds to read.
    files = code_files(source.folder) if trust_remote_code else {}
    if source.gguf is None:
        files = folder_files(source.folder, code=trust_remote_code).carried
    if not trust_remote_code:
        config.pop("auto_map", None)
    quantization = config.pop("quantization_config", None)
    stored = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), torch.float32)
    chosen = dtype or (torch.float32 if source.gguf else stored)
    # Values converted at load stay on disk; dequantised values and those of GGUF are in memory.
    config["dtype"] = str(chosen).removeprefix("torch.")
    bare = Checkpoint(config, {}, files, source=source.label)
    codes: Mapping[str, TensorRef] = {}
    if source.gguf is None and source.has_weights:
        check_depth(bare, lambda: len(open_folder(source.folder)))
        bare = _as_held(bare, open_folder(source.folder), quantization)
        codes = {} if dequantize else _kept_codes(bare, quantization, source)
    multiplied = (source.gguf is not None or bool(quantization)) and not codes
    outline = outlined(bare, chosen, held=multiplied)
    if multiplied and dtype is None:
        outline = _multiplied_out(outline, source, dequantised_dtype(quantization))
    if source.has_weights:
        _check_size(outline, source)
    return exchanged(outline, {name: ref for name, ref in codes.items() if name in outline.refs})


def _multiplied_out(outline: Checkpoint, source: Source, dtype: torch.dtype) -> Checkpoint:
    """The outline with weights that a folder holds as codes in the dtype of their values."""
    if source.gguf is not None or not source.has_weights:
        return outline
    coded = quantised_parameters(shared_model(outline), open_folder(source.folder))
    wide = {
        name: Outlined(ref.shape, dtype, held=True)
        for name, ref in outline.refs.items()
        if name in coded
    }
    return exchanged(outline, wide)


def _as_held(bare: Checkpoint, held: Mapping[str, TensorRef], quantization: Any) -> Checkpoint:
    """The config corrected by the weights (an untied head), with the unused tensors."""
    values = multiplied_out(held, quantization, bare.source) if quantization else held
    if values is not None:  # None: a format that only transformers reads
        bare = replace(with_config_settled(replace(bare, refs=values)), refs={})
    unused = unused_tensors(shared_model(bare), held).items()
    return replace(
        bare, unused={n: Outlined(ref.shape, ref.dtype, held=False) for n, ref in unused}
    )


def _kept_codes(bare: Checkpoint, quantization: Any, source: Source) -> Mapping[str, TensorRef]:
    """The quantised weights that are kept as such, by name, without values."""
    if not isinstance(quantization, dict) or quantization.get("quant_method") != COMPRESSED_TENSORS:
        return {}
    found = unpack(open_folder(source.folder), quantization) or {}
    return codes_of(converted(shared_model(bare), found), Unpacked.outline)


def _check_size(outline: Checkpoint, source: Source) -> None:
    """Refuse a config with more parameters than the files have bits, before building a block."""
    files = source.gguf_paths or shard_paths(source.folder)
    held = sum(path.stat().st_size for path in files)
    if outline.num_parameters > 8 * held:
        raise ModelError(
            f"config of '{source.label}' asks for {outline.num_parameters:,} parameters, more than "
            f"weight files of {held:,} bytes can hold; fetch config and weights from one place"
        )


def _config(source: Source) -> dict[str, Any]:
    config: dict[str, Any]
    try:
        if source.gguf is not None:
            found = gguf_config(*source.gguf_paths)
            config = json.loads(found.to_json_string(use_diff=False))
        else:
            config = read_config(source)
    except REFUSED as error:
        raise ModelError(f"config of '{source.label}' cannot be read: {reason(error)}") from error
    config.pop("_name_or_path", None)
    return config


def outlined(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    *,
    held: bool,
    config: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """A checkpoint with some config keys changed and the tensors of that model, without values."""
    changed = replace(checkpoint, config={**checkpoint.config, **(config or {})}, refs={})
    model = shared_model(changed)
    tied = tied_parameters(model)
    refs = {
        name: Outlined(
            tuple(tensor.shape),
            dtype if tensor.is_floating_point() else tensor.dtype,
            held=held,
        )
        for name, tensor in model.state_dict().items()
        if name not in tied
    }
    return replace(changed, refs=refs)


def exchanged(checkpoint: Checkpoint, refs: Mapping[str, TensorRef]) -> Checkpoint:
    """The checkpoint with some references replaced; unlike `evolve`, hashes no value."""
    return replace(checkpoint, refs={**checkpoint.refs, **refs})


def outlined_codes(
    ref: TensorRef,
    bits: int,
    groups: int,
    dtype: torch.dtype,
    *,
    codes_dtype: torch.dtype = torch.int8,
    input_activations: InputActivations | None = None,
    block_size: int | None = None,
    float4: Float4 | None = None,
) -> Quantized:
    """The quantised form of a weight [out_features, in_features] or of experts, without values."""
    by_row = (*ref.shape[:-1], groups)
    shape = by_row if block_size is None else block_scales(ref.shape, block_size)
    codes = torch.empty(ref.shape, dtype=codes_dtype, device="meta")
    scales = torch.empty(shape, dtype=dtype, device="meta")
    return Quantized(
        codes,
        scales,
        bits=bits,
        input_activations=input_activations,
        block_size=block_size,
        float4=float4,
        global_scale=torch.empty(1, device="meta") if float4 == "nvfp4" else None,
    )


def outlined_blocks(shape: tuple[int, int], kind: str, *, transposed: bool) -> GgmlBlocks:
    """The ggml blocks of a weight, on the meta device.

    Args:
        shape: ``[out_features, in_features]``.
    """
    values, size = block_size(kind)
    blocks = torch.empty(shape[0], shape[1] // values * size, dtype=torch.uint8, device="meta")
    return GgmlBlocks(blocks, kind=kind, transposed=transposed)


def held_bytes(*checkpoints: Checkpoint) -> int:
    """Bytes in memory of several checkpoints; shared tensors count once."""
    refs = {id(ref): ref for each in checkpoints for ref in each.refs.values()}
    return sum(_held(ref) for ref in refs.values())


def _held(ref: TensorRef) -> int:
    if isinstance(ref, StoredParts):
        return 0
    if isinstance(ref, Quantized | GgmlBlocks):
        return sum(part.numel() * part.itemsize for part in ref.parts().values())
    if isinstance(ref, BitsAndBytes):
        return ref.num_values * ref.dtype.itemsize + _held(ref.source)
    return ref.num_bytes if in_memory(ref) else 0


def in_memory(ref: TensorRef) -> bool:
    """Whether a tensor's values are in memory, rather than read from a file when needed."""
    return ref.held if isinstance(ref, Outlined) else isinstance(ref, InMemory)
