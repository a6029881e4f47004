"""Tokenise documents and cut the tokens into windows of one length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import DataError, SettingError


class Tokenizer(Protocol):
    """The part of transformers' `PreTrainedTokenizerBase` that is used here."""

    @property
    def eos_token_id(self) -> Any:
        """Return the id of the end-of-text token, or None if there is none."""

    def __call__(self, text: str, *, add_special_tokens: bool, verbose: bool) -> Mapping[str, Any]:
        """Return at least `input_ids`, the token ids of the text."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Non-overlapping windows of tokens, and the text they come from.

    Attributes:
        tokens: int64 [num_windows, length], on the CPU.
        text: name of the corpus and part in reports: `pydoc (CPython 3.11), heldout`.
    """

    tokens: Tensor
    text: str

    def __repr__(self) -> str:
        return f"Windows({self.num_windows} of {self.length} tokens, {self.text!r})"

    @property
    def num_windows(self) -> int:
        return self.tokens.shape[0]

    @property
    def length(self) -> int:
        """Tokens in one window."""
        return self.tokens.shape[1]

    @property
    def num_tokens(self) -> int:
        return self.tokens.numel()

    @cached_property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the shape and the token ids; the name is not included."""
        shape = torch.tensor(self.tokens.shape, dtype=torch.int64)
        content = torch.cat([shape, self.tokens.reshape(-1).to("cpu", torch.int64)])
        return sha256(content.numpy().astype("<i8").tobytes()).hexdigest()


def pack_windows(
    documents: Iterable[str],
    tokenizer: Tokenizer,
    *,
    length: int,
    limit: int | None,
    text: str,
    seed: int | None = None,
) -> Windows:
    """Concatenate the tokens of documents and cut them into windows of `length` tokens.

    The tokenizer's end-of-text token, if it has one, separates documents; no other special token
    is added. Tokens that do not fill a last window are dropped. At most `limit` windows are
    returned: the first ones, or with a seed a random choice in the order of the text.

    Raises:
        DataError: there are not enough tokens for one window.
        SettingError: `length` is below 2 (no token to predict) or `limit` below 1.
    """
    _check_sizes(length, limit)
    enough = length * limit if limit is not None and seed is None else None
    ids = _token_ids(documents, tokenizer, enough)
    if len(ids) < length:
        raise DataError(
            f"text '{text}' has {len(ids)} tokens; one window needs {length}: "
            "give more text, or ask for shorter windows"
        )
    num_windows = len(ids) // length
    tokens = torch.tensor(ids[: num_windows * length], dtype=torch.int64)
    return Windows(choose_windows(tokens.reshape(num_windows, length), limit, seed), text)


def count_tokens(documents: Iterable[str], tokenizer: Tokenizer) -> int:
    """Return how many tokens `pack_windows` would cut into windows."""
    return len(_token_ids(documents, tokenizer, None))


def choose_windows(windows: Tensor, limit: int | None, seed: int | None) -> Tensor:
    """Return at most `limit` of the windows: the first, or with a seed a random choice in order."""
    if limit is None or limit >= len(windows):
        return windows
    if seed is None:
        return windows[:limit].clone()
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(windows), generator=generator)[:limit].sort().values
    return windows[chosen]


# Length of a run that two texts do not share by chance, and the fraction of a copied window.
_RUN = 32
_COPIED = 0.5


def copied_windows(windows: Windows, other: Windows) -> list[int]:
    """Return the windows of which at least half, in runs of 32 tokens, is in the other windows.

    A run is found at any position of the other windows; windows shorter than a run are compared
    whole.
    """
    size = min(_RUN, windows.length, other.length)
    known = {run for row in other.tokens for run in _runs(row, size, 1)}
    copied = []
    for number, row in enumerate(windows.tokens):
        runs = _runs(row, size, size)
        if sum(run in known for run in runs) >= _COPIED * len(runs):
            copied.append(number)
    return copied


def _runs(tokens: Tensor, size: int, step: int) -> list[bytes]:
    """Every ``step``-th run of ``size`` tokens, as bytes that compare fast."""
    content, width = tokens.numpy().tobytes(), tokens.element_size()
    starts = range(0, len(tokens) - size + 1, step)
    return [content[width * start : width * (start + size)] for start in starts]


def check_vocabulary(windows: Windows, vocab_size: int) -> None:
    """Check that the model's embedding has a row for every token id.

    Raises:
        DataError: a token id is not below `vocab_size`.
    """
    greatest = int(windows.tokens.max())
    if greatest >= vocab_size:
        raise DataError(
            f"text '{windows.text}' has token id {greatest}, but the model knows ids below "
            f"{vocab_size}; use the tokenizer that belongs to the model"
        )


def _check_sizes(length: int, limit: int | None) -> None:
    if length < 2:
        raise SettingError(
            f"window length is {length}; at least 2 tokens are needed to predict one"
        )
    if limit is not None and limit < 1:
        raise SettingError(f"window limit is {limit}; ask for at least 1, or None for all")


def _token_ids(documents: Iterable[str], tokenizer: Tokenizer, enough: int | None) -> Sequence[int]:
    """Tokenise documents until there are `enough` tokens."""
    ids: list[int] = []
    for number, document in enumerate(documents):
        if enough is not None and len(ids) >= enough:
            break
        if number and tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
        # Not verbose: a document may be longer than the model's context, for it is cut.
        ids.extend(tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"])
    return ids
