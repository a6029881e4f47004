from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from birdbone.solvers import grid_search
from birdbone.solvers.grid import Grid, Scales
from birdbone.solvers.grid_search import fit_groups


def loss(groups: Tensor, importance: Tensor, scales: Scales) -> Tensor:
    """Weighted squared error of every group, [rows, groups]."""
    spread = scales.unsqueeze(-1)
    error = spread.decode(spread.encode(groups)) - groups
    return (error.square() * importance).sum(-1)


def both(groups: Tensor, importance: Tensor, grid: Grid, dtype: torch.dtype) -> list[Tensor]:
    return [
        loss(
            groups,
            importance,
            fit_groups(groups, grid=grid, scale_dtype=dtype, rule=rule, importance=importance),
        )
        for rule in ("searched", "minmax")
    ]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 4),
    num_groups=st.integers(1, 3),
    size=st.integers(1, 9),
    bits=st.integers(2, 8),
    kind=st.sampled_from(["symmetric", "signed", "asymmetric", "q4_k"]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    magnitude=st.sampled_from([1e-3, 1.0, 1e3]),
    zeros=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_never_worse_than_min_max(
    rows, num_groups, size, bits, kind, dtype, magnitude, zeros, seed
) -> None:
    generator = torch.Generator().manual_seed(seed)
    if kind == "q4_k":
        grid, num_groups, size = Grid.named("q4_k"), 8, 32
    else:
        grid = Grid(bits, size, kind != "asymmetric", signed=kind == "signed")
    groups = torch.randn(rows, num_groups, size, generator=generator) * magnitude
    if zeros:
        groups[:, 0] = 0.0
    importance = torch.rand(num_groups, size, generator=generator) + 0.01
    searched, plain = both(groups, importance, grid, dtype)
    if kind == "q4_k":
        searched, plain = searched.sum(1), plain.sum(1)
    assert (searched <= plain * (1 + 1e-5)).all()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_zero_point_comes_near_the_best_of_all(bits) -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.randn(24, 1, 32, generator=generator, dtype=torch.float64) + 0.3
    grid, importance = Grid(bits, 32, False), torch.ones(1, 32, dtype=torch.float64)
    searched, plain = both(groups, importance, grid, torch.float32)
    best = torch.full_like(searched, torch.inf)
    reach = (groups.amax(-1) - groups.amin(-1)) / (2**bits - 1)
    for factor in torch.linspace(0.2, 1.2, 150, dtype=torch.float64).tolist():
        for zero_point in range(grid.smallest, grid.largest + 1):
            point = torch.full_like(reach, zero_point).to(torch.int8)
            best = best.minimum(loss(groups, importance, Scales(reach * factor, point, grid)))
    assert float(searched.sum() / best.sum()) < 1.012
    assert float(searched.sum()) < 0.95 * float(plain.sum())


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("kind", ["symmetric", "signed"])
def test_it_comes_near_the_best_of_a_fine_comb(bits, kind) -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.randn(24, 1, 32, generator=generator, dtype=torch.float64)
    importance = torch.rand(1, 32, generator=generator, dtype=torch.float64) + 0.1
    grid = Grid(bits, 32, signed=kind == "signed")
    searched, plain = both(groups, importance, grid, torch.float32)
    best = torch.full_like(searched, torch.inf)
    for factor in torch.linspace(0.2, 1.2, 400, dtype=torch.float64).tolist():
        extreme = groups.amax(-1).maximum(-groups.amin(-1)) / -grid.smallest * factor
        for scale in (extreme, -extreme)[: 2 if grid.signed else 1]:
            best = best.minimum(loss(groups, importance, Scales(scale, None, grid)))
    ratio = float(searched.sum() / best.sum())
    assert 0.98 < ratio < 1.1  # below 1: between the teeth of the comb
    assert float(searched.sum()) < 0.95 * float(plain.sum())


def test_asymmetric_search_finds_the_grid_a_group_lies_on() -> None:
    codes = torch.tensor([[[-8.0, -3.0, 0.0, 2.0, 6.0, 7.0]]])
    groups = (codes - 3) * 0.5
    scales = fit_groups(groups, grid=Grid(4, 6, False), scale_dtype=torch.float32, rule="searched")
    assert scales.scale.item() == 0.5
    assert scales.zero_point is not None
    assert scales.zero_point.item() == 3


def test_a_weight_that_matters_is_met_more_closely() -> None:
    groups = torch.tensor([[[1.0, 0.5, 0.25, 0.37]]])
    importance = torch.tensor([[1.0, 1.0, 1.0, 1000.0]])
    scales = fit_groups(
        groups,
        grid=Grid(2, 4),
        scale_dtype=torch.float32,
        rule="searched",
        importance=importance,
    ).unsqueeze(-1)
    assert scales.decode(scales.encode(groups))[0, 0, 3].item() == pytest.approx(0.37, abs=5e-3)


def test_rows_in_chunks_are_rows_at_once(monkeypatch) -> None:
    groups = torch.randn(9, 2, 4, generator=torch.Generator().manual_seed(0))

    def fitted() -> Scales:
        return fit_groups(
            groups, grid=Grid(3, 4, False), scale_dtype=torch.float32, rule="searched"
        )

    whole = fitted()
    monkeypatch.setattr(grid_search, "_VALUES_PER_CHUNK", 20)
    assert torch.equal(whole.scale, fitted().scale)
    assert torch.equal(whole.zero_point, fitted().zero_point)
