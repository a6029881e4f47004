"""How much of each linear goes: the same of all, or less where the load is."""

from __future__ import annotations

from collections.abc import Callable

from ..contexts.scores import Scores

Allocate = Callable[[str, float], float]

# Outlier shares nearer than this are equal but for rounding, which must not be blown up to spread.
_NO_DIFFERENCE = 1e-9


def uniform(name: str, mean: float) -> float:
    """The same share of every linear."""
    return mean


def by_load(scores: Scores, spread: float) -> Allocate:
    """Shares that fall with a block's outliers, their mean over all weights kept (OWL).

    The block whose outlier share lies farthest from the mean of all differs from the mean sparsity
    by ``spread``, the others in proportion (https://arxiv.org/abs/2310.05175, eq. 3); all linears
    of a block get one share. ``spread`` must be no more than the mean sparsity asked for and no
    more than what is left to 1: a share cut off there would move the mean.
    """
    outliers: dict[str, list[tuple[float, int]]] = {}
    for name, score in scores.linears.items():
        outliers.setdefault(_block(name), []).append((score.outliers, score.num_weights))
    weights = {block: sum(w for _, w in pairs) for block, pairs in outliers.items()}
    ratio = {b: sum(o * w for o, w in pairs) / weights[b] for b, pairs in outliers.items()}
    centre = sum(ratio[b] * weights[b] for b in ratio) / sum(weights.values())
    widest = max(abs(value - centre) for value in ratio.values())
    if widest <= _NO_DIFFERENCE:
        return uniform

    def allocate(name: str, mean: float) -> float:
        share = mean - spread * (ratio[_block(name)] - centre) / widest
        return min(max(share, 0.0), 1.0)  # against rounding alone, see above

    return allocate


def _block(name: str) -> str:
    """The block a linear belongs to: its name up to the first number."""
    parts = name.split(".")
    first = next(place for place, part in enumerate(parts) if part.isdigit())
    return ".".join(parts[: first + 1])
