"""What is fitted must be what a reader of ggml's blocks computes: the judge is gguf's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from birdbone.errors import SolverError
from birdbone.formats.ggml_blocks import pack
from birdbone.solvers.gptq import quantize_gptq
from birdbone.solvers.grid import NAMED_GRIDS, Grid
from birdbone.solvers.round_to_nearest import quantize_round_to_nearest

NAMES = tuple(NAMED_GRIDS)
WITH_MINIMUMS = ("q2_k", "q4_k", "q5_k")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("settings", [{}, {"refit": True, "sweeps": 1}, {"order": "natural"}])
def test_a_reader_computes_what_we_say(make_layer, name, settings) -> None:
    layer = make_layer(6, 512, tokens=600, dtype=torch.float32)
    quantized = quantize_gptq(layer.weight, layer.gram, grid=Grid.named(name), **settings)
    read = dequantize(pack(quantized).numpy(), GGMLQuantizationType[name.upper()])
    assert np.array_equal(read, quantized.dequantize().numpy())


@pytest.mark.parametrize("name", NAMES)
def test_a_matrix_that_came_off_the_grid_goes_back_onto_it(make_layer, name) -> None:
    layer = make_layer(3, 256, dtype=torch.float32)
    grid = Grid.named(name)
    once = quantize_round_to_nearest(layer.weight, grid=grid, scales="minmax")
    again = quantize_round_to_nearest(once.dequantize(), grid=grid, scales="searched")
    error = (again.dequantize() - once.dequantize()).norm() / once.dequantize().norm()
    # Super-blocks round their scales anew, to a thirty-second at worst.
    assert error < {"q2_k": 0.08, "q3_k": 0.02, "q6_k": 5e-3}.get(name, 2e-3)


@pytest.mark.parametrize("name", [*WITH_MINIMUMS, "q3_k", "q6_k", "iq4_nl"])
def test_searching_serves_super_blocks(make_layer, name) -> None:
    layer = make_layer(16, 256, tokens=400)
    plain, searched = (
        quantize_round_to_nearest(layer.weight, grid=Grid.named(name), scales=rule)
        for rule in ("minmax", "searched")
    )
    errors = [(each.dequantize() - layer.weight).square().sum() for each in (plain, searched)]
    assert errors[1] < 0.97 * errors[0]


@pytest.mark.parametrize("name", [*WITH_MINIMUMS, "q3_k", "q6_k"])
def test_searching_is_never_worse_even_where_the_sixty_thirds_are_unlucky(name) -> None:
    """Groups of very unlike size: the steps of their scales round by much, up or down."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(800, 8, 32, generator=generator)
    weight = (weight * 3 * torch.rand(800, 8, 1, generator=generator) ** 4).view(800, 256)
    plain, searched = (
        quantize_round_to_nearest(weight, grid=Grid.named(name), scales=rule)
        for rule in ("minmax", "searched")
    )
    errors = [(each.dequantize() - weight).square().sum(1) for each in (plain, searched)]
    assert (errors[1] <= errors[0] * (1 + 1e-5)).all()


@pytest.mark.parametrize(("name", "most"), [("q4_k", 0.1), ("q5_k", 0.05), ("q2_k", 0.45)])
def test_weights_of_nothing_and_of_one_sign(make_layer, name, most) -> None:
    weight = make_layer(4, 256).weight
    weight[0] = 0.0
    weight[1] = weight[1].abs() + 1
    weight[2] = -weight[2].abs()
    weight[3] = 0.25
    quantized = quantize_round_to_nearest(weight, grid=Grid.named(name), scales="searched")
    served = quantized.dequantize().double()
    assert (served[0] == 0).all()
    assert served.isfinite().all()
    assert ((served - weight).norm(dim=1) < most * (weight.norm(dim=1) + 1e-9)).all()
    assert (quantized.minimums >= 0).all()


@pytest.mark.parametrize("name", [*WITH_MINIMUMS, "q3_k", "q6_k"])
def test_scales_beyond_float16_are_refused(make_layer, name) -> None:
    with pytest.raises(SolverError, match=r"does not fit a super-block of float16"):
        quantize_round_to_nearest(make_layer(2, 256).weight * 1e9, grid=Grid.named(name))
