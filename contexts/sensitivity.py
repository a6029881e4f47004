"""The sensitivity: estimated rise of the loss from storing each linear in fewer bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

QuantizedFormat = Literal["compressed-tensors", "gguf"]
"""Formats that hold quantised weights and whose sizes are predicted."""

SENSITIVITIES = "sensitivities"
"""The metric that holds the estimated rise of the loss of each linear, by name."""


@dataclass(frozen=True)
class GridLoss:
    """A grid that a linear may be rounded to, and what that costs.

    Attributes:
        bits: bits of an integer.
        group_size: input columns that share a scale; None for a whole row.
        num_bytes: integers, scales and shape as stored, without the file's header.
        loss: estimated rise of the loss, nats per token.
        ggml_type: the type of a GGUF file, such as ``q4_0``; None for packed integers.
    """

    bits: int
    group_size: int | None
    num_bytes: int
    loss: float
    ggml_type: str | None = None


@dataclass(frozen=True)
class LinearSensitivity:
    """The estimates of one linear.

    Attributes:
        shape: (out_features, in_features).
        dense_bytes: bytes of its weight as it is.
        kind: name that experts of one kind in a block have in common, else its own name; linears of
            one kind are stored alike.
        compensated: output error of GPTQ as a fraction of that of rounding to nearest, at about 3
            bits; the losses contain it.
        grids: the grids that divide its width.
    """

    shape: tuple[int, int]
    dense_bytes: int
    kind: str
    compensated: float
    grids: tuple[GridLoss, ...]

    def loss_at(self, bits: int) -> float | None:
        """The least loss at a number of bits; None if it was not estimated."""
        return min((each.loss for each in self.grids if each.bits == bits), default=None)


@dataclass(frozen=True)
class EmbeddingSensitivity:
    """The embedding and the head, which are rounded together.

    Attributes:
        names: their tensors; one if the head is tied.
        dense_bytes: bytes as they are.
        num_bytes: bytes as int8 rows with scales.
        loss: estimated rise of the loss from rounding them to 8 bits, nats per token.
    """

    names: tuple[str, ...]
    dense_bytes: int
    num_bytes: int
    loss: float


@dataclass(frozen=True)
class Sensitivity:
    """The result of the sensitivity link.

    Attributes:
        linears: of every linear that can be packed, by name. For a GGUF file embedding and head
            are among them.
        embeddings: None if they cannot be rounded, or are among ``linears``.
        checkpoint: id of the model.
        text: name of the text.
        num_tokens: tokens it was measured on.
        format: what the grids are those of.
    """

    linears: Mapping[str, LinearSensitivity] = field(repr=False)
    embeddings: EmbeddingSensitivity | None
    checkpoint: str
    text: str
    num_tokens: int
    format: QuantizedFormat = "compressed-tensors"
