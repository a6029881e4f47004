"""Estimated rise of the loss from rounding each linear to each grid, from one pass over the blocks.

Legend: W is a weight [out_features, in_features], Q its rounded value, H = X'X / tokens the mean
Gram matrix of its inputs in the original model, f the Fisher weight of each output channel
(`fisher`).

The estimate is 1/2 sum_r f_r ((W - Q) H (W - Q)')_rr in nats per token, as in HAWQ-V2
(https://arxiv.org/abs/1911.03852) with the Fisher diagonal of the outputs in place of the Hessian's
trace. Differences: Q is rounded to nearest, and the result is multiplied by what GPTQ leaves of
that error, measured once per linear on a grid of about 3 bits; and both are computed on a sample of
evenly spaced rows, scaled by the sample's fraction of the sum of f.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ...checkpoints import Checkpoint, ranks
from ...errors import SolverError
from ...solvers.factor import factorize
from ...solvers.gptq import quantize_gptq
from ...solvers.gram import Gram, GramAccumulator
from ...solvers.grid import Grid
from ...solvers.masks import is_pruned
from ...solvers.round_to_nearest import quantize_round_to_nearest
from ...texts import Windows
from ..blocks.device import stored_dtype
from ..blocks.linears import Linear, linears_by_block, named
from ..blocks.replay import capture
from ..blocks.skeleton import Skeleton
from .inputs import Group, sum_inputs

ROWS = 64
"""Rows of a linear that are rounded to estimate the error of all."""

_REFERENCE_BITS = 3  # where GPTQ is compared with rounding to nearest


@dataclass(frozen=True)
class Estimates:
    """The estimates of one linear.

    Attributes:
        losses: rise of the loss in nats per token, by grid; grids that do not divide the width are
            absent, as are those without an exact zero for a pruned weight.
        compensated: error of GPTQ as a fraction of that of rounding to nearest.
    """

    losses: Mapping[Grid, float]
    compensated: float


Groups: TypeAlias = Sequence[Group[GramAccumulator]]


def estimate_losses(
    checkpoint: Checkpoint,
    windows: Windows,
    grids: Sequence[Grid],
    fisher: Mapping[str, Tensor],
    *,
    chosen: Callable[[Linear], bool] = lambda linear: linear.plain,
    batch_size: int,
    announce: Callable[[int, int], None],
) -> dict[Linear, Estimates]:
    """The estimates of the chosen linears of every block; the model itself is not changed.

    Args:
        chosen: whether to estimate a linear.
        fisher: f of the linears, [out_features] by name; linears that are not in it saw no token
            and cost nothing.
    """
    skeleton = Skeleton(checkpoint)
    batches = capture(skeleton, ranks.share(windows.tokens).split(batch_size))
    hidden = [batch.hidden for batch in batches]
    found: dict[Linear, Estimates] = {}
    by_block = linears_by_block(checkpoint)
    for index, block in skeleton.each_block():
        prefix = f"{skeleton.path}.{index}."
        linears = [linear for linear in by_block[index] if chosen(linear)]
        calls = [batch.calls[index] for batch in batches]
        groups, hidden = sum_inputs(block, prefix, linears, hidden, calls, GramAccumulator)

        def of_group(place: int, groups: Groups = groups) -> dict[Linear, Estimates]:
            here = groups[place].linears
            weights = {
                linear: linear.view(skeleton.model.get_parameter(linear.tensor).detach())
                for linear in here
            }
            dtypes = {
                linear: stored_dtype(checkpoint, checkpoint.refs[linear.tensor]) for linear in here
            }
            return _of_group(weights, groups[place].sum.gram(), grids, fisher, dtypes)

        costs = [float(group.linears[0].shape[1]) ** 3 for group in groups]
        for estimates in ranks.divided(costs, of_group):
            found.update(estimates)
        announce(index + 1, len(skeleton.blocks))
    return found


def _of_group(
    weights: Mapping[Linear, Tensor],
    gram: Gram,
    grids: Sequence[Grid],
    fisher: Mapping[str, Tensor],
    dtypes: Mapping[Linear, torch.dtype],
) -> dict[Linear, Estimates]:
    """The estimates of linears with the same inputs, whose sampled rows are rounded together."""
    linears = list(weights)
    width = linears[0].shape[1]
    fitting = [grid for grid in grids if grid.divides(width)]
    nothing = Estimates(dict.fromkeys(fitting, 0.0), 1.0)
    if gram.num_tokens == 0 or not fitting:
        return dict.fromkeys(linears, nothing)
    samples = [_Sample.of(weights[linear], fisher.get(linear.name)) for linear in linears]
    rows = torch.cat([sample.rows for sample in samples])  # [sampled rows of all, width]
    heights = [len(sample.rows) for sample in samples]
    cost = torch.cat([sample.cost for sample in samples])
    dtype = dtypes[linears[0]]

    def rises(rounded: Tensor) -> list[float]:
        return [float(part.sum()) for part in loss_rises(rows - rounded, gram, cost).split(heights)]

    try:
        nearest = {
            grid: rises(
                quantize_round_to_nearest(
                    rows, gram, grid=grid, scale_dtype=dtype, scales="searched"
                ).dequantize()
            )
            for grid in fitting
        }
        reference = min(fitting, key=lambda grid: abs(grid.bits - _REFERENCE_BITS))
        compensating = rises(
            quantize_gptq(
                rows,
                gram,
                grid=reference,
                scale_dtype=dtype,
                factor=factorize(gram, descending=True),
            ).dequantize()
        )
    except SolverError as error:
        raise named(linears[0], error) from error
    made = {}
    for place, linear in enumerate(linears):
        plain = nearest[reference][place]
        left = min(compensating[place] / plain, 1.0) if plain > 0 else 1.0
        pruned = is_pruned(weights[linear])
        losses = {
            grid: each[place] * left
            for grid, each in nearest.items()
            if grid.exact_zero or not pruned
        }
        made[linear] = Estimates(losses, left)
    return made


def loss_rises(error: Tensor, gram: Gram, fisher: Tensor) -> Tensor:
    """1/2 f_r (E H E')_rr for every row r of a weight error E [rows, in_features].

    Args:
        gram: of the inputs; H is its mean over tokens.
        fisher: f, [rows].

    Returns:
        float64 [rows], on the CPU.
    """
    squares = ((error.float() @ gram.matrix.float()) * error.float()).sum(1)  # [rows]
    rises = squares.cpu().double().clamp_(min=0.0) * fisher.cpu().double()
    return rises / (2 * max(gram.num_tokens, 1))


@dataclass(frozen=True)
class _Sample:
    """Some rows of a weight, and what an error in each costs, scaled up to all rows, on the CPU."""

    rows: Tensor
    cost: Tensor

    @classmethod
    def of(cls, weight: Tensor, fisher: Tensor | None) -> _Sample:
        step = max(weight.shape[0] // ROWS, 1)
        rows = weight[::step].float()
        if fisher is None:
            return cls(rows, torch.zeros(len(rows)))
        sampled = fisher[::step]
        covered = float(sampled.sum())
        scale = float(fisher.sum()) / covered if covered > 0 else 0.0
        return cls(rows, sampled * scale)
