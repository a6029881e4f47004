"""Estimated losses against the formula, computed from what flows into each linear."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from torch import Tensor

from birdbone.models.blocks.linears import Linear, all_linears
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.passes.sensitivity import Estimates, estimate_losses, loss_rises
from birdbone.solvers.gptq import quantize_gptq
from birdbone.solvers.gram import Gram
from birdbone.solvers.grid import Grid
from birdbone.solvers.round_to_nearest import quantize_round_to_nearest

_WINDOWS = tiny_windows(3, 12, seed=5)
_GRIDS = [Grid(bits, size, signed=True) for bits in (3, 8) for size in (16, 64, None)]


def _estimates(arch: str, fisher: dict[str, Tensor]) -> dict[Linear, Estimates]:
    return estimate_losses(
        tiny_checkpoint(arch),
        _WINDOWS,
        _GRIDS,
        fisher,
        batch_size=2,
        announce=lambda done, total: None,
    )


def _fisher(arch: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        each.name: torch.rand(each.shape[0], generator=generator)
        for each in all_linears(tiny_checkpoint(arch))
        if each.plain
    }


def _inputs(arch: str, name: str) -> Tensor:
    """What a linear receives in the whole model, [tokens, in_features]."""
    model, seen = Skeleton(tiny_checkpoint(arch)).fill(), []
    model.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(_WINDOWS.tokens, use_cache=False)
    return seen[0].flatten(0, 1)


@pytest.mark.parametrize("name", ["self_attn.k_proj", "mlp.down_proj"])
def test_formula(name: str) -> None:
    """All rows are sampled in so small a model, so that the estimate is the formula itself."""
    fisher, checkpoint = _fisher("llama"), tiny_checkpoint("llama")
    name = f"model.layers.1.{name}"
    found = next(e for linear, e in _estimates("llama", fisher).items() if linear.name == name)
    weight, rows = checkpoint.tensors[f"{name}.weight"], _inputs("llama", name)
    gram = Gram(rows.T @ rows, len(rows))

    def rise(rounded: Tensor) -> float:
        outputs = rows.double() @ (weight - rounded).double().T  # [tokens, rows]
        return float((outputs.square().mean(0) * fisher[name]).sum() / 2)

    three = Grid(3, 16, signed=True)
    nearest = {
        grid: rise(
            quantize_round_to_nearest(weight, gram, grid=grid, scales="searched").dequantize()
        )
        for grid in found.losses
    }
    left = rise(quantize_gptq(weight, gram, grid=three).dequantize()) / nearest[three]
    assert found.compensated == pytest.approx(left, rel=0.05)
    for grid, loss in found.losses.items():
        assert loss == pytest.approx(nearest[grid] * found.compensated, rel=0.01)


def test_grids_that_divide() -> None:
    found = _estimates("llama", _fisher("llama"))
    for linear, each in found.items():
        sizes = {grid.group_size for grid in each.losses}
        assert sizes == ({16, 64, None} if linear.shape[1] == 64 else {16, None})
        assert 0 < each.compensated <= 1


def test_more_bits_cost_less() -> None:
    for each in _estimates("qwen3", _fisher("qwen3")).values():
        assert each.losses[Grid(8, 16, signed=True)] < each.losses[Grid(3, 16, signed=True)] / 50


def test_no_fisher() -> None:
    """A linear that no token reached in the gradient pass costs nothing."""
    found = _estimates("llama", {})
    assert all(loss == 0 for each in found.values() for loss in each.losses.values())


def test_only_plain_linears() -> None:
    found = _estimates("mixtral", _fisher("mixtral"))
    assert {linear.name.rpartition(".")[2] for linear in found} == {
        *("q_proj", "k_proj", "v_proj", "o_proj")
    }


def test_rows_are_weighed() -> None:
    error = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    gram = Gram(torch.tensor([[4.0, 1.0], [1.0, 2.0]]), 5)
    # (4 + 2 * 2 + 2 * 4) = 16, and 4 * 9 - 2 * 3 + 2 = 32; halves of the means over 5 tokens
    wanted = torch.tensor([16 * 10.0, 32 * 0.5], dtype=torch.float64) / 10
    torch.testing.assert_close(loss_rises(error, gram, torch.tensor([10.0, 0.5])), wanted)
