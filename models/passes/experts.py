"""Hessians of experts that received few calibration tokens.

An expert that received n tokens, fewer than its d input features, has a rank-deficient Hessian H.
It is solved with H + (d - n) M instead, where M is the mean of x x' over the tokens of all experts
of the same kind in the block. With n >= d this is its own Hessian; with n = 0 it is d times the
mean of the others. The solver does not change, and the number of borrowed tokens is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ...errors import DataError
from ...solvers.gram import Gram, GramAccumulator
from ..blocks.linears import Linear, expert_kind
from .inputs import Group

# Smallest accepted ratio of tokens to input features of a linear that is not an expert.
_FEWEST = 1 / 16


class Fellows:
    """The statistics of one block's linears; returns the Gram matrix of each group."""

    def __init__(self, groups: Sequence[Group[GramAccumulator]]) -> None:
        self._mean: dict[str, Tensor] = {}
        kinds: dict[str, list[GramAccumulator]] = {}
        for group in groups:
            kind = expert_kind(group.linears[0])
            if kind is not None:
                kinds.setdefault(kind, []).append(group.sum)
        for kind, sums in kinds.items():
            if any(each.num_tokens < each.width for each in sums):
                self._mean[kind] = _mean_product(kind, sums)

    def gram(self, group: Group[GramAccumulator]) -> Gram:
        """The Gram matrix of a group, with borrowed tokens for an expert that received few.

        Raises:
            DataError: a linear that is not an expert received fewer tokens than 1/16 of its width.
        """
        linear, gram = group.linears[0], group.sum.gram()
        kind = expert_kind(linear)
        if kind is None:
            _require_tokens(linear, gram)
            return gram
        missing = gram.width - gram.num_tokens
        if missing <= 0:
            return gram
        matrix = gram.matrix + missing * self._mean[kind]
        return replace(gram, matrix=matrix, cross=None, num_borrowed=missing)


def no_tokens(kind: str) -> DataError:
    """The error for experts of a kind none of which received a token."""
    return DataError(
        f"no expert of '{kind}' received a token of the calibration text; calibrate on more windows"
    )


def _mean_product(kind: str, sums: Sequence[GramAccumulator]) -> Tensor:
    """Mean of x x' over the tokens of all experts of a kind, ``[in_features, in_features]``."""
    num_tokens = sum(each.num_tokens for each in sums)
    if num_tokens == 0:
        raise no_tokens(kind)
    total = sums[0].gram().matrix
    for each in sums[1:]:
        total += each.gram().matrix
    return total / num_tokens


def _require_tokens(linear: Linear, gram: Gram) -> None:
    if gram.num_tokens < _FEWEST * gram.width:
        raise DataError(
            f"layer '{linear.name}' received {gram.num_tokens} calibration tokens for "
            f"{gram.width} inputs; at least one token per 16 inputs is needed: calibrate on more "
            f"windows"
        )
