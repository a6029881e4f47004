"""How well a model does on held-out text, and beside the dense one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Reference:
    """The dense model's run over the held-out text, kept so that it is made once.

    Attributes:
        checkpoint: id of the dense checkpoint.
        windows: digest of the held-out windows.
        hidden: ``[num_windows, length, hidden_size]``, what left its last block.
    """

    checkpoint: str
    windows: str
    hidden: Tensor = field(repr=False)


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood per predicted token.

    Attributes:
        value: the perplexity.
        standard_error: of the value, from the spread of the windows' means (delta method).
        num_tokens: predicted tokens.
    """

    value: float
    standard_error: float
    num_tokens: int


@dataclass(frozen=True)
class Verdict:
    """The model as it stands, beside the dense one, on the same tokens.

    Attributes:
        dense, light: their perplexities.
        rise: light over dense, minus one; from the mean of paired per-token differences.
        rise_error: standard error of ``rise``, from the windows' paired differences.
        mean_kl: mean KL(dense || light) per token, in nats.
        agreement: share of tokens on which both rank the same token first.
        text, window, num_windows, dtype: what it was measured on and in.
        checkpoint, windows: id of the model judged and digest of the windows, which tell whether
            another measurement is of the same thing.
    """

    dense: Perplexity
    light: Perplexity
    rise: float
    rise_error: float
    mean_kl: float
    agreement: float
    text: str
    window: int
    num_windows: int
    dtype: str
    checkpoint: str
    windows: str

    @property
    def margin(self) -> float:
        """How far the rise may be off: two standard errors, none where one window has no error."""
        return 2 * self.rise_error if math.isfinite(self.rise_error) else 0.0

    def holds(self, bound: float) -> bool:
        """Whether the text cannot tell that the rise is more than ``bound``; never of a NaN."""
        return self.rise - self.margin <= bound
