"""Two models on the same held-out tokens: perplexity, its rise, KL and agreement.

The blocks run one at a time for each model; logits of both are then made batch by batch, so
neither model nor all logits are ever whole in memory.

What training gained: a model before and after it, beside the dense one, on each text.

Telling a model that only repeats itself from one that speaks: what damage of a kind looks like.

A model pruned too far may keep a passable perplexity and yet, left to go on by itself, say one word
over and over. A sound small model does so at times too, so it is judged over several texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...checkpoints import Checkpoint, ranks
from ...texts import Windows
from ...texts.worst_windows import WORST, WorstWindow
from ..blocks.announcing import Announce
from ..blocks.device import default_device, judged_dtype
from ..blocks.replay import capture, check_finite, logits, through_blocks
from ..blocks.skeleton import Skeleton


@dataclass(frozen=True)
class Comparison:
    """Two models on the same windows, token by token.

    Attributes:
        dense_nll, light_nll: float64 ``[num_windows, length - 1]``, nats per predicted token.
        kl: float64, same shape, KL(dense || light) in nats.
        agreement: fraction of predicted tokens on which both rank the same token first.
    """

    dense_nll: Tensor
    light_nll: Tensor
    kl: Tensor
    agreement: float

    @property
    def rms_dp(self) -> float:
        """Root mean square change of the probability of the token that follows."""
        change = (-self.light_nll).exp() - (-self.dense_nll).exp()
        return float(change.square().mean().sqrt())

    def kl_quantiles(self, *fractions: float) -> list[float]:
        """Quantiles of the KL divergence over all predicted tokens, nats."""
        wanted: list[float] = self.kl.flatten().quantile(self.kl.new_tensor(fractions)).tolist()
        return wanted

    def worst_windows(self) -> tuple[WorstWindow, ...]:
        """The windows with the largest mean KL divergence, the worst first."""
        means = self.kl.mean(1)
        rises = (self.light_nll - self.dense_nll).mean(1).expm1()
        places = means.argsort(descending=True, stable=True)[:WORST].tolist()
        return tuple(
            WorstWindow(
                place, float(means[place]), float(rises[place]), int(self.kl[place].argmax()) + 1
            )
            for place in places
        )


def last_hidden(
    skeleton: Skeleton, windows: Windows, *, batch_size: int, label: str, announce: Announce
) -> Tensor:
    """What leaves the last block for every window: ``[num_windows, length, hidden_size]``."""
    (hidden,) = last_hiddens(
        skeleton, [windows], batch_size=batch_size, label=label, announce=announce
    )
    return hidden


def last_hiddens(
    skeleton: Skeleton,
    texts: Sequence[Windows],
    *,
    batch_size: int,
    label: str,
    announce: Announce,
) -> list[Tensor]:
    """The same for each of several texts, in one pass over the blocks; on the CPU."""
    parts = [ranks.share(windows.tokens).split(batch_size) for windows in texts]
    batches = capture(skeleton, [tokens for part in parts for tokens in part])
    states = iter(
        through_blocks(skeleton, batches, lambda done, total: announce(label, done, total))
    )
    return [ranks.joined(torch.cat([next(states).cpu() for _ in part])) for part in parts]


@torch.no_grad()
def compare(
    dense: tuple[Skeleton, Tensor],
    light: tuple[Skeleton, Tensor],
    windows: Windows,
    *,
    announce: Announce,
) -> Comparison:
    """Compare two models from what left their last blocks (see `last_hidden`).

    One window at a time: its log-probabilities are ``[length, vocab_size]`` floats for each model,
    which is more than the window's way through the blocks takes.
    """
    parts = []
    same_first = 0
    places = ranks.places(windows.num_windows)
    for index in places:
        window = slice(index, index + 1)
        tokens = windows.tokens[window]
        dense_log = _log_probabilities(dense[0], tokens, dense[1][window])
        light_log = _log_probabilities(light[0], tokens, light[1][window])
        same_first += int((dense_log.argmax(-1) == light_log.argmax(-1)).sum())
        target = tokens[:, 1:].to(dense_log.device)
        divergence = (dense_log.exp() * (dense_log - light_log)).sum(-1, dtype=torch.float64)
        parts.append((_nll(dense_log, target), _nll(light_log, target), divergence.cpu()))
        announce("windows compared", index + 1 - places.start, len(places))
    dense_nll, light_nll, kl = (
        ranks.joined(torch.cat(column)) for column in zip(*parts, strict=True)
    )
    same_first = int(ranks.total(torch.tensor(same_first)))
    return Comparison(dense_nll, light_nll, kl, same_first / kl.numel())


@torch.no_grad()
def divergences(
    skeleton: Skeleton, tokens: Tensor, given: Tensor, others: Sequence[Tensor]
) -> list[float]:
    """Mean KL(given || other) in nats per token, from what left the last block of one model.

    ``tokens`` ``[windows, length]``; ``given`` and each of ``others``
    ``[windows, length, hidden_size]``.
    """
    totals = [0.0] * len(others)
    for index in range(len(tokens)):
        window = slice(index, index + 1)
        wanted = _log_probabilities(skeleton, tokens[window], given[window])
        weights = wanted.exp()
        for place, hidden in enumerate(others):
            found = _log_probabilities(skeleton, tokens[window], hidden[window])
            per_token = (weights * (wanted - found)).sum(-1, dtype=torch.float64)
            totals[place] += float(per_token.mean())
    return [total / len(tokens) for total in totals]


@torch.no_grad()
def own_perplexity(checkpoint: Checkpoint, windows: Windows, *, announce: Announce) -> float:
    """The perplexity of one model by itself, in memory, a window at a time.

    Raises:
        NumericsError: NaN or infinity in a block's output or in the logits.
    """
    skeleton = Skeleton(checkpoint, dtype=judged_dtype(checkpoint, default_device()))
    hidden = last_hidden(skeleton, windows, batch_size=1, label="blocks", announce=announce)
    parts = []
    for window in torch.arange(windows.num_windows).split(1):
        tokens = windows.tokens[window]
        log = _log_probabilities(skeleton, tokens, hidden[window])
        parts.append(_nll(log, tokens[:, 1:].to(log.device)))
    return perplexity(torch.cat(parts))[0]


def _log_probabilities(skeleton: Skeleton, tokens: Tensor, hidden: Tensor) -> Tensor:
    scores = logits(skeleton, tokens, hidden)[:, :-1]
    check_finite([scores], "the output head")
    return torch.log_softmax(scores.float(), dim=-1)


def _nll(log_probabilities: Tensor, target: Tensor) -> Tensor:
    return -log_probabilities.gather(-1, target.unsqueeze(-1)).squeeze(-1).double().cpu()


def perplexity(nll: Tensor) -> tuple[float, float]:
    """exp of the mean of ``nll`` ``[num_windows, tokens]``, and its standard error.

    Tokens of a window hang together, so the error is that of the windows' means, carried through
    exp by the delta method; infinite where there is only one window.
    """
    mean, error = _mean_and_error(nll)
    return math.exp(mean), math.exp(mean) * error


def rise(dense_nll: Tensor, light_nll: Tensor) -> tuple[float, float]:
    """light perplexity over dense, minus one, and its standard error, from paired differences."""
    mean, error = _mean_and_error(light_nll - dense_nll)
    return math.expm1(mean), math.exp(mean) * error


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    means = values.mean(1)
    error = float(means.std() / math.sqrt(len(means))) if len(means) > 1 else math.inf
    return float(means.mean()), error


def skeleton_pair(dense: Checkpoint, light: Checkpoint) -> tuple[Skeleton, Skeleton]:
    """Skeletons of both models in the dtype the light one is judged in; one where they are one."""
    dtype = judged_dtype(light, default_device())
    first = Skeleton(dense, dtype=dtype)
    return first, first if light.id == dense.id else Skeleton(light, dtype=dtype)


@dataclass(frozen=True)
class TextScore:
    """How far a model is from the dense one on one text, in nats per predicted token.

    Attributes:
        kl: KL(dense || model), float64 ``[num_windows, length - 1]``.
        nll: its negative log-likelihood of the text, same shape.
    """

    kl: Tensor
    nll: Tensor

    def loss(self, kl_weight: float) -> Tensor:
        """The mix of both that training minimises, same shape."""
        return kl_weight * self.kl + (1 - kl_weight) * self.nll


def text_scores(
    dense: Checkpoint, models: Sequence[Checkpoint], texts: Sequence[Windows], *, announce: Announce
) -> list[list[TextScore]]:
    """Each model as it is stored on each text, by text and then by model; the dense one runs once.

    Each model makes one pass over its blocks for all texts.
    """

    def run(checkpoint: Checkpoint, label: str) -> tuple[Skeleton, list[Tensor]]:
        skeleton = Skeleton(checkpoint)
        return skeleton, last_hiddens(skeleton, texts, batch_size=1, label=label, announce=announce)

    first, wanted = run(dense, "dense blocks")
    found: list[list[TextScore]] = [[] for _ in texts]
    for place, model in enumerate(models, 1):
        second, reached = (first, wanted)
        if model.id != dense.id:
            second, reached = run(model, f"judging blocks, {place}")
        for text, windows in enumerate(texts):
            result = compare(
                (first, wanted[text]), (second, reached[text]), windows, announce=announce
            )
            found[text].append(TextScore(result.kl, result.light_nll))
    return found


@dataclass(frozen=True)
class LossChange:
    """The mean of a loss before and after training, paired per token.

    Attributes:
        before, after: nats per token.
        error: standard error of the difference, from the windows' means; infinite for one window.
    """

    before: float
    after: float
    error: float

    @classmethod
    def between(cls, before: Tensor, after: Tensor) -> LossChange:
        """Of losses ``[num_windows, tokens]`` on the same tokens."""
        return cls(float(before.mean()), float(after.mean()), _mean_and_error(after - before)[1])

    @property
    def margin(self) -> float:
        """Two standard errors; 0 where there is one window, which has no error."""
        return 2 * self.error if math.isfinite(self.error) else 0.0

    @property
    def better(self) -> bool:
        """Whether the loss fell."""
        return self.after < self.before

    @property
    def worse(self) -> bool:
        """Whether the loss rose by more than the noise, or is a NaN."""
        return not self.after - self.before <= self.margin


_LONGEST_PERIOD = 4
_REPEATED = 0.9


def repeats(tokens: Sequence[int]) -> bool:
    """Whether nine in ten tokens are the one that stood one to four places before."""
    return any(
        _share_repeated(tokens, period) >= _REPEATED
        for period in range(1, min(_LONGEST_PERIOD, len(tokens) // 2) + 1)
    )


def _share_repeated(tokens: Sequence[int], period: int) -> float:
    pairs = list(zip(tokens[period:], tokens[:-period], strict=True))
    return sum(now == before for now, before in pairs) / len(pairs)


def share_repeating(rows: Sequence[Sequence[int]]) -> float:
    """Fraction of the texts in which the model only repeats itself; 0 of none."""
    return sum(repeats(row) for row in rows) / len(rows) if rows else 0.0
