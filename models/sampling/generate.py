"""Sample token by token from a causal language model: a batch at a time, with its KV cache.

Tokens are drawn at temperature 1 from nearly the whole distribution: text sampled so is less
coherent than text from a truncated one, but calibrates better (docs/text.md). A schedule may let
the temperature fall over the first tokens (LLM-QAT 2305.17888 samples its first tokens apart;
self-calibration 2410.17170 lowers the temperature along the document), and leave out tokens that
are less than ``min_p`` times as likely as the likeliest.
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
    """How tokens are drawn.

    Attributes:
        hot, cool: temperature of the first token, and of all after ``cooling`` tokens; between
            them it falls linearly.
        min_p: least probability that is drawn, relative to the likeliest token's.
    """

    hot: float = 1.0
    cool: float = 1.0
    cooling: int = 12
    min_p: float = 1e-4

    def temperature(self, place: int) -> float:
        """Of the token that is sampled at this place, the first being 0."""
        left = max(0.0, 1 - place / self.cooling) if self.cooling else 0.0
        return self.cool + (self.hot - self.cool) * left


@dataclass(frozen=True)
class Sampled:
    """One document.

    Attributes:
        tokens: from its start on, without the token that ended it.
        num_given: tokens at its front that were not sampled.
        nll: mean negative log-likelihood of the sampled tokens, nats per token, temperature 1.
    """

    tokens: tuple[int, ...]
    num_given: int
    nll: float

    @property
    def sampled(self) -> tuple[int, ...]:
        return self.tokens[self.num_given :]


@dataclass
class _Document:
    """A document that is being sampled."""

    start: Start
    tokens: list[int]
    forced: list[int] = field(default_factory=list)
    answering: bool = False
    num_user: int = 0
    nats: float = 0.0
    num_drawn: int = 0

    def take(self, token: int, nats: float, ends: frozenset[int]) -> int | None:
        """The token that follows, given the one that was drawn; None where the document ends."""
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
    """Documents of at most ``length`` tokens from these starts, which are all of one length.

    A document ends at the first token of ``ends``, which it does not hold.

    Args:
        model: a transformers causal language model, whole on one device.
        generator: on the CPU; with the same model, device and dtype it gives the same documents.
        announce: is called with the number of tokens after every step.

    Raises:
        ModelError: logits are NaN or infinite, or the model keeps no cache.
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
    """Draw a token for each row of ``logits`` ``[rows, vocab_size]``; tokens and their NLL, nats.

    Gumbel-max over the tokens that ``min_p`` leaves: no sort over the vocabulary is needed.

    Raises:
        ModelError: a logit is NaN, or a row has no finite one.
    """
    temperature = schedule.temperature(place)
    top = logits.amax(-1, keepdim=True)  # [rows, 1]
    if not bool(top.isfinite().all()):
        raise ModelError(
            f"the model's logits are not finite (token {place + 1} of its own text), so that "
            f"nothing can be sampled from it; calibrate on a text, such as data='pydoc'"
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
            f"{type(model).__name__} keeps no key-value cache, without which sampling its own "
            f"text takes too long; calibrate on a text, such as data='pydoc'"
        )
    return cache
