"""load: find a model, open it as a checkpoint, and check that its weights are finite."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Literal

import torch

from ..checkpoints import Checkpoint, all_finite
from ..checkpoints.devices import named_device
from ..checkpoints.durable import file_hash
from ..checkpoints.placement import Activations, Placement, Precision, placed
from ..checkpoints.shards import INDEX
from ..contexts.flow import Empty, Loaded, Partial
from ..contexts.forecast import Forecast
from ..engine import Settings, announce, in_thread, link
from ..errors import NumericsError
from ..models.blocks.empty_model import text_config
from ..models.blocks.exactness import check_exactness
from ..models.blocks.skeleton import Skeleton
from ..models.codecs.peft_adapter import ADAPTER_FILES
from ..models.evaluation.half_precision import check_half
from ..models.planning.outline import held_bytes, outlined_model
from ..models.reading.folder_files import sorted_files
from ..models.reading.opening import open_checkpoint
from ..models.reading.sources import Source, find_model
from ..models.reading.unused import without_unused

# To dequantise a parameter, and to read a token with its merge in a GGUF file (twice, one by one),
# on one thread of a common CPU.
_DECODE_SECONDS = 4e-8
_TOKEN_SECONDS = 1.3e-4

DType = Literal["auto", "float32", "bfloat16", "float16"]


class LoadSettings(Settings):
    """The settings of load."""

    model: str
    """A hub id, a local folder, a .gguf file, or package:NAME/FILE.gguf."""

    dtype: DType = "auto"
    """Dtype of the weights from here on; auto keeps that of the model (the weights of a quantised
    model are dequantised exactly, to float32 or for MXFP4 to bfloat16, and its other tensors keep
    their dtype)."""

    revision: str | None = None
    """Branch, tag or commit on the hub."""

    trust_remote_code: bool = False
    """Allow Python code of the model to run."""

    dequantize: bool = True
    """Read a quantised model (GGUF, compressed-tensors, bitsandbytes) as dequantised values, which
    can be pruned, healed or quantised again. If off, integers of compressed-tensors are kept, so
    that saving is lossless, and links that would change them refuse."""

    device: str = "auto"
    """The device that this and all later links compute on: cpu, or an accelerator such as cuda,
    cuda:1, xpu or mps. auto is the accelerator that torch.accelerator finds, else the CPU."""

    activations: Activations = "auto"
    """Where the hidden states of the calibration windows rest between blocks: on the device, or in
    the machine's memory (host), from where they are moved batch by batch. auto is the device unless
    they would take more than a quarter of its free memory."""

    precision: Precision = "auto"
    """Of matrix products in the passes over calibration text on a CPU: float32, or bfloat16, which
    is faster on processors with AMX or AVX512-BF16; auto is bfloat16 on these. Gram matrices,
    solvers and perplexities are always computed in float32."""

    keep_unused: bool = True
    """Carry tensors for which the transformers class has no parameters, such as heads for
    multi-token prediction, into the result unchanged. If off, they are left out and listed; the
    original model has them either way."""

    def placement(self) -> Placement | None:
        """Where to compute; None if every setting is auto."""
        chosen = Placement(self.device, self.activations, self.precision)
        return None if chosen == Placement() else chosen

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """The dtype; None for auto."""
        return None if self.dtype == "auto" else getattr(torch, self.dtype)


@link(LoadSettings)
async def load(ctx: Empty, settings: LoadSettings) -> Loaded:
    """Open a causal language model, as the current model and as the original it is compared with.

    Raises:
        ModelError: it cannot be found or read, or has no stack of blocks.
        NumericsError: a weight is NaN or infinite.
    """
    placement = settings.placement()
    with placed(placement):
        dense = await in_thread(_open, settings)
    checkpoint = dense if settings.keep_unused else without_unused(dense, "keep_unused is off")
    found: Loaded = {
        "checkpoint": checkpoint,
        "dense": dense,
        "metrics": {
            "parameters": dense.num_parameters,
            "bytes": dense.num_bytes,
            "unused_bytes": dense.unused_bytes,
        },
    }
    if placement is not None:
        found["placement"] = placement
    return found


def _open(settings: LoadSettings) -> Checkpoint:
    source = find_model(settings.model, revision=settings.revision)
    checkpoint = open_checkpoint(
        source,
        dtype=settings.torch_dtype,
        trust_remote_code=settings.trust_remote_code,
        dequantize=settings.dequantize,
    )
    skeleton = Skeleton(checkpoint)  # refuses a model without a stack of blocks
    check_weights(checkpoint, bounds=[name for name, _ in skeleton.model.named_buffers()])
    check_half(checkpoint)
    check_exactness(skeleton)
    return checkpoint


@load.check
def _check(ctx: Partial, settings: LoadSettings) -> None:
    """A device that this machine does not have."""
    named_device(settings.device)


@load.reads
def _reads(settings: LoadSettings) -> Mapping[str, str]:
    """Hashes of the model's files, so that another model under the same name is another."""
    source = find_model(settings.model, revision=settings.revision)
    if source.gguf:
        return {path.name: file_hash(path) for path in source.gguf_paths}
    weights = {path.name: path for path in source.folder.glob("*.safetensors")}
    paths, _ = sorted_files(source.folder, code=True, read=weights)
    paths |= weights | {n: source.folder / n for n in ("config.json", INDEX, *ADAPTER_FILES)}
    return {name: file_hash(path) for name, path in paths.items() if path.is_file()}


