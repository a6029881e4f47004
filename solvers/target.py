"""The weight a layer should approximate after its inputs have changed: the asymmetric target W*.

Blocks already rewritten feed a layer inputs X; the original model feeds it X0. The V that minimises
||X0 W' - X V'||^2 = ||X(W* - V)'||^2 + a constant satisfies the normal equations for

    W* H = W C, so W* = W + W(C - H) H^-1,   H = X'X, C = X0'X,

so every solver can be run on W* instead of W. A solver that starts from W* H needs only the shift
W(C - H) of its right-hand side. The idea is from GPTAQ (https://arxiv.org/abs/2504.02692) and
Qronos (https://arxiv.org/abs/2505.11695).

C - H is noisy on few tokens, and V must not fit the noise. Only a fraction (``matching``) of the
shift is applied, proportionally less below 20 tokens per feature, and H is damped.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SettingError
from .checks import require_finite, require_weight, require_width
from .factor import Factor, reorder_columns
from .gram import Gram

# Tokens per feature from which on the full ``matching`` is applied.
_ENOUGH_TOKENS = 20
# Columns computed at a time in a product with a triangular matrix, so that its zeros are skipped.
_COLUMNS_PER_STRIP = 256


def target_shift(weight: Tensor, gram: Gram, *, matching: float) -> Tensor | None:
    """Return matching * W(C - H), [out_features, in_features], or None if there is no shift.

    With n tokens and d features, ``matching`` is first multiplied by min(1, n / 20d). The result
    has the dtype of the Gram matrix or better.

    Args:
        weight: W, [out_features, in_features].
        gram: Gram matrix of the inputs, with its cross sum C.
        matching: fraction of the upstream error to correct, 0 to 1.

    Returns:
        None if the Gram matrix has no cross sum or ``matching`` is 0.

    Raises:
        SettingError: shapes do not fit, or ``matching`` is out of range.
        SolverError: the cross sum is not finite.
    """
    drift = _drift(weight, gram, matching)
    return None if drift is None else weight.detach().to(drift.dtype) @ drift


def target_weight(weight: Tensor, gram: Gram, factor: Factor, *, matching: float) -> Tensor:
    """Return W* = W + matching * W(C - H)(H + damping)^-1, [out_features, in_features].

    The result has the dtype of ``weight``, and is ``weight`` itself if there is nothing to correct.
    ``factor`` is a factorisation of the same Gram matrix, in any order. The other arguments, and
    what is raised, are as in `target_shift`.
    """
    require_weight(weight)
    require_width(weight, factor.upper, "factor")
    drift = _drift(weight, gram, matching)
    if drift is None:
        return weight.detach()
    original = weight.detach().to(drift.dtype)
    rows, width = original.shape
    # The order of the two products does not change the result; solve for the fewer rows.
    if rows > width:
        correction = original @ _solve(drift, factor)
    else:
        correction = _solve(original @ drift, factor)
    return correction.add_(original).to(weight.dtype)


def compensated_weight(
    weight: Tensor, cross: Tensor, gram: Gram, factor: Factor, *, matching: float
) -> Tensor:
    """Return W + matching * M (H + damping)^-1, whose output is closer to a target output.

    Args:
        weight: W, [out_features, in_features].
        cross: M = D'X, [out_features, in_features], with D [tokens, out_features] the target output
            minus the current output.
        gram: Gram matrix of the inputs X.
        factor: a factorisation of the same Gram matrix, in any order.
        matching: fraction of the correction to apply, reduced for few tokens as in `target_shift`.

    Raises:
        SettingError: shapes do not fit, or ``matching`` is out of range.
        SolverError: ``weight`` or ``cross`` is not finite.
    """
    require_weight(weight)
    require_width(weight, factor.upper, "factor")
    applied = _applied_fraction(gram, matching)
    if matching == 0:
        return weight.detach()
    require_finite(cross, "sum of target output times inputs")
    dtype = torch.promote_types(weight.dtype, factor.upper.dtype)
    shift = cross.to(dtype).masked_fill(factor.dead, 0.0).mul_(applied)
    return _solve(shift, factor).add_(weight.detach()).to(weight.dtype)


def _drift(weight: Tensor, gram: Gram, matching: float) -> Tensor | None:
    """Return the applied fraction of C - H, [in_features, in_features]; None if there is none."""
    require_width(weight, gram.matrix, "Gram matrix")
    applied = _applied_fraction(gram, matching)
    if gram.cross is None or matching == 0:
        return None
    require_finite(gram.cross, "cross sum")
    drift = (gram.cross - gram.matrix).to(torch.promote_types(weight.dtype, gram.matrix.dtype))
    drift[:, gram.dead] = 0.0
    return drift.mul_(applied)


def _applied_fraction(gram: Gram, matching: float) -> float:
    """Return ``matching``, reduced in proportion if there are few tokens per feature."""
    if not 0 <= matching <= 1:
        raise SettingError(f"matching {matching} is out of range; give a fraction from 0 to 1")
    return matching * min(1.0, gram.num_tokens / (_ENOUGH_TOKENS * gram.width))


def _solve(rows: Tensor, factor: Factor) -> Tensor:
    """Return rows (H + damping)^-1 = rows U'U, [rows, in_features]."""
    upper = factor.upper.to(rows.dtype)
    if factor.order is not None:
        rows = reorder_columns(rows, factor.order)
    half, solved = torch.empty_like(rows), torch.empty_like(rows)
    # half = rows U'; the columns of U' are zero above the diagonal
    for start in range(0, upper.shape[0], _COLUMNS_PER_STRIP):
        stop = start + _COLUMNS_PER_STRIP
        half[:, start:stop] = rows[:, start:] @ upper[start:stop, start:].T
    # solved = half U; the columns of U are zero below the diagonal
    for start in range(0, upper.shape[0], _COLUMNS_PER_STRIP):
        stop = start + _COLUMNS_PER_STRIP
        solved[:, start:stop] = half[:, :stop] @ upper[:stop, start:stop]
    return solved if factor.order is None else reorder_columns(solved, factor.order.argsort())
