"""Q6_K and Q3_K: scales are whole multiples of a float16, and nothing stands in for a zero."""

from __future__ import annotations

import pytest
import torch

from birdbone.solvers.grid import Grid
from birdbone.solvers.round_to_nearest import quantize_round_to_nearest
from birdbone.solvers.signed_blocks import round_scales


@pytest.mark.parametrize("name", ["q3_k", "q6_k"])
def test_scales_are_multiples(name: str, make_layer) -> None:
    weight = make_layer(5, 512).weight
    found = quantize_round_to_nearest(weight, grid=Grid.named(name), scales="searched")
    blocks = found.super_blocks
    assert blocks is not None
    assert blocks.scale_unit.shape == (5, 2)
    assert blocks.scale_steps.dtype == torch.int8
    assert (blocks.scale_steps != 0).all()
    lowest = -128 if name == "q6_k" else -32
    assert blocks.scale_steps.amin() == lowest  # the largest scale of a super-block
    whole = blocks.scale_unit.float().repeat_interleave(16, 1) * blocks.scale_steps
    assert torch.equal(found.scales, whole)


@pytest.mark.parametrize("name", ["q3_k", "q6_k"])
def test_zeros_stay_zero(name: str, make_layer) -> None:
    """A group of zeros does not decide the scales of the others, and a mask is held."""
    weight = make_layer(4, 256).weight * 1e-3
    weight[0], weight[1, :16] = 0.0, 0.0
    found = quantize_round_to_nearest(weight, grid=Grid.named(name), scales="searched")
    served = found.dequantize()
    assert (served[0] == 0).all()
    assert (served[1, :16] == 0).all()
    assert (served - weight).norm() < 0.3 * weight.norm()
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    masked = quantize_round_to_nearest(weight, grid=Grid.named(name), mask=mask)
    assert (masked.dequantize()[~mask] == 0).all()


def test_the_best_of_neighbours() -> None:
    """No other whole number has less error in any group than the one that was chosen."""
    grid, generator = Grid.named("q3_k"), torch.Generator().manual_seed(0)
    groups = torch.randn(3, 16, 16, generator=generator)
    wanted = groups.abs().amax(-1) / 4 * (1 + torch.rand(3, 16, generator=generator))
    importance = torch.rand(16, 16, generator=generator) + 0.1
    found = round_scales(groups, wanted, grid=grid, importance=importance)
    assert found.super_blocks is not None
    unit = found.super_blocks.scale_unit.float().repeat_interleave(16, 1)
    nearest = (wanted / unit).round()

    def loss(steps: torch.Tensor) -> torch.Tensor:
        scale = (unit * torch.where(steps == 0, 1.0, steps.clamp(-32, 31))).unsqueeze(-1)
        codes = (groups / scale).round().clamp(-4, 3)
        return ((codes * scale - groups).square() * importance).sum(-1)

    best = torch.stack([loss(nearest + shift) for shift in (-1, 0, 1)]).amin(0)
    torch.testing.assert_close(loss(found.super_blocks.scale_steps.float()), best)
