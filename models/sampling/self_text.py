"""Documents sampled from a model itself: as many tokens as are asked for, the same for a seed.

Such text needs no source of the user's, and holds what the model saw in training in about the
proportions in which it would say it. What it lacks is text that surprises the model.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ...checkpoints import Checkpoint
from ...errors import DataError
from ..blocks.config import context_length
from ..blocks.device import default_device
from ..blocks.empty_model import text_config
from ..blocks.skeleton import Skeleton
from .filters import Sieve
from .generate import Sampled, Schedule, generate
from .starts import Starts, control_tokens

Announce = Callable[[int, int], None]

DOCUMENT_TOKENS = 256
BATCH_SIZE = 64
CHAT = 0.125
"""Probability that a batch is of conversations, where the model has a chat template."""

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
    chat: float = CHAT,
    schedule: Schedule | None = None,
    announce: Announce = lambda done, total: None,
) -> tuple[str, ...]:
    """Sample documents with at least ``num_tokens`` tokens in all.

    The whole model is held on the device, in bfloat16 where the device multiplies it fast, else in
    float32. Documents that repeat themselves or others, or are far more or less likely than the
    rest of their batch, are sampled again.

    Args:
        length: tokens of a document at most.
        batch_size: documents that are sampled at a time.
        chat: fraction of the batches that are conversations under the chat template, user turn
            and answer both sampled; for a model without a template all text is plain.
        announce: called with tokens kept or under way and tokens asked for.

    Raises:
        ModelError: the model's logits are not finite, or it keeps no key-value cache.
        DataError: nearly all that it says is repetition.
    """
    skeleton = Skeleton(checkpoint, dtype=sampling_dtype())
    model = skeleton.fill()
    length = min(length, context_length(checkpoint) or length)
    starts = Starts.of(tokenizer, int(text_config(checkpoint).vocab_size))
    ends = control_tokens(tokenizer) | _ends(model)
    generator, chooser = torch.Generator().manual_seed(seed), random.Random(seed)
    sieve, kept, poor = Sieve(), list[Sampled](), 0
    while (done := _count(kept)) < num_tokens:
        under_way = _Counter(done, num_tokens, announce)
        batch = generate(
            model,
            starts.draw(batch_size, chat=chat, generator=chooser),
            length=length,
            ends=ends,
            schedule=schedule or Schedule(),
            generator=generator,
            announce=under_way,
        )
        found = sieve.keep(batch)
        kept += found
        poor = poor + 1 if len(found) < _FEWEST_KEPT * len(batch) else 0
        if poor == _PATIENCE:
            raise DataError(
                f"the model's own text is of no use: of the last {_PATIENCE * batch_size} sampled "
                f"documents {_PATIENCE} batches in a row were nearly all too short, repetitive or "
                f"alike; calibrate on a text, such as data='pydoc'"
            )
    return tuple(str(tokenizer.decode(list(each.tokens))) for each in kept)


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


def _count(documents: list[Sampled]) -> int:
    return sum(len(each.tokens) for each in documents)


def _ends(model: Any) -> frozenset[int]:
    """End-of-sequence tokens by the model's generation config."""
    found = getattr(model.generation_config, "eos_token_id", None)
    return frozenset(found if isinstance(found, list) else [] if found is None else [found])
