from __future__ import annotations

import pytest
import torch
from torch import Tensor

from birdbone.errors import SettingError
from birdbone.solvers.factor import factorize
from birdbone.solvers.gptq import quantize_gptq
from birdbone.solvers.gram import Gram
from birdbone.solvers.grid import Grid, Scales, fit_scales
from birdbone.solvers.grid_search import fit_groups
from birdbone.solvers.round_to_nearest import quantize_round_to_nearest


def plain_loop(weight: Tensor, upper: Tensor, grid: Grid, kept: Tensor) -> Tensor:
    """GPTQ column by column, every error applied at once to all later columns; dequantised."""
    weight, size = weight.clone(), grid.group_width(weight.shape[1])
    for column in range(weight.shape[1]):
        group = slice(column, column + size)
        if column % size == 0:
            scales = fit_scales(
                weight[:, group] * kept[:, group], grid=grid, scale_dtype=torch.float32
            ).squeeze(-1)
        rounded = scales.decode(scales.encode(weight[:, column] * kept[:, column]))
        error = (weight[:, column] - rounded) / upper[column, column]
        weight[:, column] = rounded
        weight[:, column + 1 :] -= error.unsqueeze(1) * upper[column, column + 1 :]
    return weight


@pytest.mark.parametrize("group_size", [None, 2, 12, 48, 64, 96, 192, 288])
@pytest.mark.parametrize(("symmetric", "masked"), [(True, False), (False, True)])
def test_it_is_the_plain_loop(make_layer, group_size, symmetric, masked) -> None:
    layer = make_layer(6, 576, tokens=700)
    kept = layer.weight.abs() > 0.4 if masked else torch.ones_like(layer.weight, dtype=torch.bool)
    grid = Grid(4, group_size, symmetric)
    expected = plain_loop(layer.weight, factorize(layer.gram).upper, grid, kept)
    quantized = quantize_gptq(
        layer.weight,
        layer.gram,
        grid=grid,
        mask=kept if masked else None,
        order="natural",
        scales="minmax",
    )
    torch.testing.assert_close(quantized.dequantize(torch.float64), expected)


def test_static_order_is_the_plain_loop_on_permuted_columns(make_layer) -> None:
    layer, grid = make_layer(6, 96, tokens=200), Grid(4, 16)
    nearest = quantize_round_to_nearest(layer.weight, layer.gram, grid=grid)
    quantized = quantize_gptq(layer.weight, layer.gram, grid=grid, order="static", scales="minmax")
    assert torch.equal(quantized.scales, nearest.scales)
    factor = factorize(layer.gram, descending=True)
    weight, steps = layer.weight.clone(), nearest.scales.double().repeat_interleave(16, dim=1)
    for place, column in enumerate(factor.order.tolist()):
        step = steps[:, column]
        rounded = (weight[:, column] / step).round().clamp(-8, 7) * step
        error = (weight[:, column] - rounded) / factor.upper[place, place]
        weight[:, column] = rounded
        later = factor.order[place + 1 :]
        weight[:, later] -= error.unsqueeze(1) * factor.upper[place, place + 1 :]
    torch.testing.assert_close(quantized.dequantize(torch.float64), weight)


@pytest.mark.parametrize("order", ["natural", "static"])
def test_it_beats_rounding_to_nearest(make_layer, order) -> None:
    layer = make_layer(16, 64, tokens=256)
    nearest = quantize_round_to_nearest(layer.weight, layer.gram, grid=Grid(3, 16))
    quantized = quantize_gptq(layer.weight, layer.gram, grid=Grid(3, 16), order=order)
    assert quantized.relative_error < 0.8 * nearest.relative_error


@pytest.mark.parametrize(("refined", "median"), [({}, 1.4), ({"sweeps": 4}, 1.2)])
def test_its_codes_come_near_the_best_of_all_for_their_scale(make_layer, refined, median) -> None:
    every = torch.cartesian_prod(*[torch.arange(-2.0, 2.0)] * 8).double()
    ratios = []
    for seed in range(12):
        layer = make_layer(1, 8, seed=seed)
        quantized = quantize_gptq(layer.weight, layer.gram, grid=Grid(2, 8), damping=0.0, **refined)
        left = every * quantized.scales.double() - layer.weight
        errors = ((left @ layer.gram.matrix) * left).sum(1)
        energy = layer.weight @ layer.gram.matrix @ layer.weight.T
        ratios.append(quantized.relative_error * energy.item() / errors.min().item())
    assert min(ratios) > 1 - 1e-6
    assert sorted(ratios)[6] < median  # rounding's median on these is 2.1


def test_static_order_holds_masked_weights_at_zero(make_layer) -> None:
    layer = make_layer(6, 32)
    mask = layer.weight.abs() > 0.5
    quantized = quantize_gptq(
        layer.weight, layer.gram, grid=Grid(4, 8, False), mask=mask, order="static"
    )
    assert (quantized.dequantize()[~mask] == 0).all()


def test_weights_on_dead_features_are_rounded_to_nearest(make_layer) -> None:
    layer = make_layer()
    layer.inputs[:, 2] = 0.0
    gram = Gram(layer.inputs.T @ layer.inputs, 64)
    quantized = quantize_gptq(layer.weight, gram, grid=Grid(4, 1), scales="minmax")
    nearest = quantize_round_to_nearest(layer.weight, gram, grid=Grid(4, 1))
    assert torch.equal(quantized.dequantize()[:, 2], nearest.dequantize()[:, 2])


