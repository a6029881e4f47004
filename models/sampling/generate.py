"""Batched sampling from a causal language model with its key-value cache.

By default tokens are drawn at temperature 1 from nearly the whole distribution. Such text is less
coherent than text from a truncated distribution, but calibrates better (docs/text.md). A schedule
can lower the temperature over the first tokens (LLM-QAT 2305.17888 treats the first tokens
separately; self-calibration 2410.17170 lowers the temperature along the document). Tokens less
than ``min_p`` times as likely as the most likely token are never drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...errors import ModelError
from .starts import USER_TOKENS, Start


@dataclass(frozen=True)
class Schedule:
    """The sampling temperature by position, and the truncation.

    Attributes:
        hot, cool: temperature of the first token, and after ``cooling`` tokens; linear in between.
        min_p: minimum probability, relative to the most likely token.
    """

    hot: float = 1.0
    cool: float = 1.0
    cooling: int = 12
    min_p: float = 1e-4

    def temperature(self, place: int) -> float:
        """Temperature at a position; the first sampled token has position 0."""
        left = max(0.0, 1 - place / self.cooling) if self.cooling else 0.0
        return self.cool + (self.hot - self.cool) * left


@dataclass(frozen=True)
class Sampled:
    """A sampled document.

    Attributes:
        tokens: all tokens, without the end token.
        num_given: leading tokens that were not sampled.
        nll: mean negative log-likelihood of the sampled tokens at temperature 1, in nats.
    """

    tokens: tuple[int, ...]
    num_given: int
    nll: float

    @property
    def sampled(self) -> tuple[int, ...]:
        return self.tokens[self.num_given :]


@dataclass
class _Document:
    """A document in progress."""

    start: Start
    tokens: list[int]
    forced: list[int] = field(default_factory=list)
    answering: bool = False
    num_user: int = 0
    nats: float = 0.0
    num_drawn: int = 0

    def take(self, token: int, nats: float, ends: frozenset[int]) -> int | None:
        """The next token of the document, given the sampled one; None if the document ends."""
        if self.forced:
            token = self.forced.pop(0)
        elif self._ends_turn(token, ends):
            self.answering = True
            token, *self.forced = self.start.closing
        elif token in ends:
            return None
        else:
            self.nats += nats
            self.num_drawn += 1
            self.num_user += 1
        self.tokens.append(token)
        return token

    def _ends_turn(self, token: int, ends: frozenset[int]) -> bool:
        if self.answering or not self.start.closing:
            return False
        return token in ends or token == self.start.closing[0] or self.num_user >= USER_TOKENS

    def finished(self) -> Sampled:
        nll = self.nats / self.num_drawn if self.num_drawn else math.inf
        return Sampled(tuple(self.tokens), self.start.num_given, nll)


@torch.no_grad()
def generate(
    model: Any,
    starts: Sequence[Start],
    *,
    length: int,
    ends: frozenset[int],
    schedule: Schedule,
    generator: torch.Generator,
    announce: Callable[[int], None] = lambda tokens: None,
) -> list[Sampled]:
    """Sample one document of at most ``length`` tokens for each start.

    All starts have the same length. A document ends before the first token of ``ends``.

    Args:
        model: a transformers causal language model on one device.
        generator: on the CPU. The same seed, model, device and dtype give the same documents.
        announce: called with the number of new tokens after every step.

    Raises:
        ModelError: logits are NaN or infinite, or the model has no key-value cache.
    """
    documents = [_Document(start, list(start.tokens)) for start in starts]
    running = documents
    device = model.get_input_embeddings().weight.device
    tokens = torch.tensor([document.tokens for document in documents], device=device)
    cache: Any = None
    for place in range(length - tokens.shape[1]):
        output = model(tokens, past_key_values=cache, use_cache=True)
        cache = _cache(output, model)
        drawn, nats = draw(output.logits[:, -1], schedule, place, generator)
        following = [
            document.take(token, cost, ends)
            for document, token, cost in zip(running, drawn, nats, strict=True)
        ]
        announce(sum(token is not None for token in following))
        kept = [row for row, token in enumerate(following) if token is not None]
        if not kept:
            break
        if len(kept) < len(running):
            cache.batch_select_indices(torch.tensor(kept, device=device))
            running = [running[row] for row in kept]
        tokens = torch.tensor([[following[row]] for row in kept], device=device)
    return [document.finished() for document in documents]


def draw(
    logits: Tensor, schedule: Schedule, place: int, generator: torch.Generator
) -> tuple[list[int], list[float]]:
    """Sample a token for each row of ``logits`` ``[rows, vocab_size]``.

    Uses the Gumbel-max trick over the tokens above ``min_p``, which needs no sort. Returns the
    tokens and their NLL in nats.

    Raises:
        ModelError: a logit is NaN, or a row has no finite logit.
    """
    temperature = schedule.temperature(place)
    top = logits.amax(-1, keepdim=True)  # [rows, 1]
    if not bool(top.isfinite().all()):
        raise ModelError(
            f"cannot sample text from the model: its logits are not finite at sampled token "
            f"{place + 1}; calibrate on a text, such as data='pydoc'"
        )
    floor = top + temperature * math.log(schedule.min_p)
    rows, candidates = (logits >= floor).nonzero(as_tuple=True)
    chosen = logits[rows, candidates].float().cpu()  # [candidates of all rows]
    rows, candidates = rows.cpu(), candidates.cpu()
    noise = torch.empty(len(rows)).exponential_(generator=generator).log()
    scores = chosen / temperature - noise
    best = torch.full((len(logits),), -math.inf).scatter_reduce(0, rows, scores, "amax")
    won = (scores == best[rows]).nonzero().flatten()
    tokens, found = torch.zeros(len(logits), dtype=torch.int64), torch.zeros(len(logits))
    tokens[rows[won]], found[rows[won]] = candidates[won], chosen[won]
    nats = logits.float().logsumexp(-1).cpu() - found
    return tokens.tolist(), nats.tolist()


def _cache(output: Any, model: Any) -> Any:
    cache = getattr(output, "past_key_values", None)
    if not hasattr(cache, "batch_select_indices"):
        raise ModelError(
            f"cannot sample text from {type(model).__name__}: it returns no key-value cache, and "
            f"sampling without one is too slow; calibrate on a text, such as data='pydoc'"
        )
    return cache
