"""The column loop as a Triton kernel: one launch per 128 columns; PyTorch needs ten per column.

A program holds 16 rows of a block in registers, [16, 128], and processes its columns in turn: read
a column, compute its final values, subtract its error times its row of coefficients from the later
columns. One matrix product then applies the block's errors to all later columns, as in
`column_loop`, which is the reference.

Legend: U is the factor. ``coefficients`` is U with each row divided by its diagonal entry.
``place`` is the row of ``kept`` and ``codes`` that belongs to a column; it differs from the
column's index if columns are processed in another order than they are stored in.

Exact: selection, rounding, decoding and errors perform the same operations as the PyTorch loop,
each rounded once (IEEE division, no contraction). An update is one fused multiply-add, as in
PyTorch's own rank-one update, and the product between blocks is the same call.

Not exact: PyTorch sums the errors of 8 and of 32 columns in a product before it subtracts them;
this kernel subtracts them one by one. Columns therefore agree to float32 rounding. A code or a
selection that was that close to a tie may differ, and its row diverges from there. Zeros may differ
in sign. Everything is float32; there is no dot product in the kernel, so TF32 is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .column_loop import BLOCK_SIZE, BlockPlan, ColumnRule

# Rows of the weight (output features) per program.
_TILE_ROWS = 16


def settle_blocks(
    columns: Tensor, coefficients: Tensor, diagonal: Tensor, rule: ColumnRule
) -> None:
    """Replace every column of ``columns`` by its final values, in place, block by block.

    All tensors are float32 on one CUDA device, or on the CPU under Triton's interpreter.
    ``columns`` and the tensors of the plan must be contiguous.

    Args:
        columns: W transposed, [in_features, out_features].
        coefficients: U_jk / U_jj, [in_features, in_features].
        diagonal: U_jj, [in_features].
        rule: must be able to plan blocks.
    """
    width = columns.shape[0]
    errors = torch.empty_like(columns[:BLOCK_SIZE])
    for start in range(0, width, BLOCK_SIZE):
        stop = min(start + BLOCK_SIZE, width)
        plan = rule.plan(start, columns[start:])
        block = coefficients[start:stop, start:stop].contiguous()
        _launch(columns[start:stop], errors, block, diagonal[start:stop], plan, start)
        if stop < width:
            columns[stop:].addmm_(
                coefficients[start:stop, stop:].T, errors[: stop - start], alpha=-1
            )


def _launch(
    columns: Tensor,
    errors: Tensor,
    coefficients: Tensor,
    diagonal: Tensor,
    plan: BlockPlan,
    start: int,
) -> None:
    """Process one block. Only this function passes tensors by their memory layout."""
    num_columns, num_rows = columns.shape
    kept = None if plan.kept is None else plan.kept.view(torch.uint8)
    n, m = plan.n_of_m or (0, 0)
    scales = plan.scales
    with torch.cuda.device_of(columns):
        _settle_block[(triton.cdiv(num_rows, _TILE_ROWS),)](
            columns,
            errors,
            coefficients,
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
            num_warps=1,  # a column is then summed within one warp, without a barrier
            enable_fp_fusion=False,  # `error` must use `settled` as rounded and stored
        )


def _jit(function: Callable[..., Any]) -> Any:
    return triton.jit(function)


@_jit
def _settle_block(
    columns: tl.tensor,
    errors: tl.tensor,
    coefficients: tl.tensor,
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
    """Process one tile of rows; ``columns``, ``errors`` and ``coefficients`` start at the block.

    Code for arguments that are None is left out at compile time. GROUP is 0 if the mask is given.
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
        coefficient = tl.load(coefficients + step * num_columns + offsets, mask=later, other=0.0)
        if places is None:
            place = (start + step).to(tl.int64)
        else:
            place = tl.load(places + step).to(tl.int64)
        here = place * num_rows + rows
        column = tl.sum(tl.where((offsets == step)[None, :], tile, 0.0), axis=1)  # w_j, [ROWS]
        settled = column
        # Mask: choose n of m at the start of a group, or apply the given one.
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
        # Round to the grid of the column's group.
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
        error = column - settled  # e_j
        tl.store(errors + step * num_rows + rows, error, mask=present)
        tl.store(columns + step * num_rows + rows, settled, mask=present)
        # w_k -= e_j U_jk / U_jj for the later columns of the block
        tile = tl.fma(-coefficient[None, :], error[:, None], tile)


@_jit
def _count_better(
    tile: tl.tensor,
    diagonal: tl.tensor,
    first: tl.tensor,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Count how many others beat each column of the group at ``first``, [ROWS, GROUP].

    Ties are broken as in `masks.keep_n_largest`.
    """
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
    """Round to the nearest integer, halves to even.

    Adding 1.5 x 2^23 leaves a float32 no fraction bits. Clipping at 1024 changes no result, since
    codes and zero points have at most 8 bits.
    """
    value = tl.minimum(tl.maximum(value, -1024.0), 1024.0)
    return (value + 12582912.0) - 12582912.0