def test_raised_damping_is_recorded() -> None:
    gram = Gram(torch.tensor([[1.0, 1.1], [1.1, 1.0]]), 2)
    quantized = quantize_gptq(torch.ones(3, 2), gram, grid=Grid(4, None), damping=0.02)
    assert quantized.damping == pytest.approx(0.2)
    assert quantized.escalations == 1


def test_without_data_it_is_refused(make_layer) -> None:
    with pytest.raises(SettingError, match=r"neither a Gram matrix nor a factor; calibrate first"):
        quantize_gptq(make_layer().weight, None, grid=Grid(4, 8))


def test_the_factor_must_be_in_the_order_asked_for(make_layer) -> None:
    layer, grid = make_layer(), Grid(4, 8)
    natural, ordered = factorize(layer.gram), factorize(layer.gram, descending=True)
    with pytest.raises(SettingError, match=r"order 'static' was given a factor in natural order"):
        quantize_gptq(layer.weight, layer.gram, grid=grid, order="static", factor=natural)
    with pytest.raises(SettingError, match=r"descending order"):
        quantize_gptq(layer.weight, layer.gram, grid=grid, order="natural", factor=ordered)


def test_no_order_is_that_of_the_factor_and_static_without_one(make_layer) -> None:
    layer, grid = make_layer(8, 24), Grid(3, 8)
    natural, ordered = factorize(layer.gram), factorize(layer.gram, descending=True)

    def codes(**settings) -> Tensor:
        return quantize_gptq(layer.weight, layer.gram, grid=grid, **settings).codes

    assert torch.equal(codes(factor=natural), codes(order="natural"))
    assert torch.equal(codes(factor=ordered), codes(order="static"))
    assert torch.equal(codes(), codes(order="static"))
    assert not torch.equal(codes(order="natural"), codes(order="static"))


@pytest.mark.parametrize("grid", [Grid(3, 16), Grid(4, 16, signed=True), Grid(3, 32, False)])
def test_refining_lowers_the_error(make_layer, grid) -> None:
    layer = make_layer(32, 96, tokens=400)

    def error(**settings) -> float:
        return quantize_gptq(layer.weight, layer.gram, grid=grid, **settings).relative_error

    plain, refitted, descended = error(), error(refit=True), error(sweeps=2)
    assert refitted < 0.97 * plain
    assert descended < 0.97 * plain
    assert error(refit=True, sweeps=2) < 0.97 * min(refitted, descended)


@pytest.mark.parametrize("grid", [Grid(2, 48), Grid(3, 96), Grid(3, 48, signed=True)])
def test_searching_lowers_the_error(make_layer, grid) -> None:
    layer = make_layer(32, 96, tokens=400)
    weight = layer.weight**3  # long tails, as trained weights have
    plain, searched = (
        quantize_gptq(weight, layer.gram, grid=grid, scales=rule).relative_error
        for rule in ("minmax", "searched")
    )
    assert searched < 0.96 * plain


@pytest.mark.parametrize("order", ["natural", "static"])
def test_scales_are_searched_for_by_what_the_loop_pays(make_layer, order) -> None:
    layer, grid = make_layer(16, 24, tokens=100), Grid(3, 24)
    factor = factorize(layer.gram, descending=order == "static")
    cost = 1 / factor.upper.diagonal() ** 2
    if factor.order is not None:
        cost = torch.stack([cost[place] for place in factor.order.argsort()])
    expected = fit_groups(
        layer.weight.unsqueeze(1),
        grid=grid,
        scale_dtype=torch.float32,
        rule="searched",
        importance=cost.unsqueeze(0),
    )
    found = quantize_gptq(layer.weight, layer.gram, grid=grid, order=order)
    torch.testing.assert_close(found.scales, expected.scale)


def test_a_signed_scale_lowers_the_error(make_layer) -> None:
    layer = make_layer(32, 96, tokens=400)
    plain, signed = (
        quantize_gptq(layer.weight, layer.gram, grid=Grid(3, 16, signed=signed))
        for signed in (False, True)
    )
    assert signed.relative_error < 0.95 * plain.relative_error
    assert (plain.scales > 0).all()
    assert (signed.scales < 0).any()


@pytest.mark.parametrize("order", ["natural", "static"])
def test_super_blocks_are_the_plain_loop(make_layer, order) -> None:
    layer, grid = make_layer(3, 512, tokens=600), Grid.named("q4_k")
    quantized = quantize_gptq(layer.weight, layer.gram, grid=grid, order=order)
    factor = factorize(layer.gram, descending=order == "static")
    places = range(512) if factor.order is None else factor.order.tolist()
    weight = layer.weight.clone()
    for place, column in enumerate(places):
        group = Scales(
            quantized.scales[:, column // 32], None, grid, quantized.minimums[:, column // 32]
        )
        codes = group.encode(weight[:, column])
        assert torch.equal(codes, quantized.codes[:, column].double())
        error = (weight[:, column] - group.decode(codes)) / factor.upper[place, place]
        later = list(places[place + 1 :])
        weight[:, later] -= error.unsqueeze(1) * factor.upper[place, place + 1 :]


def test_refining_needs_the_gram(make_layer) -> None:
    layer = make_layer()
    with pytest.raises(SettingError, match=r"needs the Gram matrix for matching, refit and sweeps"):
        quantize_gptq(layer.weight, None, grid=Grid(4, 8), factor=factorize(layer.gram), refit=True)
