"""Pruning masks from scores: unstructured or n:m, exact to the count.

True means kept. Of equal scores, the one at the lower position is removed first, so equal inputs
always give equal masks.
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

# With at least this fraction of zeros a matrix is taken to be pruned.
_PRUNED = 0.01

# Rows longer than `_LONG` are searched with the help of a sorted sample. The rank of a value in the
# sample is right to within `_MARGIN` places: four standard deviations for a sample of that size.
_LONG = 1 << 18
_SAMPLE = 1 << 14
_MARGIN = 1 << 8


def is_pruned(weight: Tensor) -> bool:
    """Return whether a matrix is taken to be pruned: at least one weight in a hundred is zero."""
    return float((weight != 0).double().mean()) <= 1 - _PRUNED


@dataclass(frozen=True)
class Pattern:
    """Where zeros may be: anywhere (unstructured), or n kept in every m consecutive columns.

    Attributes:
        n_of_m: (n, m) with 0 < n < m; None for unstructured.

    Raises:
        SettingError: n is not between 1 and m - 1.
    """

    n_of_m: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.n_of_m is not None and not 0 < self.n_of_m[0] < self.n_of_m[1]:
            n, m = self.n_of_m
            raise SettingError(f"pattern {n}:{m} keeps {n} of {m}; n must be at least 1, below m")

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Parse "unstructured" or "n:m"; "2:4" keeps two of every four consecutive weights.

        Raises:
            SettingError: ``text`` is neither.
        """
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
    """Return the mask [rows, cols] that ``pattern`` asks for, True = kept.

    Calls `keep_mask` or `keep_mask_n_of_m`. Raises SettingError if sparsity is missing for
    "unstructured" or given for an n:m pattern.
    """
    sparsity = require_sparsity(sparsity, pattern)
    if pattern.n_of_m is None:
        return keep_mask(scores, sparsity=sparsity, scope=scope)
    n, m = pattern.n_of_m
    return keep_mask_n_of_m(scores, n=n, m=m)


def require_sparsity(sparsity: float | None, pattern: Pattern) -> float:
    """Return the fraction of weights to remove, from ``sparsity`` or from the n:m pattern.

    Raises:
        SettingError: ``sparsity`` is outside 0 to 1, or was given together with an n:m pattern.
    """
    if pattern.n_of_m is not None:
        if sparsity is not None:
            raise SettingError(
                f"sparsity {sparsity} was given with pattern {pattern}, which already fixes it; "
                "leave sparsity out (or set it to null), or take pattern 'unstructured'"
            )
        return 1 - pattern.n_of_m[0] / pattern.n_of_m[1]
    if sparsity is None or not 0 <= sparsity <= 1:
        raise SettingError(
            f"sparsity {sparsity} is out of range; give the fraction to remove, from 0 to 1"
        )
    return sparsity


def keep_mask(scores: Tensor, *, sparsity: float, scope: Scope = "layer") -> Tensor:
    """Return a mask [rows, cols] that removes the ``round(sparsity * n)`` lowest scores.

    n counts the whole matrix, or each row separately with ``scope="row"``.
    """
    require_sparsity(sparsity, UNSTRUCTURED)
    require_matrix(scores, "scores")
    pools = scores if scope == "row" else scores.reshape(1, -1)
    mask = drop_smallest(pools, count=round(sparsity * pools.shape[1]))
    return mask.view(scores.shape)


def drop_smallest(scores: Tensor, *, count: int) -> Tensor:
    """Return a mask [rows, n] that removes the ``count`` lowest scores of each row.

    Raises:
        SolverError: a score is not finite.
    """
    require_finite(scores, "scores")
    if count == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = _kth_smallest(scores, count)
    kept = scores > threshold
    if int(kept.count_nonzero()) == len(scores) * (scores.shape[1] - count):
        return kept  # no ties at the threshold
    tied = scores == threshold
    # Of the scores equal to the threshold, each row removes the first ones, as many as are missing.
    quota = count - (~kept & ~tied).sum(dim=1, keepdim=True)
    return kept | (tied & (tied.cumsum(dim=1) > quota))


def _kth_smallest(scores: Tensor, k: int) -> Tensor:
    """Return the k-th smallest value of each row (k counts from 1), [rows, 1]."""
    if scores.is_cuda:  # kthvalue on one long row would use a single multiprocessor
        return scores.sort(dim=1).values[:, k - 1 : k]
    if len(scores) == 1 and scores.shape[1] > _LONG:
        return _kth_smallest_by_sampling(scores[0], k).view(1, 1)
    return scores.kthvalue(k, dim=1, keepdim=True).values


def _kth_smallest_by_sampling(scores: Tensor, k: int) -> Tensor:
    """Return the k-th smallest value of one long row, [].

    A sorted sample brackets the value; the exact one is then selected among the few values inside
    the bracket.
    """
    sample = scores[:: len(scores) // _SAMPLE].sort().values
    place = k * len(sample) // len(scores)
    low = sample[max(place - _MARGIN, 0)]
    high = sample[min(place + _MARGIN, len(sample) - 1)]
    near = scores[(scores >= low) & (scores <= high)]
    below = int((scores < low).count_nonzero())
    if not below < k <= below + len(near):
        return scores.kthvalue(k).values  # the bracket missed it: the sample was not representative
    return near.kthvalue(k - below).values


def require_groups_of(m: int, width: int) -> None:
    """Raise SettingError unless ``width`` columns divide into groups of ``m``."""
    if width % m:
        raise SettingError(
            f"width {width} does not divide into groups of {m}; "
            f"take a pattern n:m whose m divides {width}, or 'unstructured'"
        )


def keep_mask_n_of_m(scores: Tensor, *, n: int, m: int) -> Tensor:
    """Return a mask [rows, cols] of the ``n`` highest scores in every ``m`` consecutive columns.

    Raises:
        SettingError: the width is not a multiple of ``m``, or n is not between 1 and m - 1.
        SolverError: a score is not finite.
    """
    Pattern((n, m))
    require_matrix(scores, "scores")
    require_groups_of(m, scores.shape[1])
    require_finite(scores, "scores")
    groups = scores.reshape(scores.shape[0], -1, m)
    candidates = groups.movedim(-1, 0).contiguous()  # [m, rows, groups]
    return keep_n_largest(candidates, n=n).movedim(0, -1).contiguous().view(scores.shape)


def keep_n_largest(candidates: Tensor, *, n: int) -> Tensor:
    """Return a mask [m, ...] of the ``n`` largest along the first axis; m should be small."""
    return num_better(candidates) < n


def num_better(candidates: Tensor) -> Tensor:
    """Return how many candidates on the first axis beat each one, [m, ...]; m should be small.

    Of two equal candidates the later one is the better. The counts have the floating dtype of the
    candidates, because comparing into booleans takes several times as long.
    """
    better = torch.empty_like(candidates, memory_format=torch.contiguous_format)
    for index, rival in enumerate(candidates.unbind()):
        beaten = candidates[:index].clone().le_(rival)  # 1 where the earlier one loses
        better[:index] += beaten
        better[index] = index - beaten.sum(0)
    return better
