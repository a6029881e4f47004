"""What calibration text showed: what flows into every linear, what every block does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class LinearProfile:
    """The inputs one linear saw.

    Attributes:
        shape: (out_features, in_features).
        num_tokens: rows of input seen; an expert sees only what it is sent.
        second_moment: float32, mean of x_j^2 per input channel ``[in_features]``, or, when the
            profile was asked for it, of x_i x_j ``[in_features, in_features]``.
        weight_norm: Frobenius norm of the weight.
        dead_channels: input channels that were zero on every token.
        outlier_channels: input channels whose root mean square is over 6 times the layer's median.
    """

    shape: tuple[int, int]
    num_tokens: int
    second_moment: Tensor = field(repr=False)
    weight_norm: float
    dead_channels: tuple[int, ...]
    outlier_channels: tuple[int, ...]

    @property
    def mean_square(self) -> Tensor:
        """Mean of x_j^2 per input channel, float32 ``[in_features]``."""
        full = self.second_moment.ndim == 2
        return self.second_moment.diagonal() if full else self.second_moment


@dataclass(frozen=True)
class BlockProfile:
    """What one block does to the hidden states that pass it.

    Attributes:
        influence: 1 - mean cosine between what enters and what leaves, per token; 0 is a block
            that changes nothing (ShortGPT, https://arxiv.org/abs/2403.03853).
        num_parameters, num_bytes: of all its tensors.
    """

    influence: float
    num_parameters: int
    num_bytes: int


@dataclass(frozen=True)
class Profile:
    """The whole model's: linears by name, blocks in order, and the text it was seen on."""

    linears: Mapping[str, LinearProfile] = field(repr=False)
    blocks: tuple[BlockProfile, ...] = field(repr=False)
    text: str
    num_tokens: int
