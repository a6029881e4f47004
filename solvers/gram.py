"""The Gram matrix of a layer's inputs, gathered batch by batch: all that the solvers need of data.

Legend: X inputs [tokens, in_features]; H = X'X, the raw sum, never divided by the token count, so
that Grams of two shards may simply be added. Where a model is rewritten block after block, X is
what the rewritten blocks feed a layer, X0 what the model as given feeds it on the same tokens, and
C = X0'X tells how far they have come apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SettingError
from .checks import require_finite, working_dtype

# Rows upcast at a time: bounds the float32 copy of a half-precision batch.
_ROWS_PER_CHUNK = 2048
# Columns computed at a time; what lies below a strip's own square is known by symmetry.
_COLUMNS_PER_STRIP = 256


@dataclass(frozen=True, eq=False)
class Gram:
    """The raw sum X'X over ``num_tokens`` rows.

    Attributes:
        matrix: H, [in_features, in_features], symmetric, float32 or float64.
        num_tokens: rows summed.
        cross: C, [in_features, in_features], of the same dtype; None where no other model's inputs
            were gathered beside these.
        num_borrowed: tokens' worth of other layers' inputs in the sum, beside its own.
    """

    matrix: Tensor
    num_tokens: int
    cross: Tensor | None = None
    num_borrowed: int = 0

    def __post_init__(self) -> None:
        shape = tuple(self.matrix.shape)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise SettingError(f"a Gram matrix is square; found shape {shape}: give X'X")
        if self.matrix.dtype not in (torch.float32, torch.float64):
            raise SettingError(
                f"a Gram matrix of dtype {self.matrix.dtype} is too coarse; give float32 or float64"
            )
        if self.cross is not None and self.cross.shape != self.matrix.shape:
            raise SettingError(
                f"cross sum {tuple(self.cross.shape)} does not fit Gram matrix {shape}; "
                "gather both on the same inputs"
            )

    @property
    def width(self) -> int:
        """in_features."""
        return self.matrix.shape[0]

    @property
    def diagonal(self) -> Tensor:
        """Sum of squares of every input feature, [in_features]."""
        return self.matrix.diagonal()

    @property
    def dead(self) -> Tensor:
        """Boolean [in_features]: True where a feature was zero on every token."""
        return self.diagonal == 0

    @property
    def column_norms(self) -> Tensor:
        """L2 norm of every input feature over all tokens, [in_features]."""
        return self.diagonal.sqrt()


class GramAccumulator:
    """Sums X'X in float32 or better over batches that are seen once and not kept."""

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        """Set up an empty sum for inputs of ``width`` features on ``device``."""
        if width < 1:
            raise SettingError(f"width {width} is out of range; give the layer's in_features")
        probe = torch.empty(0, dtype=torch.float32, device=device)
        self._upper = torch.zeros(width, width, dtype=working_dtype(probe), device=device)
        self._cross: Tensor | None = None
        self._num_tokens = 0
        self._num_paired = 0

    @property
    def width(self) -> int:
        """in_features."""
        return self._upper.shape[0]

    @property
    def num_tokens(self) -> int:
        """Rows summed so far."""
        return self._num_tokens

    def add(self, inputs: Tensor, given: Tensor | None = None) -> None:
        """Add ``inputs`` [..., in_features] of any floating dtype; leading axes are all tokens.

        ``given``, of the same shape, is what the model as given feeds the layer on these tokens.
        Raises SettingError for another width or shape, SolverError for a value that is not finite;
        the sum is then as it was.
        """
        rows = self._rows(inputs)
        beside = None if given is None else self._rows(given)
        if beside is not None and beside.shape != rows.shape:
            raise SettingError(
                f"inputs {tuple(inputs.shape)} and those of the model as given "
                f"{tuple(given.shape if given is not None else ())} are not of the same tokens"
            )
        for chunk in torch.split(rows, _ROWS_PER_CHUNK):
            self._add_chunk(self._upcast(chunk))
        self._num_tokens += rows.shape[0]
        if beside is not None:
            self._add_beside(beside, rows)

    def gram(self) -> Gram:
        """Return what has been summed so far, as a copy in the dtype it was summed in.

        It has a cross sum if every row came with what the model as given had there.
        """
        matrix = self._upper.triu()
        matrix += self._upper.triu(1).T
        paired = self._cross is not None and self._num_paired == self._num_tokens
        cross = self._cross.clone() if paired and self._cross is not None else None
        return Gram(matrix, self._num_tokens, cross)

    def _rows(self, inputs: Tensor) -> Tensor:
        if inputs.ndim < 1 or inputs.shape[-1] != self.width:
            raise SettingError(
                f"inputs {tuple(inputs.shape)} do not fit a Gram of width {self.width}: "
                f"the last axis must be {self.width}"
            )
        require_finite(inputs, "inputs")
        return inputs.detach().reshape(-1, self.width)

    def _upcast(self, chunk: Tensor) -> Tensor:
        return chunk.to(self._upper.device, self._upper.dtype)

    def _add_beside(self, given: Tensor, rows: Tensor) -> None:
        if self._cross is None:
            self._cross = torch.zeros_like(self._upper)
        pairs = zip(given.split(_ROWS_PER_CHUNK), rows.split(_ROWS_PER_CHUNK), strict=True)
        for left, right in pairs:
            self._cross.addmm_(self._upcast(left).T, self._upcast(right))
        self._num_paired += rows.shape[0]

    def _add_chunk(self, chunk: Tensor) -> None:
        """Add to the upper triangle, strip by strip, each as deep as its last column."""
        for start in range(0, self.width, _COLUMNS_PER_STRIP):
            stop = min(start + _COLUMNS_PER_STRIP, self.width)
            strip = self._upper[:stop, start:stop]
            strip.addmm_(chunk[:, :stop].T, chunk[:, start:stop])
