"""Training on several ranks: which windows of a step are this rank's, and the sum of gradients.

A step has the same windows on any number of ranks. Each rank computes the gradient of its part of
them, the gradients are added in the order of the ranks, and every rank takes the same step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...checkpoints import ranks

_PACK_BYTES = 64_000_000  # gradients that are sent together


@dataclass(frozen=True)
class Step:
    """This rank's part of an optimiser step.

    Attributes:
        place: index of its batch; None if the step has fewer windows than there are ranks and none
            of them is this rank's.
        fraction: fraction of the windows of the step that are in that batch.
    """

    place: int | None
    fraction: float


def own_windows(windows: Tensor, start: int) -> Tensor:
    """This rank's part of the windows ``[num_windows, ...]`` of a step.

    Window n is that of rank n modulo the number of ranks, so that steps of one window take turns.

    Args:
        start: number of the first one.
    """
    return windows[(ranks.rank() - start) % ranks.size() :: ranks.size()]


def own_steps(tokens: Tensor, batch_size: int) -> tuple[list[Tensor], list[Step]]:
    """This rank's batches, and the steps of ``batch_size`` windows ``[num_windows, length]``."""
    batches, steps = list[Tensor](), list[Step]()
    for start in range(0, len(tokens), batch_size):
        whole = tokens[start : start + batch_size]
        mine = own_windows(whole, start)
        steps.append(Step(len(batches) if len(mine) else None, len(mine) / len(whole)))
        if len(mine):
            batches.append(mine)
    return batches, steps


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Give parameters of one dtype and device the sum of the gradients that all ranks have.

    A parameter that has none on some ranks (an expert without tokens) counts as zero there; one
    that has none on any keeps none, and is not changed by the step.
    """
    if ranks.size() == 1:
        return
    given = torch.tensor([int(each.grad is not None) for each in parameters])
    counts = ranks.total(given).tolist()
    moving = [each for each, count in zip(parameters, counts, strict=True) if count]
    for pack in _packs(moving):
        flat = ranks.total(torch.cat([_gradient(each).flatten() for each in pack]))
        for each, part in zip(pack, flat.split([each.numel() for each in pack]), strict=True):
            each.grad = part.view_as(each)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _packs(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters in order, in groups of limited size; one that is larger by itself."""
    pack, num_bytes = list[nn.Parameter](), 0
    for each in parameters:
        if pack and num_bytes + each.nbytes > _PACK_BYTES:
            yield pack
            pack, num_bytes = [], 0
        pack.append(each)
        num_bytes += each.nbytes
    if pack:
        yield pack


class Replicated:
    """How a model in training lies on the ranks: whole on each; also that of one process."""

    def divide(self, path: str, module: nn.Module) -> None:
        """Divide the tensors of a block, or after all blocks those of the rest of the model."""

    def parameters(self, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """What the optimiser of this rank works on."""
        return list(parameters)

    def parts(self, windows: Tensor, start: int, size: int) -> list[tuple[Tensor, float]]:
        """This rank's parts of a step of ``windows``, and what fraction of it each is.

        Args:
            start: number of the first window.
            size: largest number of windows of a part.
        """
        own = own_windows(windows, start)
        return [(each, len(each) / len(windows)) for each in own.split(size) if len(each)]

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give what `parameters` returned the gradients of all ranks."""
        sum_gradients(parameters)

    def norm(self, own: Tensor) -> Tensor:
        """The norm of all gradients, from that of this rank's."""
        return own

    def whole(self, own: Tensor) -> Tensor:
        """A whole tensor, from this rank's part."""
        return own.detach()

    def own(self, whole: Tensor) -> Tensor:
        """This rank's part of a whole tensor."""
        return whole
