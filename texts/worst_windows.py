"""The windows of a text on which two models differ most."""

from __future__ import annotations

from dataclasses import dataclass

WORST = 3
"""How many windows of a text are named."""


@dataclass(frozen=True)
class WorstWindow:
    """A window on which a model is far from the original.

    Attributes:
        window: its index in the text, from 0.
        mean_kl: mean KL(dense || light) over its tokens, in nats.
        rise: of perplexity on it, over the original model, as a fraction.
        position: index of the token with the largest KL divergence.
    """

    window: int
    mean_kl: float
    rise: float
    position: int
