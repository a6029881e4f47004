"""What an expert that saw few tokens is solved on: its own inputs, topped up by its fellows'.

The rule: an expert fed n tokens, fewer than its d input features, is solved as though it had been
fed d, those missing being the average of what all experts of the same kind in the block were fed.
Its Hessian is then H + (d - n) M with M the mean of x x' over all their tokens: its own where it
has seen much, its fellows' where it has seen nothing, and of full rank. The algorithm stays the
same, and the tokens borrowed are in the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ...errors import DataError
from ...solvers.gram import Gram, GramAccumulator
from ..blocks.linears import Linear, expert_kind
from .inputs import Group

# A Hessian of fewer tokens than this share of its features says next to nothing of them.
_FEWEST = 1 / 16


class Fellows:
    """The sums of one block's linears, from which each Gram is taken in turn."""

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
        """The Gram of a group, topped up where it is an expert's that saw few tokens.

        Raises:
            DataError: a linear that is no expert's saw fewer tokens than a sixteenth of its inputs.
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
    """What to raise where no expert of a kind saw any token."""
    return DataError(
        f"no expert of '{kind}' saw a token of the calibration text; calibrate on more windows"
    )


def _mean_product(kind: str, sums: Sequence[GramAccumulator]) -> Tensor:
    """Mean of x x' over the tokens of all experts of a kind."""
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
            f"layer '{linear.name}' saw {gram.num_tokens} tokens of the calibration text for its "
            f"{gram.width} inputs, and fewer than one for every 16 are refused; calibrate on more "
            f"windows"
        )
