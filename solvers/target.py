"""What a layer should compute once its inputs have moved: not what it did, but what was meant.

Blocks rewritten earlier feed a layer X where the model as given feeds it X0. Least squares then
asks for the V that minimises ||X0 W' - X V'||^2 = ||X(W* - V)'||^2 + a constant, with

    W* H = W C, so W* = W + W(C - H)H^-1,   H = X'X, C = X0'X,

so that every solver may be run on W* as it would be on W; one that works from W* H needs no more
than the pull W(C - H). The idea is GPTAQ's (https://arxiv.org/abs/2504.02692) and Qronos'
(https://arxiv.org/abs/2505.11695). C - H is noisy on few tokens, and V must not learn the noise:
only a share of the pull is taken, in proportion less where there are fewer than 20 tokens for every
feature, and H is damped.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SettingError
from .checks import require_finite, require_weight, require_width
from .factor import Factor, in_order
from .gram import Gram

# Tokens for every feature from which on the whole share is taken.
_ENOUGH_TOKENS = 20
# Columns of a product with a triangle at a time; what lies beyond its zeros is left out.
_COLUMNS_PER_STRIP = 256


def pull_of(weight: Tensor, gram: Gram, *, share: float) -> Tensor | None:
    """Return share * W(C - H), [out_features, in_features], in the Gram's dtype or better.

    With n tokens and d features the share is taken times min(1, n / 20d). None for a Gram without a
    cross sum, or a share of 0. Raises SettingError for shapes that do not fit or a share outside 0
    to 1, SolverError for values that are not finite.
    """
    drift = _drift(weight, gram, share)
    return None if drift is None else weight.detach().to(drift.dtype) @ drift


def matched_weight(weight: Tensor, gram: Gram, factor: Factor, *, share: float) -> Tensor:
    """Return W + share * W(C - H)(H + damping)^-1, [out_features, in_features], in its dtype.

    The share is taken as in `pull_of`, which says what is raised; where there is nothing to pull
    it is the weight itself. ``factor`` is of the same Gram, in any order.
    """
    require_weight(weight)
    require_width(weight, factor.upper, "factor")
    drift = _drift(weight, gram, share)
    if drift is None:
        return weight.detach()
    given = weight.detach().to(drift.dtype)
    rows, width = given.shape
    # Both come to the same; the solving is done on the shorter side.
    correction = given @ _solved(drift, factor) if rows > width else _solved(given @ drift, factor)
    return correction.add_(given).to(weight.dtype)


def shifted_weight(
    weight: Tensor, moved: Tensor, gram: Gram, factor: Factor, *, share: float
) -> Tensor:
    """Return W + share * M(H + damping)^-1, which adds to the layer's output what is wanted there.

    ``moved`` is M = D'X, [out_features, in_features], with D what the output should have had beside
    what W gives. ``share``, ``factor`` and what is raised as in `matched_weight`.
    """
    require_weight(weight)
    require_width(weight, factor.upper, "factor")
    taken = _taken(gram, share)
    if share == 0:
        return weight.detach()
    require_finite(moved, "moved sum")
    dtype = torch.promote_types(weight.dtype, factor.upper.dtype)
    pull = moved.to(dtype).masked_fill(factor.dead, 0.0).mul_(taken)
    return _solved(pull, factor).add_(weight.detach()).to(weight.dtype)


def _drift(weight: Tensor, gram: Gram, share: float) -> Tensor | None:
    """Return the share of C - H that is taken, [in_features, in_features]."""
    require_width(weight, gram.matrix, "Gram matrix")
    taken = _taken(gram, share)
    if gram.cross is None or share == 0:
        return None
    require_finite(gram.cross, "cross sum")
    drift = (gram.cross - gram.matrix).to(torch.promote_types(weight.dtype, gram.matrix.dtype))
    drift[:, gram.dead] = 0.0
    return drift.mul_(taken)


def _taken(gram: Gram, share: float) -> float:
    if not 0 <= share <= 1:
        raise SettingError(f"share {share} is out of range; give 0 to 1")
    return share * min(1.0, gram.num_tokens / (_ENOUGH_TOKENS * gram.width))


def _solved(rows: Tensor, factor: Factor) -> Tensor:
    """Return rows (H + damping)^-1 = rows U'U, strip by strip of the columns of U' and of U."""
    upper = factor.upper.to(rows.dtype)
    if factor.order is not None:
        rows = in_order(rows, factor.order)
    half, whole = torch.empty_like(rows), torch.empty_like(rows)
    for start in range(0, upper.shape[0], _COLUMNS_PER_STRIP):
        stop = start + _COLUMNS_PER_STRIP
        half[:, start:stop] = rows[:, start:] @ upper[start:stop, start:].T
    for start in range(0, upper.shape[0], _COLUMNS_PER_STRIP):
        stop = start + _COLUMNS_PER_STRIP
        whole[:, start:stop] = half[:, :stop] @ upper[:stop, start:stop]
    return whole if factor.order is None else in_order(whole, factor.order.argsort())
