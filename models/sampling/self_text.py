"""Sample a given number of tokens of text from a model, reproducibly for a seed.

Sampled text needs no data and roughly follows the model's training distribution. It contains
little text that the model finds unlikely.
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
from ..blocks.announcing import AnnounceCount
from ..blocks.config import context_length
from ..blocks.device import default_device
from ..blocks.empty_model import text_config
from ..blocks.products import product_dtype
from ..blocks.skeleton import Skeleton
from ..passes.resuming import Keeping, ProgressStore
from .filters import Sieve
from .generate import Schedule, generate
from .sampled_batches import SampledBatch, as_state, first_batches, read_state
from .starts import Starts, control_tokens

DOCUMENT_TOKENS = 256
BATCH_SIZE = 64
CHAT_EVERY = 8
"""Every eighth batch, from the second on, has conversations if the model has a chat template."""

# Tokens that a batch decodes in the time in which one sequence alone decodes one: in batches of 64
# on a CPU in float32, and about half of what bfloat16 does where it is fast.
_BATCHED_TOKENS = 10

# Sampling fails after this many consecutive batches of which the filters keep less than 10 %.
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
    unfinished: ProgressStore | None = None,
    announce: AnnounceCount = lambda done, total: None,
) -> tuple[str, ...]:
    """Sample documents with at least ``num_tokens`` tokens in total.

    The whole model is on the device, in bfloat16 if the device has fast bfloat16 products, else in
    float32. Documents that are repetitive, near-duplicates, or far more or less likely than the
    rest of their batch are replaced. A batch depends only on the seed, its number and the batches
    before it, so a smaller sample is the beginning of a larger one.

    Args:
        length: maximum number of tokens of a document.
        batch_size: number of documents sampled together.
        unfinished: stores finished batches, which are not sampled again.
        announce: called with the tokens so far and ``num_tokens``.

    Raises:
        ModelError: the model's logits are not finite, or it has no key-value cache.
        DataError: nearly all sampled documents fail the filters.
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
    """The model, with the starts and the end tokens of its documents."""

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

    def remember(self, batch: SampledBatch) -> None:
        """Register documents of an earlier run, so that near-duplicates of them are dropped."""
        self._sieve.remember(batch.kept)

    def sample(self, number: int, announce: Callable[[int], None]) -> SampledBatch:
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
        return SampledBatch(tuple(self._sieve.keep(documents)), len(documents))


def _check_use(batches: Sequence[SampledBatch]) -> None:
    """Fail once the filters dropped nearly all documents of several consecutive batches.

    Raises:
        DataError: they did.
    """
    last = batches[-_PATIENCE:]
    if len(last) < _PATIENCE or any(
        len(each.kept) >= _FEWEST_KEPT * each.num_sampled for each in last
    ):
        return
    raise DataError(
        f"cannot calibrate on text sampled from the model: of the last "
        f"{sum(each.num_sampled for each in last)} documents ({_PATIENCE} batches) nearly all were "
        f"too short, repetitive or alike; calibrate on a text, such as data='pydoc'"
    )


def decoded_alone(num_tokens: int) -> int:
    """Return how many tokens one sequence alone decodes while so many are sampled in batches."""
    return num_tokens // _BATCHED_TOKENS


def sampling_bytes(checkpoint: Checkpoint) -> int:
    """Peak bytes of sampling: the model, the key-value cache and the logits of a batch."""
    config = text_config(checkpoint)
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cached = 2 * int(config.num_hidden_layers) * heads * int(size) * DOCUMENT_TOKENS
    # Each step copies the cache (twice its size at the peak) and converts the logits to float32.
    values = checkpoint.num_parameters + BATCH_SIZE * (2 * cached + 3 * int(config.vocab_size))
    return values * sampling_dtype().itemsize


def sampling_dtype() -> torch.dtype:
    """bfloat16 on accelerators; on CPUs that of the passes that choose weights."""
    device = default_device()
    return torch.bfloat16 if device.type != "cpu" else product_dtype(device) or torch.float32


class _Counter:
    """Reports the total number of sampled tokens."""

    def __init__(self, done: int, total: int, announce: AnnounceCount) -> None:
        self._done, self._total, self._announce = done, total, announce

    def __call__(self, tokens: int) -> None:
        self._done += tokens
        self._announce(min(self._done, self._total), self._total)


def _count(batches: Sequence[SampledBatch]) -> int:
    return sum(each.num_tokens for each in batches)


def _ends(model: Any) -> frozenset[int]:
    """End-of-sequence tokens by the model's generation config."""
    found = getattr(model.generation_config, "eos_token_id", None)
    return frozenset(found if isinstance(found, list) else [] if found is None else [found])
