"""What a model computed when it was saved, kept beside its weights: ``proof.json``.

A few windows of tokens, the nats of every predicted one, and some of the logits, as the model in
memory gave them, block by block. Whoever opens the folder, anywhere, can hold what it computes
there against this. Read back as hostile text: every size is bounded before it is used.
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
_DIGITS = 6  # float32 holds no more

Token = Annotated[int, Field(ge=0, lt=1 << 31)]
Row = Annotated[list[FiniteFloat], Field(max_length=4096)]


class Window(BaseModel):
    """One window: its tokens, and what the model says of them.

    Attributes:
        tokens: ids, ``[length]``.
        nll: nats per predicted token, ``[length - 1]``.
        places: positions in the window whose logits are kept.
        ids: per place, the tokens ranked first there.
        logits: per place, the logits of those tokens.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: Annotated[list[Token], Field(min_length=2, max_length=4096)]
    nll: Row
    places: Annotated[list[Token], Field(min_length=1, max_length=256)]
    ids: list[Annotated[list[Token], Field(min_length=1, max_length=256)]]
    logits: list[Row]

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
    """Everything that is kept.

    Attributes:
        format: version of this layout.
        dtype: what was computed in.
        tolerance: how far logits and mean nats may be from these, relative; what the way the
            weights are stored can keep.
        text: where the tokens come from.
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
    """The tokens a record is made on: beginnings of held-out windows, or drawn at random.

    Args:
        num_tokens: of the text at most; under 2, ids are drawn instead, which say nothing of it.
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
    """Run the model in memory over a few windows and keep what it says.

    Raises:
        NumericsError: NaN or infinity in a block's output.
    """
    skeleton = Skeleton(checkpoint)
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
    """Of one window's ids ``[length]`` and float32 logits ``[length, vocab_size]``."""
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
    """How far logits are from the recorded ones: root mean square, over that of the recorded.

    Raises:
        ValueError: they are not of the same places.
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
    """Mean nats per predicted token over all windows."""
    return math.fsum(value for row in rows for value in row) / sum(len(row) for row in rows)
