"""The profile: statistics of every linear layer's inputs and of every block on calibration text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class LinearProfile:
    """The inputs of one linear layer.

    Attributes:
        shape: (out_features, in_features).
        num_tokens: number of input rows; an expert only sees the tokens routed to it.
        second_moment: float32 on the CPU, mean of x_j^2 per input feature ``[in_features]``; or, if
            the profile was asked for it, mean of x_i x_j ``[in_features, in_features]``.
        weight_norm: Frobenius norm of the weight.
        dead_channels: input features that were zero on every token.
        outlier_channels: input features whose root mean square is over 6 times the layer's median.
    """

    shape: tuple[int, int]
    num_tokens: int
    second_moment: Tensor = field(repr=False)
    weight_norm: float
    dead_channels: tuple[int, ...]
    outlier_channels: tuple[int, ...]

    @property
    def mean_square(self) -> Tensor:
        """Mean of x_j^2 per input feature, float32 ``[in_features]``."""
        full = self.second_moment.ndim == 2
        return self.second_moment.diagonal() if full else self.second_moment


@dataclass(frozen=True)
class BlockProfile:
    """The effect of one block on the hidden states.

    Attributes:
        influence: 1 - mean cosine similarity between input and output, per token; 0 for a block
            that changes nothing (ShortGPT, https://arxiv.org/abs/2403.03853).
        num_parameters: number of parameters of the block.
        num_bytes: bytes of all its tensors.
    """

    influence: float
    num_parameters: int
    num_bytes: int


@dataclass(frozen=True)
class Profile:
    """The statistics of the whole model.

    Attributes:
        linears: by name.
        blocks: in order.
        text: name of the calibration text.
        num_tokens: number of tokens of the calibration text.
    """

    linears: Mapping[str, LinearProfile] = field(repr=False)
    blocks: tuple[BlockProfile, ...] = field(repr=False)
    text: str
    num_tokens: int
