"""Divide the weights of a model in training over ranks by FSDP2 (`fully_shard`).

Each rank holds some rows of every tensor, with their gradients, moments and best iterate; a block
is whole only while it computes. FSDP2 adds gradients by its own collectives (gloo, NCCL), whose
order depends on the number of ranks and not on timing. The optimiser works on the rows as plain
tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ...checkpoints import ranks
from ...checkpoints.rank_group import default_group
from .rank_steps import Replicated


class Sharded(Replicated):
    """A model whose tensors are divided over ranks.

    Args:
        mesh: all ranks, in one axis.
    """

    def __init__(self, mesh: DeviceMesh) -> None:
        self._mesh = mesh
        self._shards: list[DTensor] = []

    def divide(self, path: str, module: nn.Module) -> None:
        """Divide the tensors of a block, or after all blocks those of the rest of the model."""
        divided = fully_shard(module, mesh=self._mesh)
        divided.set_gradient_divide_factor(1.0)  # the sum of all ranks, not their mean
        divided.set_force_sum_reduction_for_comms(True)  # gloo has no other
        divided.set_reduce_scatter_unused_params(True)  # an expert may have tokens on some ranks

    def parameters(self, shards: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """This rank's rows of divided parameters, as plain parameters on the same memory."""
        self._shards = [_shard(each.requires_grad_()) for each in shards]
        return [nn.Parameter(each.to_local().detach()) for each in self._shards]

    def parts(self, windows: Tensor, start: int, size: int) -> list[tuple[Tensor, float]]:
        """This rank's parts of a step, and what fraction of it each is; as many on every rank.

        Every rank has to run the model equally often, so some run a window that does not count.
        """
        parts = super().parts(windows, start, size)
        most = -(-len(windows) // ranks.size())
        missing = -(-most // size) - len(parts)
        return [*parts, *[(windows[:1], 0.0)] * missing]

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Move the gradients of the rows, which FSDP2 has summed, to the plain parameters."""
        for shard, parameter in zip(self._shards, parameters, strict=True):
            parameter.grad = None if shard.grad is None else _shard(shard.grad).to_local()
            shard.grad = None

    def norm(self, own: Tensor) -> Tensor:
        """The norm of all gradients, from that of this rank's rows."""
        return ranks.total(own.square()).sqrt()

    def whole(self, rows: Tensor) -> Tensor:
        """A tensor from the rows of all ranks, on the CPU; one without axes is every rank's."""
        return ranks.joined(rows.detach().cpu()) if rows.ndim else rows

    def own(self, whole: Tensor) -> Tensor:
        """This rank's rows of a tensor."""
        if not whole.ndim:
            return whole
        size = -(-len(whole) // ranks.size())  # as torch.chunk, and FSDP2
        return whole[size * ranks.rank() : size * (ranks.rank() + 1)].clone()


def _shard(tensor: Tensor) -> DTensor:
    assert isinstance(tensor, DTensor)
    return tensor


@contextmanager
def sharded(device: torch.device) -> Iterator[Sharded]:
    """Divide a model on ``device`` over all ranks, inside the context."""
    with default_group():
        yield Sharded(init_device_mesh(device.type, (ranks.size(),)))
