"""What a layer should compute once its inputs have moved: not what it did, but what was meant.

Blocks rewritten earlier feed a layer X where the model as given feeds it X0. Least squares then
asks for the V that minimises ||X0 W' - X V'||^2 = ||X(W* - V)'||^2 + a constant, with

    W* = W C H^-1 = W + W(C - H)H^-1,   H = X'X, C = X0'X,

so that every solver may be run on W* as it would be on W. The idea is GPTAQ's
(https://arxiv.org/abs/2504.02692) and Qronos' (https://arxiv.org/abs/2505.11695). C - H is noisy on
few tokens, and V must not learn the noise: only a share of the correction is taken, in proportion
less where there are fewer than 20 tokens for every feature, and H is damped.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SettingError
from .admission import require_finite, require_weight, require_width
from .factor import Factor
from .gram import Gram

# Tokens for every feature from which on the whole share is taken.
_ENOUGH_TOKENS = 20


def matched_weight(weight: Tensor, gram: Gram, factor: Factor, *, share: float) -> Tensor:
    """Return W + share * W(C - H)(H + damping)^-1, [out_features, in_features], in its dtype.

    With n tokens and d features the share is taken times min(1, n / 20d). ``factor`` is of the same
    Gram, in any order. A Gram without a cross sum, or a share of 0, gives
    the weight itself. Raises SettingError for shapes that do not fit or a share outside 0 to 1,
    SolverError for values that are not finite.
    """
    require_weight(weight)
    require_width(weight, gram.matrix, "Gram matrix")
    if gram.cross is None or share == 0:
        return weight.detach()
    require_finite(gram.cross, "cross sum")
    dtype = torch.promote_types(weight.dtype, factor.upper.dtype)
    moved = weight.detach().to(dtype) @ (gram.cross - gram.matrix).to(dtype)
    return shifted_weight(weight, moved, gram, factor, share=share)


def shifted_weight(
    weight: Tensor, moved: Tensor, gram: Gram, factor: Factor, *, share: float
) -> Tensor:
    """Return W + share * M(H + damping)^-1, which adds to the layer's output what is wanted there.

    ``moved`` is M = D'X, [out_features, in_features], with D what the output should have had beside
    what W gives. ``share``, ``factor`` and what is raised as in `matched_weight`.
    """
    require_weight(weight)
    require_width(weight, factor.upper, "factor")
    if not 0 <= share <= 1:
        raise SettingError(f"share {share} is out of range; give 0 to 1")
    if share == 0:
        return weight.detach()
    require_finite(moved, "moved sum")
    dtype = torch.promote_types(weight.dtype, factor.upper.dtype)
    moved = moved.to(dtype).masked_fill(factor.dead, 0.0)
    upper = factor.upper.to(dtype)
    if factor.order is None:
        correction = moved @ upper.T @ upper
    else:
        correction = torch.empty_like(moved)
        correction[:, factor.order] = moved[:, factor.order] @ upper.T @ upper
    taken = share * min(1.0, gram.num_tokens / (_ENOUGH_TOKENS * gram.width))
    return (weight.detach().to(dtype) + taken * correction).to(weight.dtype)
