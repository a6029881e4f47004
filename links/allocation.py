"""How much of each linear goes: the same of all, or less where the load is."""

from __future__ import annotations

from collections.abc import Callable

from ..contexts.scores import Scores

Allocate = Callable[[str, float], float]


def uniform(name: str, mean: float) -> float:
    """The same share of every linear."""
    return mean


def by_load(scores: Scores, spread: float) -> Allocate:
    """Shares that fall with a block's outliers, their mean over weights kept (OWL).

    A block whose outlier share lies highest keeps ``spread`` more than the mean, the lowest
    ``spread`` less, the others in between in proportion (https://arxiv.org/abs/2310.05175, eq. 3);
    all linears of a block get one share.
    """
    outliers: dict[str, list[tuple[float, int]]] = {}
    for name, score in scores.linears.items():
        outliers.setdefault(_block(name), []).append((score.outliers, score.num_weights))
    weights = {block: sum(w for _, w in pairs) for block, pairs in outliers.items()}
    ratio = {b: sum(o * w for o, w in pairs) / weights[b] for b, pairs in outliers.items()}
    centre = sum(ratio[b] * weights[b] for b in ratio) / sum(weights.values())
    widest = max(abs(value - centre) for value in ratio.values()) or 1.0

    def allocate(name: str, mean: float) -> float:
        share = mean - spread * (ratio[_block(name)] - centre) / widest
        return min(max(share, 0.0), 1.0)

    return allocate


def _block(name: str) -> str:
    """The block a linear belongs to: its name up to the first number."""
    parts = name.split(".")
    first = next(place for place, part in enumerate(parts) if part.isdigit())
    return ".".join(parts[: first + 1])
