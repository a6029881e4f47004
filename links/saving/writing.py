"""Write a model to a private folder, in the format it is saved in."""

from __future__ import annotations

from pathlib import Path

from ...checkpoints import BitsAndBytes, Checkpoint
from ...engine import announce, in_thread
from ...models.writing.folder import write_model
from .gguf import file_name, write_file
from .settings import SaveSettings

_SPARE_BYTES = 64 << 20  # tokenizer, card and the headers of safetensors


def needed_bytes(checkpoint: Checkpoint, dense: Checkpoint | None) -> int:
    """Peak bytes on disk: the saved model, temporary copies, and the original if compared."""
    sources = [ref.source for ref in checkpoint.refs.values() if isinstance(ref, BitsAndBytes)]
    aside = sum(source.num_bytes for source in sources)
    beside = 0 if dense is None else dense.num_bytes
    return checkpoint.num_bytes + aside + beside + _SPARE_BYTES


async def write_as(
    form: str, checkpoint: Checkpoint, folder: Path, target: Path, settings: SaveSettings
) -> None:
    """Write the model to ``folder`` in the chosen format; ``target`` names a GGUF file."""
    if form == "gguf":
        await write_file(checkpoint, folder / file_name(target), settings.kind)
    else:
        await write_as_folder(checkpoint, folder, settings)


async def write_as_folder(checkpoint: Checkpoint, folder: Path, settings: SaveSettings) -> None:
    """Write a Hugging Face folder and announce every tensor."""

    def announce_tensors(done: int, total: int) -> None:
        announce("tensors written", done, total)

    size = int(settings.max_shard_gb * 1e9)
    await in_thread(
        write_model, checkpoint, folder, max_shard_bytes=size, announce=announce_tensors
    )
