"""First-order Taylor scores: estimated change of the loss when a weight is removed.

The score is |w dL/dw|, summed over windows (Molchanov et al. 2019, https://arxiv.org/abs/1906.10771,
their first-order criterion without the square). Each gradient is added to its score and freed as
soon as it is computed: memory is the model, the scores and one gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...checkpoints import Checkpoint, ranks
from ..blocks.linears import find_linears
from ..blocks.skeleton import Skeleton
from .fisher import take_gradients


def taylor_scores(
    checkpoint: Checkpoint, windows: Tensor, announce: Callable[[int, int], None]
) -> dict[str, Tensor]:
    """Scores of the tensors of all linears in blocks, float32, in the shape of the tensor.

    Args:
        windows: int64 ``[num_windows, length]``.

    Raises:
        NumericsError: the loss of a window is not finite.
    """
    skeleton = Skeleton(checkpoint)
    model = skeleton.fill()
    names = {
        linear.tensor
        for index, block in enumerate(skeleton.blocks)
        for linear in find_linears(block, f"{skeleton.path}.{index}.")
    }
    scores: dict[str, Tensor] = {}
    hooks = []
    for name in names:
        parameter = model.get_parameter(name)
        parameter.requires_grad_(True)
        scores[name] = torch.zeros_like(parameter, dtype=torch.float32)
        hooks.append(parameter.register_post_accumulate_grad_hook(_fold(scores[name])))
    take_gradients(skeleton, windows, announce)
    for hook in hooks:
        hook.remove()
    return {name: ranks.total(scores[name]).cpu() for name in sorted(scores)}


def _fold(score: Tensor) -> Callable[[Tensor], None]:
    def fold(parameter: Tensor) -> None:
        assert parameter.grad is not None
        score.add_((parameter.detach().float() * parameter.grad.float()).abs())
        parameter.grad = None

    return fold
