"""A column rounded on its own is the column that `Scales` rounds, bit for bit."""

from __future__ import annotations

import pytest
import torch

from birdbone.solvers.column_rounding import rounders_of
from birdbone.solvers.grid import Grid
from birdbone.solvers.grid_search import fit_groups

GRIDS = {
    "symmetric": Grid(4, 32),
    "signed": Grid(3, 32, signed=True),
    "asymmetric": Grid(4, 32, symmetric=False),
    "minimums": Grid.named("q4_k"),
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codes_and_values_are_those_of_scales(name: str, dtype: torch.dtype) -> None:
    weight = torch.randn(9, 256, generator=torch.Generator().manual_seed(0)).to(dtype)
    groups = weight.view(9, 8, 32)
    scales = fit_groups(groups, grid=GRIDS[name], scale_dtype=torch.float16, rule="minmax")
    shifted = weight * 1.2  # so that some columns leave the range and are clipped
    wanted = scales.unsqueeze(-1).encode(shifted.view(9, 8, 32))
    values = scales.unsqueeze(-1).decode(wanted).view(9, 256)
    codes = torch.empty(9, dtype=torch.int8)
    for group, rounder in enumerate(rounders_of(scales, dtype)):
        for column in range(group * 32, group * 32 + 32):
            rounded = rounder.round(shifted[:, column], codes)
            assert torch.equal(codes.to(dtype), wanted.view(9, 256)[:, column])
            assert torch.equal(rounded, values[:, column])


def test_the_column_itself_is_left_alone() -> None:
    column = torch.tensor([0.3, -0.7])
    (rounder,) = rounders_of(
        fit_groups(column.view(2, 1, 1), grid=Grid(4, 1), scale_dtype=torch.float32, rule="minmax"),
        torch.float32,
    )
    rounder.round(column, torch.empty(2, dtype=torch.int8))
    assert column.tolist() == pytest.approx([0.3, -0.7])
