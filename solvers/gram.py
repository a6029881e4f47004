"""The Gram matrix of a layer's inputs, gathered batch by batch: all that the solvers need of data.

Legend: X inputs [tokens, in_features]; H = X'X, the raw sum, never divided by the token count, so
that Grams of two shards may simply be added.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SettingError
from .admission import require_finite
from .precision import working_dtype

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
    """

    matrix: Tensor
    num_tokens: int

    def __post_init__(self) -> None:
        shape = tuple(self.matrix.shape)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise SettingError(f"a Gram matrix is square; found shape {shape}: give X'X")
        if self.matrix.dtype not in (torch.float32, torch.float64):
            raise SettingError(
                f"a Gram matrix of dtype {self.matrix.dtype} is too coarse; give float32 or float64"
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
        self._num_tokens = 0

    def add(self, inputs: Tensor) -> None:
        """Add ``inputs`` [..., in_features] of any floating dtype; leading axes are all tokens.

        Raises SettingError for another width, SolverError for a value that is not finite; the sum
        is then as it was.
        """
        width = self._upper.shape[0]
        if inputs.ndim < 1 or inputs.shape[-1] != width:
            raise SettingError(
                f"inputs {tuple(inputs.shape)} do not fit a Gram of width {width}: "
                f"the last axis must be {width}"
            )
        require_finite(inputs, "inputs")
        rows = inputs.detach().reshape(-1, width)
        for chunk in torch.split(rows, _ROWS_PER_CHUNK):
            self._add_chunk(chunk.to(self._upper.device, self._upper.dtype))
        self._num_tokens += rows.shape[0]

    def gram(self) -> Gram:
        """Return what has been summed so far, as a copy in the dtype it was summed in."""
        matrix = self._upper.triu()
        matrix += self._upper.triu(1).T
        return Gram(matrix, self._num_tokens)

    def _add_chunk(self, chunk: Tensor) -> None:
        """Add to the upper triangle, strip by strip, each as deep as its last column."""
        width = self._upper.shape[0]
        for start in range(0, width, _COLUMNS_PER_STRIP):
            stop = min(start + _COLUMNS_PER_STRIP, width)
            strip = self._upper[:stop, start:stop]
            strip.addmm_(chunk[:, :stop].T, chunk[:, start:stop])
