"""Which weights stay: masks exact to the count, unstructured or n of every m.

True means kept. Equal scores are told apart by position: the one that comes first goes first, so
the same scores always give the same mask.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import SettingError
from .checks import require_finite, require_matrix

Scope = Literal["layer", "row"]

# A row is long where a sample of it, sorted, tells nearly where its k-th value lies: within so many
# places, four standard deviations of a place in a sample of that size.
_LONG = 1 << 18
_SAMPLE = 1 << 14
_MARGIN = 1 << 8


@dataclass(frozen=True)
class Pattern:
    """Where zeros may fall: anywhere, or such that n of every m consecutive columns are kept.

    Attributes:
        n_of_m: (n, m) with 0 < n < m, or None for unstructured.
    """

    n_of_m: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.n_of_m is not None and not 0 < self.n_of_m[0] < self.n_of_m[1]:
            n, m = self.n_of_m
            raise SettingError(f"pattern {n}:{m} keeps {n} of {m}; n must be at least 1, below m")

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read "unstructured" or "n:m", n kept of every m: "2:4" keeps two of four."""
        if text == "unstructured":
            return cls()
        match = re.fullmatch(r"(\d+):(\d+)", text)
        if match is None:
            raise SettingError(
                f"pattern '{text}' is not known; write 'unstructured', or n:m such as '2:4'"
            )
        return cls((int(match[1]), int(match[2])))

    def __str__(self) -> str:
        return "unstructured" if self.n_of_m is None else f"{self.n_of_m[0]}:{self.n_of_m[1]}"


UNSTRUCTURED = Pattern()


def pattern_mask(
    scores: Tensor, *, sparsity: float | None, pattern: Pattern, scope: Scope = "layer"
) -> Tensor:
    """Return the mask ``pattern`` asks for: `keep_mask` or `keep_mask_n_of_m`.

    Raises SettingError if sparsity is missing for "unstructured", or given beside n:m.
    """
    sparsity = require_sparsity(sparsity, pattern)
    if pattern.n_of_m is None:
        return keep_mask(scores, sparsity=sparsity, scope=scope)
    n, m = pattern.n_of_m
    return keep_mask_n_of_m(scores, n=n, m=m)


def require_sparsity(sparsity: float | None, pattern: Pattern) -> float:
    """Return the fraction to remove, from ``sparsity`` or n:m; SettingError if they conflict."""
    if pattern.n_of_m is not None:
        if sparsity is not None:
            raise SettingError(
                f"sparsity {sparsity} was given beside pattern {pattern}, which already fixes it; "
                "leave sparsity out (or set it to null), or take pattern 'unstructured'"
            )
        return 1 - pattern.n_of_m[0] / pattern.n_of_m[1]
    if sparsity is None or not 0 <= sparsity <= 1:
        raise SettingError(
            f"sparsity {sparsity} is out of range; give the fraction to remove, from 0 to 1"
        )
    return sparsity


def keep_mask(scores: Tensor, *, sparsity: float, scope: Scope = "layer") -> Tensor:
    """Return a mask [rows, cols] without the ``round(sparsity * n)`` smallest scores.

    n is the whole layer, or each row by itself with ``scope="row"``.
    """
    require_sparsity(sparsity, UNSTRUCTURED)
    require_matrix(scores, "scores")
    pools = scores if scope == "row" else scores.reshape(1, -1)
    mask = drop_smallest(pools, count=round(sparsity * pools.shape[1]))
    return mask.view(scores.shape)


def drop_smallest(scores: Tensor, *, count: int) -> Tensor:
    """Return a mask [rows, n] without the ``count`` smallest scores of every row."""
    require_finite(scores, "scores")
    if count == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = _kth_smallest(scores, count)
    kept = scores > threshold
    if int(kept.count_nonzero()) == len(scores) * (scores.shape[1] - count):
        return kept  # nothing else is as large as the largest that goes
    tied = scores == threshold
    # Of those at the threshold, each row drops just enough, first come first.
    quota = count - (~kept & ~tied).sum(dim=1, keepdim=True)
    return kept | (tied & (tied.cumsum(dim=1) > quota))


def _kth_smallest(scores: Tensor, k: int) -> Tensor:
    """Return the k-th smallest (from 1) of every row as [rows, 1]."""
    if scores.is_cuda:  # one long row would keep a single multiprocessor busy in kthvalue
        return scores.sort(dim=1).values[:, k - 1 : k]
    if len(scores) == 1 and scores.shape[1] > _LONG:
        return _kth_smallest_of_many(scores[0], k).view(1, 1)
    return scores.kthvalue(k, dim=1, keepdim=True).values


def _kth_smallest_of_many(scores: Tensor, k: int) -> Tensor:
    """Return the same of one long row: what lies near it by a sample, and of that the one."""
    sample = scores[:: len(scores) // _SAMPLE].sort().values
    place = k * len(sample) // len(scores)
    low = sample[max(place - _MARGIN, 0)]
    high = sample[min(place + _MARGIN, len(sample) - 1)]
    near = scores[(scores >= low) & (scores <= high)]
    below = int((scores < low).count_nonzero())
    if not below < k <= below + len(near):
        return scores.kthvalue(k).values  # the sample was not like the rest
    return near.kthvalue(k - below).values


def require_groups_of(m: int, width: int) -> None:
    """Raise SettingError unless rows of ``width`` columns divide into groups of ``m``."""
    if width % m:
        raise SettingError(
            f"width {width} does not divide into groups of {m}; "
            f"take a pattern n:m whose m divides {width}, or 'unstructured'"
        )


def keep_mask_n_of_m(scores: Tensor, *, n: int, m: int) -> Tensor:
    """Return a mask [rows, cols] of the ``n`` largest scores in every ``m`` consecutive columns."""
    Pattern((n, m))
    require_matrix(scores, "scores")
    require_groups_of(m, scores.shape[1])
    require_finite(scores, "scores")
    candidates = scores.reshape(scores.shape[0], -1, m).movedim(-1, 0).contiguous()
    return keep_n_largest(candidates, n=n).movedim(0, -1).contiguous().view(scores.shape)


def keep_n_largest(candidates: Tensor, *, n: int) -> Tensor:
    """Return a mask [m, ...] of the ``n`` largest along the first axis, which must be short."""
    return num_better(candidates) < n


def num_better(candidates: Tensor) -> Tensor:
    """Return how many of its fellows on the first axis, which must be short, beat each candidate.

    Of two equals the later one is the better. Numbers are in the floating dtype of the candidates:
    comparing into booleans takes several times as long.
    """
    better = torch.empty_like(candidates, memory_format=torch.contiguous_format)
    for index, rival in enumerate(candidates.unbind()):
        beaten = candidates[:index].clone().le_(rival)
        better[:index] += beaten
        better[index] = index - beaten.sum(0)
    return better
