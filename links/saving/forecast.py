"""The cost of save: folders written, fresh processes, and windows read."""

from __future__ import annotations

from ...checkpoints import Checkpoint
from ...contexts.flow import Savable
from ...contexts.forecast import Forecast
from ...contexts.verdict import judged_texts
from ...models.blocks.device import default_device
from ...models.blocks.empty_model import text_config
from ...models.evaluation.record import probe_windows
from ...models.planning.effort import num_blocks
from ...models.planning.memory import pass_bytes, written_bytes
from ...models.writing.folder import converted_together
from ...texts import Windows
from .settings import SaveSettings
from .target import asked_format

_TOKENIZER_BYTES = 4 << 20  # of a GGUF file, which is not read before the run
_RECORDS_BYTES = 128 << 10
_PROCESS_BYTES = 512 << 20  # an interpreter with its libraries, and one batch of logits


def save_forecast(ctx: Savable, settings: SaveSettings) -> Forecast:
    """Two folders written, three fresh processes that open them, windows of each text read."""
    light, dense = ctx["checkpoint"], ctx["dense"]
    models = 2 if settings.compare else 1
    read = sum(windows.num_windows for windows in judged_texts(ctx).values())
    here = 0 if "verdict" in ctx else read  # scored in memory if no link did so before
    runs = models * (read + 2) + here
    beside = dense.num_bytes if settings.compare else 0
    return Forecast(
        adds={"saved": None},
        block_passes=num_blocks(light) * runs,
        head_passes=runs,
        decoded_tokens=models * 24 * 6 + _sampled_tokens(settings),
        starts=models + 1,
        moved_bytes=6 * (light.num_bytes + beside),
        memory_bytes=_memory_bytes(ctx, settings),
        process_bytes=models * 4 * dense.num_parameters + _PROCESS_BYTES,
        disk_bytes=light.num_bytes + _beside_bytes(light),
        passing_disk_bytes=beside,
    )


def _beside_bytes(light: Checkpoint) -> int:
    """Tokenizer and other files that the model comes with, card and records."""
    carried = sum(len(data) for data in light.files.values())
    return (carried or _TOKENIZER_BYTES) + _RECORDS_BYTES


def _sampled_tokens(settings: SaveSettings) -> int:
    """Steps of decoding for the samples: prompts from text run together, those of chats alone."""
    return 2 * 48 * min(settings.samples, 2) if settings.compare else 0


def _memory_bytes(ctx: Savable, settings: SaveSettings) -> int:
    """The model being scored, or the tensors being written; without the fresh processes.

    Tensors are written from the machine's memory, so a GPU need not hold them.
    """
    light, heldout = ctx["checkpoint"], ctx.get("heldout")
    needs = [_scored_bytes(light, probe_windows(light, heldout, settings.proof_tokens))]
    if "verdict" not in ctx:
        needs += [_scored_bytes(light, windows) for windows in judged_texts(ctx).values()]
    if default_device().type == "cpu":
        needs.append(_writing_bytes(ctx, settings))
    return max(needs)


def _writing_bytes(ctx: Savable, settings: SaveSettings) -> int:
    """Writing the light model, and the original as a folder if the two are compared."""
    light, dense = ctx["checkpoint"], ctx["dense"]
    is_folder = asked_format(settings.path, settings.format) != "gguf"
    groups = converted_together(light) if is_folder else [[name] for name in light.refs]
    beside = written_bytes(dense, converted_together(dense)) if settings.compare else 0
    return max(written_bytes(light, groups), beside)


def _scored_bytes(checkpoint: Checkpoint, windows: Windows) -> int:
    """A pass of one window at a time, and two copies of one window's log-probabilities."""
    logits = 4 * windows.length * int(text_config(checkpoint).vocab_size)
    return pass_bytes(checkpoint, windows, 1, grams=False) + 2 * logits
