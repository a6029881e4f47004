"""save tried before a run: whether the chosen format holds the model and loads again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from ...checkpoints import Checkpoint
from ...contexts.allocation import Allocation
from ...contexts.flow import Savable
from ...errors import CheckpointError, ModelError, SettingError
from ...models.blocks.empty_model import shared_model
from ...models.writing.trial import as_plain, try_folder
from .formats import check_inputs, chosen_form
from .settings import SaveSettings
from .target import asked_format


def save_trial(ctx: Savable, settings: SaveSettings) -> None:
    """Refuse what the chosen format cannot hold or load again, from shapes alone.

    Raises:
        SettingError: the format and the weights do not go together; the message says what does.
        ModelError: GGUF has no name for a tensor, or no tokenizer of this kind.
    """
    checkpoint = ctx["checkpoint"]
    format = asked_format(settings.path, settings.format)
    allocation: Allocation | None = cast("Mapping[str, Any]", ctx).get("allocation")
    if allocation is not None and allocation.format == "gguf" != format:
        raise SettingError(
            f"save(path='{settings.path}') is a folder, and allocate chose the ggml types of a "
            f"GGUF file, which a folder stores as plain values; give the name of a GGUF file, or "
            f"set sensitivity(format='compressed-tensors')"
        )
    if format == "gguf":
        from ...formats.gguf_writer import try_gguf  # needs the extra gguf

        check_inputs(checkpoint)
        # Which blocks hold codes exactly depends on values, which an outline has not.
        try_gguf(as_plain(checkpoint), settings.kind or "f16")
        return
    chosen_form(checkpoint, format, settings.kind)
    try:
        try_folder(replace(checkpoint, unused={}))
    except CheckpointError as error:
        raise SettingError(
            f"save(path='{settings.path}'): {error}; {_ways_out(checkpoint)}"
        ) from error


def _ways_out(checkpoint: Checkpoint) -> str:
    """What to do instead, of which each was tried."""
    ways = []
    try:
        try_folder(replace(as_plain(checkpoint), unused={}))
        ways.append("leave quantize out, which saves plain values")
    except CheckpointError:
        ways.append("save the model with transformers")
    try:
        from ...formats.gguf_architectures import architecture_of  # needs the extra gguf

        architecture_of(shared_model(checkpoint).config)
        ways.append("save a GGUF file")
    except (ModelError, ImportError):  # not an architecture of llama.cpp, or no extra
        return ways[0]
    return " or ".join(ways)
