"""The outputs of a model when it was saved, kept beside its weights in ``proof.json``.

A few windows of tokens, the NLL of every predicted token, and some logits, computed by the model in
memory. Anyone who opens the folder can compare its outputs with them. The file is untrusted input:
every size is bounded before it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator
from torch import Tensor

from ...checkpoints import Checkpoint
from ...errors import CheckpointError
from ...texts import Windows
from ..blocks.device import default_device, judged_dtype
from ..blocks.empty_model import text_config
from ..blocks.replay import capture, logits, through_blocks
from ..blocks.skeleton import Skeleton

RECORD = "proof.json"
"""The file's name in a saved folder."""

_MAX_BYTES = 1 << 20
_WINDOWS = 4
_LENGTH = 128
_PLACES = 8
_TOP = 8
_DIGITS = 6  # significant digits of float32

Token = Annotated[int, Field(ge=0, lt=1 << 31)]
Floats = Annotated[list[FiniteFloat], Field(max_length=4096)]


class Window(BaseModel):
    """One window: its tokens and the model's outputs.

    Attributes:
        tokens: token ids, ``[length]``.
        nll: NLL of every predicted token, nats, ``[length - 1]``.
        places: positions whose logits are kept.
        ids: for each position, the tokens with the largest logits.
        logits: for each position, the logits of these tokens.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: Annotated[list[Token], Field(min_length=2, max_length=4096)]
    nll: Floats
    places: Annotated[list[Token], Field(min_length=1, max_length=256)]
    ids: list[Annotated[list[Token], Field(min_length=1, max_length=256)]]
    logits: list[Floats]

    @model_validator(mode="after")
    def _fits_together(self) -> Window:
        if len(self.nll) != len(self.tokens) - 1 or max(self.places) >= len(self.tokens):
            raise ValueError("nll or places do not fit the tokens")
        if not len(self.places) == len(self.ids) == len(self.logits):
            raise ValueError("places, ids and logits differ in number")
        if [len(row) for row in self.ids] != [len(row) for row in self.logits]:
            raise ValueError("ids and logits differ in number")
        return self


class Record(BaseModel):
    """The content of ``proof.json``.

    Attributes:
        format: version of this layout.
        dtype: compute dtype.
        tolerance: largest relative difference of logits and mean NLL, by storage format.
        text: name of the text that the tokens are from.
        windows: at least one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    dtype: Literal["float64", "float32", "bfloat16", "float16"]
    tolerance: Annotated[float, Field(gt=0, lt=1)]
    text: Annotated[str, Field(max_length=1000)]
    windows: Annotated[list[Window], Field(min_length=1, max_length=64)]


def read_record(folder: Path) -> Record | None:
    """The record in a folder, or None where there is none.

    Raises:
        CheckpointError: there is one that cannot be read or is not what it should be.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
        return Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{RECORD} is no record: {place} {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{RECORD} cannot be read: {error}") from error


def probe_windows(checkpoint: Checkpoint, heldout: Windows | None, num_tokens: int) -> Windows:
    """The tokens of a record: the beginnings of held-out windows, or random ids.

    Args:
        num_tokens: largest number of tokens of the text; below 2, random ids are used, which reveal
            nothing of the text.
    """
    if heldout is not None and num_tokens >= 2:
        length = min(heldout.length, _LENGTH, num_tokens)
        count = min(heldout.num_windows, _WINDOWS, max(1, num_tokens // length))
        return Windows(heldout.tokens[:count, :length], heldout.text)
    config = text_config(checkpoint)
    length = min(_LENGTH, getattr(config, "max_position_embeddings", None) or _LENGTH)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(int(config.vocab_size), (1, length), generator=generator)
    return Windows(drawn, "ids drawn at random")


def make_record(
    checkpoint: Checkpoint,
    windows: Windows,
    *,
    tolerance: float,
    announce: Callable[[str, int, int], None],
) -> Record:
    """Run the model in memory on a few windows and record its outputs.

    Raises:
        NumericsError: NaN or infinity in a block's output.
    """
    skeleton = Skeleton(checkpoint, dtype=judged_dtype(checkpoint, default_device()))
    batches = capture(skeleton, windows.tokens.split(1))
    hidden = through_blocks(skeleton, batches, lambda done, of: announce("blocks", done, of))
    found = [
        _window(tokens, logits(skeleton, tokens.unsqueeze(0), states)[0].float())
        for tokens, states in zip(windows.tokens, hidden, strict=True)
    ]
    dtype = str(skeleton.dtype).removeprefix("torch.")
    return Record.model_validate(
        {"dtype": dtype, "tolerance": tolerance, "text": windows.text, "windows": found}
    )


def _window(tokens: Tensor, values: Tensor) -> Window:
    """Record one window of ids ``[length]`` and float32 logits ``[length, vocab_size]``."""
    after = tokens[1:].to(values.device).unsqueeze(1)
    nll = -values[:-1].log_softmax(-1).gather(1, after).squeeze(1)
    count = min(_PLACES, len(tokens))
    places = [round((place + 1) * len(tokens) / count) - 1 for place in range(count)]
    first = values[places].topk(min(_TOP, values.shape[1]))
    return Window(
        tokens=tokens.tolist(),
        nll=_short(nll),
        places=places,
        ids=first.indices.tolist(),
        logits=[_short(row) for row in first.values],
    )


def _short(values: Tensor) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values.tolist()]


def logits_off(record: Record, found: list[list[list[float]]]) -> float:
    """Relative root mean square difference of logits from the recorded ones.

    Raises:
        ValueError: the positions differ.
    """
    pairs = [
        (then, now)
        for window, rows in zip(record.windows, found, strict=True)
        for kept, row in zip(window.logits, rows, strict=True)
        for then, now in zip(kept, row, strict=True)
    ]
    square = sum(then**2 for then, _ in pairs)
    off = sum((then - now) ** 2 for then, now in pairs)
    return math.sqrt(off / square) if square else math.sqrt(off)


def mean_nll(rows: list[list[float]]) -> float:
    """Mean NLL per predicted token over all windows, nats."""
    return math.fsum(value for row in rows for value in row) / sum(len(row) for row in rows)
