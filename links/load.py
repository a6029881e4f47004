"""load: find a model, open it as a checkpoint, see that its weights are finite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch

from ..checkpoints import Checkpoint, all_finite
from ..checkpoints.durable import file_hash
from ..checkpoints.shards import INDEX
from ..contexts.flow import Empty, Loaded
from ..contexts.forecast import Forecast
from ..engine import announce, in_thread, link
from ..errors import NumericsError
from ..models.blocks.empty_model import text_config
from ..models.blocks.skeleton import Skeleton
from ..models.codecs.peft_adapter import ADAPTER_FILES
from ..models.planning.outline import held_bytes, outlined_model
from ..models.reading.folder_files import sorted_files
from ..models.reading.opening import open_checkpoint
from ..models.reading.sources import Source, find_model
from ..models.reading.unused import without_unused

# Of a parameter whose code is multiplied out, and of a token with its merge in a GGUF file, which
# is read twice one by one, on one thread of a common CPU.
_DECODE_SECONDS = 4e-8
_TOKEN_SECONDS = 1.3e-4

DType = Literal["auto", "float32", "bfloat16", "float16"]


@link
async def load(
    ctx: Empty,
    *,
    model: str,
    dtype: DType = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    dequantize: bool = True,
    keep_unused: bool = True,
) -> Loaded:
    """Open a causal language model; it becomes both the model at work and the dense reference.

    Settings:
        model: a hub id, a local folder, a .gguf file, or package:NAME/FILE.gguf.
        dtype: what weights are stored in from here on; auto keeps what the model has (codes of a
            quantised one are multiplied out exactly, to float32, and its other tensors keep their
            dtype).
        revision: branch, tag or commit on the hub.
        trust_remote_code: allow Python that the model brings to run.
        dequantize: read a model that is quantised already (GGUF, compressed-tensors, bitsandbytes)
            as the values its codes stand for, to be pruned, healed or quantised anew. Off, codes of
            compressed-tensors stay codes: saving loses nothing, and links that would change them
            refuse.
        keep_unused: carry tensors for which the transformers class has no parameters, such as
            heads for multi-token prediction, into the result unchanged. Off, they are left out
            and listed; the dense reference has them either way.
    """
    dense = await in_thread(_open, model, dtype, revision, trust_remote_code, dequantize)
    checkpoint = dense if keep_unused else without_unused(dense, "keep_unused is off")
    return {
        "checkpoint": checkpoint,
        "dense": dense,
        "metrics": {
            "parameters": dense.num_parameters,
            "bytes": dense.num_bytes,
            "unused_bytes": dense.unused_bytes,
        },
    }


def _open(
    model: str, dtype: DType, revision: str | None, trust_remote_code: bool, dequantize: bool
) -> Checkpoint:
    source = find_model(model, revision=revision)
    stored = None if dtype == "auto" else getattr(torch, dtype)
    checkpoint = open_checkpoint(
        source, dtype=stored, trust_remote_code=trust_remote_code, dequantize=dequantize
    )
    Skeleton(checkpoint)  # a model without a block stack is refused now, not at the first pass
    check_weights(checkpoint)
    return checkpoint


@load.reading
def _files(settings: Mapping[str, Any]) -> Mapping[str, str]:
    """The model's files by their content, so that another model under the same name is another."""
    source = find_model(settings["model"], revision=settings["revision"])
    if source.gguf:
        return {path.name: file_hash(path) for path in source.gguf_paths}
    weights = {path.name: path for path in source.folder.glob("*.safetensors")}
    paths, _ = sorted_files(source.folder, code=True, read=weights)
    paths |= weights | {n: source.folder / n for n in ("config.json", INDEX, *ADAPTER_FILES)}
    return {name: file_hash(path) for name, path in paths.items() if path.is_file()}


def check_weights(checkpoint: Checkpoint) -> None:
    """Refuse NaN and infinity in any tensor.

    Raises:
        NumericsError: naming the tensor and how many values.
    """
    for done, (name, ref) in enumerate(checkpoint.refs.items(), 1):
        tensor = ref.load()
        if not all_finite(tensor):
            count = int((~torch.isfinite(tensor)).sum())
            raise NumericsError(
                f"tensor '{name}' holds {count} values that are NaN or infinite; "
                f"the file is damaged or the dtype {tensor.dtype} too narrow"
            )
        announce("checking weights", done, len(checkpoint.refs))


@load.forecast
def _foretell(ctx: Mapping[str, Any], settings: Mapping[str, Any]) -> Forecast:
    """The model from its config: reading each weight once, and multiplying codes out."""
    dtype = None if settings["dtype"] == "auto" else getattr(torch, settings["dtype"])
    source = find_model(settings["model"], revision=settings["revision"], weights=False)
    checkpoint = outlined_model(
        source,
        dtype,
        trust_remote_code=settings["trust_remote_code"],
        dequantize=settings["dequantize"],
    )
    kept = checkpoint if settings["keep_unused"] else replace(checkpoint, unused={})
    return Forecast(
        adds={"checkpoint": kept, "dense": checkpoint},
        moved_bytes=3 * checkpoint.num_bytes,
        seconds=_decode_seconds(source, checkpoint),
        need_bytes=_need(source, checkpoint),
    )


def _decode_seconds(source: Source, checkpoint: Checkpoint) -> float:
    if not held_bytes(checkpoint):
        return 0.0
    tokens = 0 if source.gguf is None else int(text_config(checkpoint).vocab_size)
    return _DECODE_SECONDS * checkpoint.num_parameters + _TOKEN_SECONDS * tokens


def _need(source: Source, checkpoint: Checkpoint) -> int:
    """What is multiplied out, and meanwhile a GGUF file and its largest tensor twice in float32.

    Other quantised models are in float32 as a whole before they are made narrower.
    """
    held, whole = held_bytes(checkpoint), 4 * checkpoint.num_parameters
    largest = 4 * max(ref.num_values for ref in checkpoint.refs.values())
    if source.gguf is not None:
        return held + sum(path.stat().st_size for path in source.gguf_paths) + 2 * largest
    return held + (whole if 0 < held < whole else largest)
