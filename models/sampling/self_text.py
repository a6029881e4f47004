"""Documents sampled from a model itself: as many tokens as are asked for, the same for a seed.

Such text needs no source of the user's, and holds what the model saw in training in about the
proportions in which it would say it. What it lacks is text that surprises the model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ...checkpoints import Checkpoint
from ...errors import DataError
from ..blocks.config import context_length
from ..blocks.device import default_device
from ..blocks.empty_model import text_config
from ..blocks.skeleton import Skeleton
from ..passes.resuming import Keeping, Unfinished
from .filters import Sieve
from .generate import Schedule, generate
from .sampled_batches import Batch, as_state, first_batches, read_state
from .starts import Starts, control_tokens

Announce = Callable[[int, int], None]

DOCUMENT_TOKENS = 256
BATCH_SIZE = 64
CHAT_EVERY = 8
"""One batch in so many is of conversations, the second first, if the model has a chat template."""

# Batches in a row of which the filters keep less than a tenth, before it is given up.
_PATIENCE = 4
_FEWEST_KEPT = 0.1


def sample_text(
    checkpoint: Checkpoint,
    tokenizer: PreTrainedTokenizerBase,
    num_tokens: int,
    *,
    seed: int,
    length: int = DOCUMENT_TOKENS,
    batch_size: int = BATCH_SIZE,
    schedule: Schedule | None = None,
    unfinished: Unfinished | None = None,
    announce: Announce = lambda done, total: None,
) -> tuple[str, ...]:
    """Sample documents with at least ``num_tokens`` tokens in all.

    The whole model is held on the device, in bfloat16 where the device multiplies it fast, else in
    float32. Documents that repeat themselves or others, or are far more or less likely than the
    rest of their batch, are sampled again. A batch depends on the seed, its number and the
    batches before it: a smaller sample is the beginning of a greater one.

    Args:
        length: tokens of a document at most.
        batch_size: documents that are sampled at a time.
        unfinished: keeps finished batches; those it holds are not sampled again.
        announce: called with tokens kept or under way and tokens asked for.

    Raises:
        ModelError: the model's logits are not finite, or it keeps no key-value cache.
        DataError: nearly all that it says is repetition.
    """
    keeping = Keeping(unfinished)
    state = keeping.load()
    batches = [] if state is None else first_batches(read_state(*state), num_tokens)
    if _count(batches) < num_tokens:
        sampler = _Sampler(checkpoint, tokenizer, seed, length, batch_size, schedule or Schedule())
        for each in batches:
            sampler.remember(each)
        while (done := _count(batches)) < num_tokens:
            batches.append(sampler.sample(len(batches), _Counter(done, num_tokens, announce)))
            keeping.save(lambda: as_state(batches))
            _check_use(batches)
    return tuple(
        str(tokenizer.decode(list(each.tokens))) for batch in batches for each in batch.kept
    )


class _Sampler:
    """The model and what the documents that it samples begin and end with."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        length: int,
        batch_size: int,
        schedule: Schedule,
    ) -> None:
        self._model = Skeleton(checkpoint, dtype=sampling_dtype()).fill()
        self._length = min(length, context_length(checkpoint) or length)
        self._starts = Starts.of(tokenizer, int(text_config(checkpoint).vocab_size))
        self._ends = control_tokens(tokenizer) | _ends(self._model)
        self._seed, self._batch_size, self._schedule = seed, batch_size, schedule
        self._sieve = Sieve()

    def remember(self, batch: Batch) -> None:
        """Take documents that were kept before as known, so that none like them is kept."""
        self._sieve.remember(batch.kept)

    def sample(self, number: int, announce: Callable[[int], None]) -> Batch:
        """Sample the batch with this number, counted from 0."""
        key = int.from_bytes(sha256(f"{self._seed} {number}".encode()).digest()[:7])
        documents = generate(
            self._model,
            self._starts.draw(
                self._batch_size,
                chat=number % CHAT_EVERY == 1,
                generator=random.Random(key),
            ),
            length=self._length,
            ends=self._ends,
            schedule=self._schedule,
            generator=torch.Generator().manual_seed(key),
            announce=announce,
        )
        return Batch(tuple(self._sieve.keep(documents)), len(documents))


def _check_use(batches: Sequence[Batch]) -> None:
    """Give up once the filters left out nearly all of several batches in a row.

    Raises:
        DataError: they did.
    """
    last = batches[-_PATIENCE:]
    if len(last) < _PATIENCE or any(
        len(each.kept) >= _FEWEST_KEPT * each.num_sampled for each in last
    ):
        return
    raise DataError(
        f"the model's own text is of no use: of the last {sum(each.num_sampled for each in last)} "
        f"sampled documents {_PATIENCE} batches in a row were nearly all too short, repetitive or "
        f"alike; calibrate on a text, such as data='pydoc'"
    )


def sampling_bytes(checkpoint: Checkpoint) -> int:
    """Bytes that sampling holds beside the checkpoint: the model, its cache, a batch's logits."""
    config = text_config(checkpoint)
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cached = 2 * int(config.num_hidden_layers) * heads * int(size) * DOCUMENT_TOKENS
    # A new cache is made of the last one at each step; logits are also taken in float32.
    values = checkpoint.num_parameters + BATCH_SIZE * (2 * cached + 3 * int(config.vocab_size))
    return values * sampling_dtype().itemsize


def sampling_dtype() -> torch.dtype:
    """bfloat16 on an accelerator and on CPUs with instructions for its products, else float32."""
    if default_device().type != "cpu":
        return torch.bfloat16
    able = torch.cpu.get_capabilities()
    fast = able.get("amx_bf16") or able.get("avx512_bf16") or able.get("bf16")
    return torch.bfloat16 if fast else torch.float32


class _Counter:
    """Adds up the tokens of a batch for whoever watches."""

    def __init__(self, done: int, total: int, announce: Announce) -> None:
        self._done, self._total, self._announce = done, total, announce

    def __call__(self, tokens: int) -> None:
        self._done += tokens
        self._announce(min(self._done, self._total), self._total)


def _count(batches: Sequence[Batch]) -> int:
    return sum(each.num_tokens for each in batches)


def _ends(model: Any) -> frozenset[int]:
    """End-of-sequence tokens by the model's generation config."""
    found = getattr(model.generation_config, "eos_token_id", None)
    return frozenset(found if isinstance(found, list) else [] if found is None else [found])
