"""The kernel against the torch path on a CPU, for a process in which Triton interprets.

Run by `test_triton_loop`, or by hand: TRITON_INTERPRET=1 pytest tests/solvers/triton_interpreted.py
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from birdbone.solvers import column_loop, gptq, sparsegpt
from birdbone.solvers.factor import factorize
from birdbone.solvers.gptq import quantize_gptq
from birdbone.solvers.gram import Gram
from birdbone.solvers.grid import Grid
from birdbone.solvers.masks import Pattern
from birdbone.solvers.sparsegpt import prune_sparsegpt, sparsegpt_update


def one_by_one(columns: Tensor, upper: Tensor, rule: column_loop.ColumnRule) -> None:
    """The column loop with no product inside a block, and each update rounded once.

    A product of two float32 is exact in float64, so only the sum is rounded twice; the data here
    holds no case where that shows.
    """
    shares = upper / upper.diagonal().unsqueeze(1)
    errors = torch.empty_like(columns)
    for start in range(0, len(columns), 128):
        stop = min(start + 128, len(columns))
        for index in range(start, stop):
            if index % rule.unit == 0:
                rule.begin(index, columns[index : index + rule.unit])
            settled = rule.settle(index, columns[index])
            errors[index] = columns[index] - settled
            columns[index] = settled
            share = shares[index, index + 1 : stop].double().unsqueeze(1)
            columns[index + 1 : stop] = (
                columns[index + 1 : stop].double() - share * errors[index].double()
            ).float()
        columns[stop:].addmm_(shares[start:stop, stop:].T, errors[start:stop], alpha=-1)


@pytest.fixture
def three_ways(monkeypatch):
    """Run a solver with the kernel, with `one_by_one`, and as it runs without a GPU."""

    def run(solve):
        usual = solve()
        with monkeypatch.context() as patch:
            patch.setattr(column_loop, "uses_triton", lambda columns, rule: rule.plans_blocks)
            patch.setattr(column_loop, "_Loop", None)  # the torch path would raise
            on_chip = solve()
        with monkeypatch.context() as patch:
            patch.setattr(sparsegpt, "run_column_loop", one_by_one)
            patch.setattr(gptq, "run_column_loop", one_by_one)
            return on_chip, solve(), usual

    return run


@pytest.fixture
def float32_layer(make_layer):
    """A weight and a Gram with three dead features, [rows, cols]."""

    def make(rows: int, cols: int) -> tuple[Tensor, Gram]:
        layer = make_layer(rows, cols, tokens=2 * cols)
        layer.inputs[:, 3:6] = 0.0
        matrix = (layer.inputs.T @ layer.inputs).float()
        return layer.weight.float(), Gram(matrix, 2 * cols)

    return make


# 19 rows are a whole tile and a part of one; 136 columns a whole block and a part of one.
@pytest.mark.parametrize(
    ("rows", "cols", "sparsity", "pattern"),
    [
        (19, 136, 0.5, "unstructured"),
        (8, 136, None, "2:4"),
        (8, 24, None, "3:8"),
        (5, 64, None, "16:32"),
    ],
)
def test_pruning(three_ways, float32_layer, rows, cols, sparsity, pattern) -> None:
    weight, gram = float32_layer(rows, cols)
    on_chip, exact, usual = three_ways(
        lambda: prune_sparsegpt(weight, gram, sparsity=sparsity, pattern=Pattern.parse(pattern))
    )
    assert torch.equal(on_chip.weight, exact.weight)
    assert torch.equal(on_chip.mask, exact.mask)
    assert torch.equal(on_chip.mask, usual.mask)
    torch.testing.assert_close(on_chip.weight, usual.weight, atol=1e-5, rtol=1e-5)


def test_a_given_mask(three_ways, float32_layer) -> None:
    weight, gram = float32_layer(8, 40)
    mask, factor = weight.abs() > 0.5, factorize(gram)
    on_chip, exact, usual = three_ways(lambda: sparsegpt_update(weight, factor, mask))
    assert torch.equal(on_chip, exact)
    torch.testing.assert_close(on_chip, usual, atol=1e-5, rtol=1e-5)


def test_equal_scores_are_told_apart_alike(three_ways) -> None:
    weight, gram = torch.ones(4, 16), Gram(torch.eye(16), 16)
    weight[1:] = torch.tensor([2.0, 1.0, -2.0, -1.0, 1.0, 1.0, 0.0, 2.0]).repeat(2)
    on_chip, exact, _ = three_ways(
        lambda: prune_sparsegpt(weight, gram, pattern=Pattern.parse("3:8"))
    )
    assert torch.equal(on_chip.mask, exact.mask)


@pytest.mark.parametrize(
    ("rows", "cols", "grid", "order", "masked", "scale_dtype"),
    [
        (19, 32, Grid(4, 8), "static", False, torch.float32),
        (8, 192, Grid(4, 64, False), "static", True, torch.bfloat16),
        (8, 136, Grid(8, None, False), "static", False, torch.float16),
        (8, 40, Grid(2, None), "natural", True, torch.float32),
        (3, 256, Grid(4, 128, False), "natural", False, torch.float32),
    ],
)
def test_rounding(three_ways, float32_layer, rows, cols, grid, order, masked, scale_dtype) -> None:
    weight, gram = float32_layer(rows, cols)
    mask = weight.abs() > 0.3 if masked else None
    on_chip, exact, usual = three_ways(
        lambda: quantize_gptq(
            weight, gram, grid=grid, order=order, mask=mask, scale_dtype=scale_dtype
        )
    )
    assert torch.equal(on_chip.codes, exact.codes)
    assert torch.equal(on_chip.scales, exact.scales)
    assert grid.symmetric or torch.equal(on_chip.zero_points, exact.zero_points)
    assert torch.equal(on_chip.codes, usual.codes)
