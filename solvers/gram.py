"""The Gram matrix H = X'X of a layer's inputs: the only calibration data the solvers need.

Legend: X are the calibration inputs of the layer, [tokens, in_features]. H = X'X is the raw sum,
never divided by the number of tokens, so the Gram matrices of two parts of the data can be added.
When a model is rewritten block by block, X comes from the blocks already rewritten; X0 are the
inputs of the same layer in the original model on the same tokens, and C = X0'X measures how far the
two have drifted apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SettingError
from .checks import require_finite, working_dtype

# Rows converted to float32 at a time, to bound the size of that copy.
_ROWS_PER_CHUNK = 2048
# Columns of H computed at a time. Entries below the diagonal follow from symmetry.
_COLUMNS_PER_STRIP = 256


@dataclass(frozen=True, eq=False)
class Gram:
    """The Gram matrix of a layer's inputs, summed over ``num_tokens`` tokens.

    Attributes:
        matrix: H = X'X, [in_features, in_features], symmetric, float32 or float64.
        num_tokens: number of input rows summed.
        cross: C = X0'X, same shape and dtype; None if the original model's inputs were not
            collected.
        num_borrowed: how many tokens' worth of other layers' inputs were added to ``matrix``, for
            an expert that received few tokens of its own.

    Raises:
        SettingError: ``matrix`` is not square or not float32/float64, or ``cross`` has another
            shape.
    """

    matrix: Tensor
    num_tokens: int
    cross: Tensor | None = None
    num_borrowed: int = 0

    def __post_init__(self) -> None:
        shape = tuple(self.matrix.shape)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise SettingError(f"a Gram matrix must be square; found shape {shape}: give X'X")
        if self.matrix.dtype not in (torch.float32, torch.float64):
            raise SettingError(
                f"a Gram matrix of dtype {self.matrix.dtype} is too imprecise; give float32 or "
                "float64"
            )
        if self.cross is not None and self.cross.shape != self.matrix.shape:
            raise SettingError(
                f"cross sum {tuple(self.cross.shape)} does not fit Gram matrix {shape}; "
                "collect both on the same inputs"
            )

    @property
    def width(self) -> int:
        """in_features."""
        return self.matrix.shape[0]

    @property
    def diagonal(self) -> Tensor:
        """Sum of squares of each input feature, [in_features]."""
        return self.matrix.diagonal()

    @property
    def dead(self) -> Tensor:
        """Boolean [in_features], True for dead features: zero on every token."""
        return self.diagonal == 0

    @property
    def column_norms(self) -> Tensor:
        """L2 norm of each input feature over all tokens, [in_features]."""
        return self.diagonal.sqrt()


class GramAccumulator:
    """Sums X'X in float32 or float64 over batches. The batches themselves are not kept."""

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        """Start an empty sum for inputs of ``width`` features on ``device``.

        Raises:
            SettingError: ``width`` is below 1.
        """
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
        """Number of rows summed so far."""
        return self._num_tokens

    def add(self, inputs: Tensor, original: Tensor | None = None) -> None:
        """Add one batch of inputs.

        Args:
            inputs: X, [..., in_features] of any floating dtype; all leading axes count as tokens.
            original: X0, same shape: the inputs of this layer in the original model on the same
                tokens.

        Raises:
            SettingError: the width differs, or ``original`` has another number of rows.
            SolverError: a value is not finite. The sum is then unchanged.
        """
        rows = self._rows(inputs)
        original_rows = None if original is None else self._rows(original)
        if original_rows is not None and original_rows.shape != rows.shape:
            raise SettingError(
                f"inputs {tuple(inputs.shape)} and inputs of the original model "
                f"{tuple(original.shape if original is not None else ())} do not match; "
                "collect both on the same tokens"
            )
        for chunk in torch.split(rows, _ROWS_PER_CHUNK):
            self._add_chunk(self._upcast(chunk))
        self._num_tokens += rows.shape[0]
        if original_rows is not None:
            self._add_cross(original_rows, rows)

    def join(self, total: Callable[[Tensor], Tensor]) -> None:
        """Become the sum of several accumulators of one width, such as those of other processes.

        Args:
            total: returns the sum of a tensor over all of them, each of which calls it.
        """
        counts = total(torch.tensor([self._num_tokens, self._num_paired]))
        self._num_tokens, self._num_paired = counts.tolist()
        self._upper = total(self._upper)
        if self._num_paired:
            own = torch.zeros_like(self._upper) if self._cross is None else self._cross
            self._cross = total(own)

    def gram(self) -> Gram:
        """Return the sum so far, as a copy.

        ``cross`` is None unless every batch came with the original model's inputs.
        """
        matrix = self._upper.triu()
        matrix += self._upper.triu(1).T
        paired = self._cross is not None and self._num_paired == self._num_tokens
        cross = self._cross.clone() if paired and self._cross is not None else None
        return Gram(matrix, self._num_tokens, cross)

    def _rows(self, inputs: Tensor) -> Tensor:
        if inputs.ndim < 1 or inputs.shape[-1] != self.width:
            raise SettingError(
                f"inputs {tuple(inputs.shape)} do not fit a Gram matrix of width {self.width}: "
                f"the last axis must be {self.width}"
            )
        require_finite(inputs, "inputs")
        return inputs.detach().reshape(-1, self.width)

    def _upcast(self, chunk: Tensor) -> Tensor:
        return chunk.to(self._upper.device, self._upper.dtype)

    def _add_cross(self, original: Tensor, rows: Tensor) -> None:
        """Add X0'X to the cross sum."""
        if self._cross is None:
            self._cross = torch.zeros_like(self._upper)
        pairs = zip(original.split(_ROWS_PER_CHUNK), rows.split(_ROWS_PER_CHUNK), strict=True)
        for left, right in pairs:
            self._cross.addmm_(self._upcast(left).T, self._upcast(right))  # [in, in]
        self._num_paired += rows.shape[0]

    def _add_chunk(self, chunk: Tensor) -> None:
        """Add X'X of one chunk to the upper triangle, strip by strip."""
        for start in range(0, self.width, _COLUMNS_PER_STRIP):
            stop = min(start + _COLUMNS_PER_STRIP, self.width)
            strip = self._upper[:stop, start:stop]  # [stop, columns]: rows up to the diagonal
            strip.addmm_(chunk[:, :stop].T, chunk[:, start:stop])
