"""What holds for every row of the table of pruners."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from birdbone.errors import SettingError, SolverError
from birdbone.solvers.gram import Gram
from birdbone.solvers.masks import Pattern
from birdbone.solvers.table import PREPARE, PRUNERS

every_pruner = pytest.mark.parametrize("name", sorted(PRUNERS))
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


@every_pruner
@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 9),
    cols=st.integers(1, 20),
    sparsity=st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1)),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
def test_unstructured(make_layer, name, rows, cols, sparsity, dtype, seed) -> None:
    layer = make_layer(rows, cols, seed=seed)
    weight = layer.weight.to(dtype)
    before, gram_before = weight.clone(), layer.gram.matrix.clone()
    pruned = PRUNERS[name](weight, layer.gram, sparsity=sparsity)
    removed = rows * round(sparsity * cols) if name == "wanda" else round(sparsity * rows * cols)
    assert int((~pruned.mask).sum()) == removed
    assert_sound(pruned, weight, layer)
    assert torch.equal(weight, before)
    assert torch.equal(layer.gram.matrix, gram_before)


@every_pruner
@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 9),
    groups=st.integers(1, 6),
    pattern=st.sampled_from(["2:4", "4:8", "1:4", "1:2", "5:12", "3:16"]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
def test_n_of_m(make_layer, name, rows, groups, pattern, dtype, seed) -> None:
    n, m = (int(part) for part in pattern.split(":"))
    layer = make_layer(rows, groups * m, seed=seed)
    weight = layer.weight.to(dtype)
    pruned = PRUNERS[name](weight, layer.gram, pattern=Pattern.parse(pattern))
    assert (pruned.mask.view(rows, groups, m).sum(dim=-1) == n).all()
    assert_sound(pruned, weight, layer)


def assert_sound(pruned, weight, layer) -> None:
    assert pruned.weight.dtype == weight.dtype
    assert pruned.weight.is_contiguous()
    assert pruned.mask.is_contiguous()
    gone = pruned.weight[~pruned.mask]
    assert (gone == 0).all()
    assert not gone.signbit().any()
    outputs = layer.inputs @ weight.double().T
    moved = layer.inputs @ pruned.weight.double().T
    expected = (outputs - moved).square().sum() / outputs.square().sum()
    # The weight is half or single precision where given so; then the error is summed in float32.
    assert pruned.relative_error == pytest.approx(float(expected), rel=1e-3, abs=1e-6)


@every_pruner
@pytest.mark.parametrize("asked", [{"sparsity": 0.6}, {"pattern": Pattern((2, 4))}])
def test_stacked_layers_each_lose_their_fraction(make_layer, name, asked) -> None:
    layer = make_layer(12, 20)
    pruned = PRUNERS[name](layer.weight, layer.gram, heights=(5, 7), **asked)
    fraction = asked.get("sparsity", 0.5)
    removed = [int((~part).sum()) for part in pruned.mask.split((5, 7))]
    assert removed == [round(fraction * 100), round(fraction * 140)]
    assert len(pruned.relative_errors) == 2


@every_pruner
def test_a_factor_made_once_serves_again(make_layer, name) -> None:
    layer = make_layer(12, 40)
    factor = PREPARE[name](layer.gram, damping=0.01) if name in PREPARE else None
    alone = PRUNERS[name](layer.weight, layer.gram, sparsity=0.5)
    shared = PRUNERS[name](layer.weight, layer.gram, sparsity=0.5, factor=factor)
    assert torch.equal(alone.weight, shared.weight)
    assert (shared.damping == 0.01) == (name in PREPARE)


@every_pruner
def test_a_trainable_weight_gives_one_without_history(make_layer, name) -> None:
    layer = make_layer()
    weight = torch.nn.Parameter(layer.weight)
    pruned = PRUNERS[name](weight, layer.gram, sparsity=0.5)
    assert not pruned.weight.requires_grad


@every_pruner
def test_same_input_same_bytes(make_layer, name) -> None:
    layer = make_layer(12, 40, dtype=torch.float32)
    first, again = (PRUNERS[name](layer.weight, layer.gram, sparsity=0.5) for _ in range(2))
    assert torch.equal(first.weight, again.weight)


@every_pruner
def test_unfit_arguments_are_refused(make_layer, name) -> None:
    layer, prune = make_layer(4, 6), PRUNERS[name]
    with pytest.raises(SettingError, match=r"weight \(4, 6\) and Gram matrix \(3, 3\) do not fit"):
        prune(layer.weight, Gram(torch.eye(3), 3), sparsity=0.5)
    with pytest.raises(SettingError, match=r"sparsity 2 is out of range"):
        prune(layer.weight, layer.gram, sparsity=2)
    with pytest.raises(SettingError, match=r"sparsity None is out of range"):
        prune(layer.weight, layer.gram)
    with pytest.raises(SettingError, match=r"with pattern 1:2"):
        prune(layer.weight, layer.gram, sparsity=0.5, pattern=Pattern((1, 2)))
    with pytest.raises(SettingError, match=r"width 6 does not divide into groups of 4"):
        prune(layer.weight, layer.gram, pattern=Pattern((2, 4)))
    with pytest.raises(SettingError, match=r"weight has shape \(4, 6, 1\)"):
        prune(layer.weight.unsqueeze(-1), layer.gram, sparsity=0.5)


@every_pruner
def test_weights_that_are_not_finite_are_refused(make_layer, name) -> None:
    layer = make_layer(4, 6)
    layer.weight[0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    with pytest.raises(SolverError, match=r"weight of shape \(4, 6\) holds 1 NaN and 2 infinite"):
        PRUNERS[name](layer.weight, layer.gram, sparsity=0.5)
