"""The column loop on a GPU: one kernel launch for 128 columns, where torch takes ten for each.

A program holds 16 rows of a block on chip, [16, 128], and walks its columns: take the column,
settle it, and subtract its error times its row of shares from the columns after it. One product
then passes the block's errors on to all later columns, as in `column_loop`, whose result this is.

Legend: U the factor, shares U with each row divided by its diagonal, place the row of ``kept`` and
``codes`` that a column stands for (columns may be met in another order than they are stored in).

What is exact: choosing, rounding, decoding and errors do the torch path's operations one for one,
each rounded once (IEEE division, no contraction). An update is one fused multiply-add, as in
torch's own rank-one update, and the product between blocks is the same call. What is not: torch
sums the errors of 8 and of 32 columns in a product before it subtracts them, where this subtracts
them one by one. So columns agree to float32 rounding, and a code or a choice that stood within that
of a tie may fall the other way, after which its row goes on from there. A zero may differ in sign.
All is float32, and nothing is TF32: there is no dot product in the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .column_loop import BLOCK_SIZE, BlockPlan, ColumnRule

_TILE_ROWS = 16


def settle_blocks(columns: Tensor, shares: Tensor, diagonal: Tensor, rule: ColumnRule) -> None:
    """Settle every column of ``columns`` [in_features, out_features] in place, block by block.

    ``shares`` is U with each row divided by ``diagonal``, its own. All are float32, on one
    CUDA device, or on the CPU under Triton's interpreter; ``columns`` and the plan's tensors are
    contiguous.
    """
    width = columns.shape[0]
    errors = torch.empty_like(columns[:BLOCK_SIZE])
    for start in range(0, width, BLOCK_SIZE):
        stop = min(start + BLOCK_SIZE, width)
        plan = rule.plan(start, columns[start:])
        block = shares[start:stop, start:stop].contiguous()
        _launch(columns[start:stop], errors, block, diagonal[start:stop], plan, start)
        if stop < width:
            columns[stop:].addmm_(shares[start:stop, stop:].T, errors[: stop - start], alpha=-1)


def _launch(
    columns: Tensor, errors: Tensor, shares: Tensor, diagonal: Tensor, plan: BlockPlan, start: int
) -> None:
    """Settle one block; only here is a tensor taken for the memory it lies in."""
    num_columns, num_rows = columns.shape
    kept = None if plan.kept is None else plan.kept.view(torch.uint8)
    n, m = plan.n_of_m or (0, 0)
    scales = plan.scales
    with torch.cuda.device_of(columns):
        _settle_block[(triton.cdiv(num_rows, _TILE_ROWS),)](
            columns,
            errors,
            shares,
            diagonal,
            kept,
            None if scales is None else scales.scale,
            None if scales is None else scales.zero_point,
            plan.codes,
            plan.places,
            start,
            num_columns,
            num_rows,
            plan.group_size,
            0.0 if scales is None else float(scales.grid.smallest),
            0.0 if scales is None else float(scales.grid.largest),
            NUM_KEPT=n,
            GROUP=m,
            ROWS=_TILE_ROWS,
            BLOCK=BLOCK_SIZE,
            num_warps=1,  # a column is then summed inside one warp, with no barrier
            enable_fp_fusion=False,  # `error` must see `settled` rounded, as it is stored
        )


def _jit(function: Callable[..., Any]) -> Any:
    return triton.jit(function)


@_jit
def _settle_block(
    columns: tl.tensor,
    errors: tl.tensor,
    shares: tl.tensor,
    diagonal: tl.tensor,
    kept: tl.tensor,
    scale: tl.tensor,
    zero_point: tl.tensor,
    codes: tl.tensor,
    places: tl.tensor,
    start: tl.tensor,
    num_columns: tl.tensor,
    num_rows: tl.tensor,
    group_size: tl.tensor,
    smallest: tl.tensor,
    largest: tl.tensor,
    NUM_KEPT: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Settle one tile of rows; ``columns``, ``errors`` and ``shares`` begin at the block.

    What is None is left out when the kernel is compiled. GROUP is 0 where the mask is given.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    present = rows < num_rows
    offsets = tl.arange(0, BLOCK)
    tile = tl.load(
        columns + offsets[None, :] * num_rows + rows[:, None],
        mask=(offsets < num_columns)[None, :] & present[:, None],
        other=0.0,
    )
    if GROUP > 0:
        num_better = tl.zeros([ROWS, GROUP], tl.int32)
    for step in range(num_columns):
        later = (offsets > step) & (offsets < num_columns)
        share = tl.load(shares + step * num_columns + offsets, mask=later, other=0.0)
        if places is None:
            place = (start + step).to(tl.int64)
        else:
            place = tl.load(places + step).to(tl.int64)
        here = place * num_rows + rows
        column = tl.sum(tl.where((offsets == step)[None, :], tile, 0.0), axis=1)
        settled = column
        if GROUP > 0:
            if step % GROUP == 0:
                num_better = _count_better(tile, diagonal, step, GROUP, ROWS, BLOCK)
            member = (tl.arange(0, GROUP) == step % GROUP)[None, :]
            chosen = tl.sum(tl.where(member, num_better, 0), axis=1) < NUM_KEPT
            tl.store(kept + here, chosen.to(tl.uint8), mask=present)
            settled = tl.where(chosen, settled, 0.0)
        elif kept is not None:
            given = tl.load(kept + here, mask=present, other=0)
            settled = tl.where(given != 0, settled, 0.0)
        if scale is not None:
            group = place // group_size * num_rows + rows
            spacing = tl.load(scale + group, mask=present, other=1.0).to(tl.float32)
            code = _nearest(tl.div_rn(settled, spacing))
            if zero_point is None:
                code = tl.minimum(tl.maximum(code, smallest), largest)
                settled = code * spacing
            else:
                zero = tl.load(zero_point + group, mask=present, other=0).to(tl.float32)
                code = tl.minimum(tl.maximum(code + zero, smallest), largest)
                settled = (code - zero) * spacing
            tl.store(codes + here, code.to(tl.int8), mask=present)
        error = column - settled
        tl.store(errors + step * num_rows + rows, error, mask=present)
        tl.store(columns + step * num_rows + rows, settled, mask=present)
        tile = tl.fma(-share[None, :], error[:, None], tile)


@_jit
def _count_better(
    tile: tl.tensor,
    diagonal: tl.tensor,
    first: tl.tensor,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Count who beats each column of the group at ``first``, with `masks.keep_n_largest`'s ties."""
    members = tl.arange(0, GROUP)
    is_group = (tl.arange(0, BLOCK // GROUP) == first // GROUP)[None, :, None]
    groups = tl.reshape(tile, [ROWS, BLOCK // GROUP, GROUP])
    window = tl.sum(tl.where(is_group, groups, 0.0), axis=1)
    score = tl.div_rn(window, tl.load(diagonal + first + members)[None, :])
    score = score * score
    rival, own = score[:, None, :], score[:, :, None]
    comes_after = (members[None, :] > members[:, None])[None, :, :]
    better = (rival > own) | ((rival == own) & comes_after)
    return tl.sum(better.to(tl.int32), axis=2)


@_jit
def _nearest(value: tl.tensor) -> tl.tensor:
    """Round halves to even: above 1.5 x 2^23 a float32 has no room for a fraction.

    What is cut at 1024 is far beyond any code, with or without a zero point.
    """
    value = tl.minimum(tl.maximum(value, -1024.0), 1024.0)
    return (value + 12582912.0) - 12582912.0
