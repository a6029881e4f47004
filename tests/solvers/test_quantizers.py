"""What holds for every row of the table of quantisers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from birdbone.errors import SettingError, SolverError
from birdbone.solvers.factor import factorize
from birdbone.solvers.gram import Gram
from birdbone.solvers.grid import Grid
from birdbone.solvers.table import PREPARE, QUANTIZERS

# Every way a method can be set, by name.
SETTINGS = {
    "rtn": [{}, {"scales": "searched"}],
    "gptq": [
        {},
        {"scales": "minmax"},
        {"order": "natural"},
        {"refit": True},
        {"sweeps": 2},
        {"refit": True, "sweeps": 2},
    ],
}
every_quantizer = pytest.mark.parametrize("name", sorted(QUANTIZERS))


every_setting = pytest.mark.parametrize(
    ("name", "setting"),
    [(name, setting) for name in sorted(QUANTIZERS) for setting in SETTINGS[name]],
)


@every_setting
@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 7),
    groups=st.integers(1, 4),
    group_size=st.sampled_from([None, 1, 3, 8]),
    bits=st.integers(2, 8),
    kind=st.sampled_from(["symmetric", "signed", "asymmetric"]),
    masked=st.booleans(),
    dead=st.booleans(),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float64]),
    scale_dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    seed=st.integers(0, 99),
)
def test_every_result_is_sound(
    make_layer,
    name,
    setting,
    rows,
    groups,
    group_size,
    bits,
    kind,
    masked,
    dead,
    dtype,
    scale_dtype,
    seed,
) -> None:
    cols = groups * (group_size or 5)
    layer = make_layer(rows, cols, seed=seed)
    if dead:
        layer.inputs[:, 0] = 0.0
    gram = Gram(layer.inputs.T @ layer.inputs, 64)
    weight = layer.weight.to(dtype)
    mask = layer.weight.abs() > 0.5 if masked else None
    before, gram_before = weight.clone(), gram.matrix.clone()
    symmetric = kind != "asymmetric"
    grid = Grid(bits, group_size, symmetric, signed=kind == "signed")
    given = {"grid": grid, "scale_dtype": scale_dtype, "mask": mask, **setting}
    quantized = QUANTIZERS[name](weight, gram, **given)
    scales_shape = (rows, groups if group_size else 1)
    assert quantized.codes.dtype == torch.int8
    assert quantized.codes.shape == weight.shape
    assert quantized.codes.min() >= grid.smallest
    assert quantized.codes.max() <= grid.largest
    assert quantized.scales.dtype == scale_dtype
    assert quantized.scales.shape == scales_shape
    assert (quantized.scales != 0).all()
    assert kind == "signed" or (quantized.scales > 0).all()
    assert (quantized.zero_points is None) == symmetric
    if quantized.zero_points is not None:
        assert quantized.zero_points.shape == scales_shape
    served = quantized.dequantize()
    assert served.dtype == torch.float32
    if mask is not None:
        assert (served[~mask] == 0).all()
    outputs = layer.inputs @ weight.double().T
    expected = (outputs - layer.inputs @ served.double().T).square().sum() / outputs.square().sum()
    if outputs.any():
        assert quantized.relative_error == pytest.approx(float(expected), rel=1e-3, abs=1e-6)
    assert torch.equal(weight, before)
    assert torch.equal(gram.matrix, gram_before)
    again = QUANTIZERS[name](weight, gram, **given)
    assert torch.equal(again.codes, quantized.codes)
    assert torch.equal(again.scales, quantized.scales)


@every_setting
@pytest.mark.parametrize("grid_name", ["q4_0", "q8_0", "q4_k"])
def test_block_grids_are_stored_as_their_format_says(make_layer, name, setting, grid_name) -> None:
    layer, grid = make_layer(5, 256, tokens=300, dtype=torch.float32), Grid.named(grid_name)
    quantized = QUANTIZERS[name](layer.weight, layer.gram, grid=grid, **setting)
    assert quantized.codes.min() >= grid.smallest
    assert quantized.codes.max() <= grid.largest
    assert quantized.scales.shape == (5, 8)
    assert quantized.scales.dtype == (torch.float32 if grid.super_block else torch.float16)
    assert (quantized.super_blocks is None) == (grid.super_block is None)
    assert quantized.relative_error < (1e-4 if grid_name == "q8_0" else 0.01)


@every_setting
def test_a_grid_without_an_exact_zero_refuses_a_mask(make_layer, name, setting) -> None:
    layer = make_layer(2, 256)
    mask = torch.ones(2, 256, dtype=torch.bool)
    with pytest.raises(SettingError, match=r"super-blocks of 256 has no exact zero.*'q4_0'"):
        QUANTIZERS[name](layer.weight, layer.gram, grid=Grid.named("q4_k"), mask=mask, **setting)


@every_quantizer
def test_eight_bits_lose_next_to_nothing(make_layer, name) -> None:
    layer = make_layer(16, 64, tokens=256)
    quantized = QUANTIZERS[name](layer.weight, layer.gram, grid=Grid(8, 32))
    assert quantized.relative_error is not None
    assert quantized.relative_error < 1e-4


@every_quantizer
def test_a_factor_made_once_serves_again(make_layer, name) -> None:
    layer, grid = make_layer(12, 40), Grid(4, 8)
    factor = factorize(layer.gram, damping=0.01, descending=True)
    alone = QUANTIZERS[name](layer.weight, layer.gram, grid=grid)
    shared = QUANTIZERS[name](layer.weight, None, grid=grid, factor=factor)
    assert torch.equal(alone.codes, shared.codes)
    assert shared.relative_error is None
    assert (shared.damping == 0.01) == (name in PREPARE)


@every_setting
def test_layers_stacked_are_layers_alone(make_layer, name, setting) -> None:
    layer, grid = make_layer(12, 40), Grid(3, 8, signed=True)
    stacked = QUANTIZERS[name](layer.weight, layer.gram, grid=grid, **setting)
    upper, lower = (
        QUANTIZERS[name](rows, layer.gram, grid=grid, **setting) for rows in layer.weight.split(6)
    )
    assert torch.equal(stacked.codes, torch.cat([upper.codes, lower.codes]))
    assert torch.equal(stacked.scales, torch.cat([upper.scales, lower.scales]))


@every_quantizer
def test_a_trainable_weight_gives_values_without_history(make_layer, name) -> None:
    layer = make_layer()
    weight = torch.nn.Parameter(layer.weight)
    quantized = QUANTIZERS[name](weight, layer.gram, grid=Grid(4, 8))
    assert not quantized.dequantize().requires_grad


@every_quantizer
def test_dequantize_rounds_each_product_once(make_layer, name) -> None:
    layer = make_layer(4, 16)
    quantized = QUANTIZERS[name](
        layer.weight, layer.gram, grid=Grid(8, 8), scale_dtype=torch.bfloat16
    )
    exact = quantized.dequantize(torch.float64)
    assert torch.equal(quantized.dequantize(torch.bfloat16), exact.bfloat16())
    assert torch.equal(quantized.dequantize().double(), exact)


@every_quantizer
def test_unfit_arguments_are_refused(make_layer, name) -> None:
    layer, quantize = make_layer(4, 48), QUANTIZERS[name]
    with pytest.raises(SettingError, match=r"group_size 32 does not divide width 48.*16, 48"):
        quantize(layer.weight, layer.gram, grid=Grid(4, 32))
    with pytest.raises(SettingError, match=r"super-blocks of 256 does not divide width 48; .*q4_0"):
        quantize(layer.weight, layer.gram, grid=Grid.named("q4_k"))
    with pytest.raises(SettingError, match=r"weight \(4, 48\) and Gram matrix \(3, 3\)"):
        quantize(layer.weight, Gram(torch.eye(3), 3), grid=Grid(4, 16))
    mask = torch.ones(4, 4, dtype=torch.bool)
    with pytest.raises(SettingError, match=r"weight \(4, 48\) and mask \(4, 4\)"):
        quantize(layer.weight, layer.gram, grid=Grid(4, 16), mask=mask)
    layer.weight[0, 0] = float("nan")
    with pytest.raises(SolverError, match=r"weight of shape \(4, 48\) holds 1 NaN"):
        quantize(layer.weight, layer.gram, grid=Grid(4, 16))