def check_weights(checkpoint: Checkpoint, *, bounds: Collection[str] = ()) -> None:
    """Refuse NaN and infinity in any tensor.

    Args:
        bounds: names of buffers, which may be infinite, such as bounds that clip nothing.

    Raises:
        NumericsError: naming the tensor and how many values.
    """
    for done, (name, ref) in enumerate(checkpoint.refs.items(), 1):
        tensor = ref.load()
        if name in bounds:
            tensor = tensor.nan_to_num(math.nan, posinf=0, neginf=0)
        if not all_finite(tensor):
            count = int((~torch.isfinite(tensor)).sum())
            raise NumericsError(
                f"tensor '{name}' holds {count} values that are NaN or infinite; "
                f"the file is damaged or the dtype {tensor.dtype} too narrow"
            )
        announce("checking weights", done, len(checkpoint.refs))


@load.on_every_rank
def _on_every_rank(settings: LoadSettings) -> bool:
    """Each rank opens the model."""
    return True


@load.forecast
def _forecast(ctx: Empty, settings: LoadSettings) -> Forecast:
    """The model in outline, from its config; each weight is read once and dequantised."""
    source = find_model(settings.model, revision=settings.revision, weights=False)
    checkpoint = outlined_model(
        source,
        settings.torch_dtype,
        trust_remote_code=settings.trust_remote_code,
        dequantize=settings.dequantize,
    )
    kept = checkpoint if settings.keep_unused else replace(checkpoint, unused={})
    placement = settings.placement()
    placing = {} if placement is None else {"placement": placement}
    return Forecast(
        adds={"checkpoint": kept, "dense": checkpoint, **placing},
        moved_bytes=3 * checkpoint.num_bytes,
        seconds=_decode_seconds(source, checkpoint),
        host_bytes=_host_bytes(source, checkpoint),
    )


def _decode_seconds(source: Source, checkpoint: Checkpoint) -> float:
    if not held_bytes(checkpoint):
        return 0.0
    tokens = 0 if source.gguf is None else int(text_config(checkpoint).vocab_size)
    return _DECODE_SECONDS * checkpoint.num_parameters + _TOKEN_SECONDS * tokens


def _host_bytes(source: Source, checkpoint: Checkpoint) -> int:
    """The dequantised weights, and for a GGUF file the file and its largest tensor twice, float32.

    Other quantised models are in float32 as a whole before they are cast.
    """
    held, whole = held_bytes(checkpoint), 4 * checkpoint.num_parameters
    largest = 4 * max(ref.num_values for ref in checkpoint.refs.values())
    if source.gguf is not None:
        return held + sum(path.stat().st_size for path in source.gguf_paths) + 2 * largest
    return held + (whole if 0 < held < whole else largest)
