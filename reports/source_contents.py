"""Contents of the source that are not part of the model: carried unchanged, or left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from ..checkpoints import Checkpoint, LeftOut
from ..models.blocks.empty_model import shared_model
from ..models.reading.folder_files import is_licence, is_of_tokenizer
from ..models.reading.unused import in_words, without_unused

_NAMES_SHOWN = 6


def as_in_gguf(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as a GGUF file holds it: without unused tensors, with tokenizer files only."""
    why = "a GGUF file has no place for it"
    files = {
        name: data
        for name, data in checkpoint.files.items()
        if is_licence(name) or is_of_tokenizer(name)
    }
    lost = [LeftOut(n, len(data), why) for n, data in checkpoint.files.items() if n not in files]
    held = without_unused(replace(checkpoint, files=files), why)
    return replace(held, left_out=(*held.left_out, *lost))


def contents_record(checkpoint: Checkpoint) -> dict[str, Any]:
    """The contents for ``birdbone.json``: every name with its size in bytes."""
    return {
        "unused": {name: ref.num_bytes for name, ref in checkpoint.unused.items()},
        "left_out": [
            {"name": each.name, "bytes": each.num_bytes, "why": each.why}
            for each in checkpoint.left_out
        ],
    }


def contents_markdown(checkpoint: Checkpoint) -> str:
    """A section of the model card; empty if the source held nothing else."""
    lines = []
    if checkpoint.unused:
        model = shared_model(checkpoint)
        lines.append(
            f"Carried unchanged: {in_words(checkpoint.unused, model.state_dict())}. "
            f"{type(model).__name__} has no parameters for them: they do not take part in its "
            f"computation and were not changed with the model."
        )
    if checkpoint.left_out:
        listed = "\n".join(f"- {line}" for line in left_out_lines(checkpoint.left_out))
        lines.append(f"Left out:\n\n{listed}")
    return "\n\n".join(lines)


def left_out_lines(left_out: Iterable[LeftOut]) -> list[str]:
    """One line per reason: names, count and size."""
    by_reason = sorted(left_out, key=lambda each: each.why)
    return [_line(why, list(same)) for why, same in groupby(by_reason, lambda each: each.why)]


def _line(why: str, entries: Sequence[LeftOut]) -> str:
    shown = ", ".join(each.name for each in entries[:_NAMES_SHOWN])
    more = f" and {len(entries) - _NAMES_SHOWN} more" if len(entries) > _NAMES_SHOWN else ""
    return f"{shown}{more} ({sum(each.num_bytes for each in entries):,} bytes): {why}"
