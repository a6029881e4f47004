"""Quantising the linears on one input: on the grid of each, with one record each."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint
from tiny_layers import inputs, linear, weight
from torch import Tensor

from birdbone.checkpoints import GgmlBlocks, Quantized
from birdbone.errors import SolverError
from birdbone.links.quantizing.grids import Grids
from birdbone.links.quantizing.low_rank import Correcting
from birdbone.links.quantizing.solve import (
    BlockTuning,
    Rounded,
    Rounding,
    mask_of,
    scale_dtype,
    split_experts,
)
from birdbone.models.blocks.linears import Linear
from birdbone.models.passes.tuning import Tuned, Tuning
from birdbone.solvers.gram import Gram
from birdbone.solvers.grid import Grid
from birdbone.solvers.round_to_nearest import quantize_round_to_nearest

CHECKPOINT = tiny_checkpoint()
Q, K = (linear(f"model.layers.0.self_attn.{each}_proj") for each in "qk")
PAIRS = [(Q, weight(seed=1)), (K, weight(seed=2))]
GRID = Grid(3, 16)


def rounding(grids: Grids | None = None, *, packable: bool = True, **more: Any) -> Rounding:
    plain = {"damping": 0.01, "order": "static", "scales": "searched", "refit": False}
    how = {**plain, "sweeps": 0, "matching": 0.0, **more}
    return Rounding(CHECKPOINT, grids or Grids(GRID), packable, **how)


def values(found: Any) -> Tensor:
    return found if isinstance(found, Tensor) else found.load()


def test_together_as_alone() -> None:
    """One factorisation for both; each gets the codes it would get by itself."""
    gram = inputs().gram
    together = rounding()(PAIRS, gram)
    for pair in PAIRS:
        alone = rounding()([pair], gram)[pair[0]]
        assert isinstance(alone, Quantized)
        assert torch.equal(alone.codes, together[pair[0]].codes)  # type: ignore[union-attr]


def test_each_on_its_own_grid() -> None:
    grids = Grids(GRID, (), {"*.k_proj": {"bits": 8, "group_size": None}})
    found = rounding(grids)(PAIRS, inputs().gram)
    kinds = [(each.bits, tuple(each.scales.shape)) for each in (found[Q], found[K])]  # type: ignore[union-attr]
    assert kinds == [(3, (16, 2)), (8, (16, 1))]


def test_the_error_is_that_of_the_outputs() -> None:
    text, solver = inputs(borrowed=5), rounding()
    found = solver(PAIRS, text.gram)
    stack = torch.cat([before for _, before in PAIRS])
    whole = torch.cat([values(found[each]) for each, _ in PAIRS])
    record = solver.rounded[Q.name]
    assert record.relative_error == pytest.approx(text.error(stack, whole), rel=1e-3)
    assert (record.borrowed_tokens, record.escalations, record.corrected_error) == (5, 0, None)


def test_better_than_nearest() -> None:
    text = inputs()
    found = rounding()([PAIRS[0]], text.gram)[Q]
    nearest = quantize_round_to_nearest(PAIRS[0][1], grid=GRID, scales="searched")
    assert text.error(PAIRS[0][1], values(found)) < 0.9 * text.error(
        PAIRS[0][1], nearest.dequantize()
    )


def test_unpacked_values() -> None:
    """On a grid with zero points there is no packed form; the values are those of the codes."""
    found = rounding(Grids(Grid(3, 16, symmetric=False)), packable=False)(PAIRS, inputs().gram)
    for each, before in PAIRS:
        assert isinstance(found[each], Tensor)
        groups = values(found[each]).view(len(before), 2, 16)
        assert all(len(group.unique()) <= 8 for row in groups for group in row)


def test_a_low_rank_correction() -> None:
    solver = rounding(correcting=Correcting(4, 0.01))
    solver(PAIRS, inputs().gram)
    for record in solver.rounded.values():
        assert record.corrected_error is not None
        assert record.corrected_error < record.relative_error
    assert solver.metrics()["mean_corrected_error"] < solver.metrics()["mean_relative_error"]


def test_which_linears() -> None:
    expert = linear("model.layers.0.mlp.experts", expert=1)
    packed, whole = rounding(Grids(GRID, ("*.k_proj",))), rounding(packable=False)
    assert [packed.chooses(each) for each in (Q, K, expert)] == [True, False, False]
    assert [whole.chooses(each) for each in (Q, K, expert)] == [True, True, True]


def test_metrics_count_unusual_cases() -> None:
    solver = rounding()
    solver.rounded.update(
        {"a": Rounded(0.1, 0, 0), "b": Rounded(0.3, 2, 8), "c": Rounded(0.2, 1, 0)}
    )
    found = solver.metrics()
    assert (found["experts_topped_up"], found["dampings_raised"]) == (1, 2)
    assert found["worst_layer"] == "b"
    assert "mean_corrected_error" not in found


def test_records_are_restored() -> None:
    solver = rounding(correcting=Correcting(2, 0.01))
    solver(PAIRS, inputs().gram)
    fresh = rounding()
    fresh.recall(json.loads(json.dumps(solver.facts())))
    assert fresh.rounded == solver.rounded


def test_errors_name_the_layer() -> None:
    broken = PAIRS[1][1].clone()
    broken[0, 0] = torch.nan
    with pytest.raises(SolverError, match=r"layer 'model\.layers\.0\.self_attn\.k_proj': "):
        rounding()([PAIRS[0], (K, broken)], inputs().gram)
    with pytest.raises(SolverError, match=r"layer 'model\.layers\.0\.self_attn\.q_proj': "):
        rounding()(PAIRS, Gram(torch.full((32, 32), torch.nan), 256))


@pytest.mark.parametrize(("zeros", "pruned"), [(0, False), (5, False), (6, True), (256, True)])
def test_a_hundredth_of_zeros_is_a_mask(zeros: int, pruned: bool) -> None:
    """Of 512 weights: 5 are less than one in a hundred, 6 are more."""
    found = torch.ones(512)
    found[:zeros] = 0
    mask = mask_of([found.view(16, 32)])
    assert (mask is not None) == pruned
    if mask is not None:
        assert torch.equal(mask, found.view(16, 32) != 0)


def test_masks_of_a_stack() -> None:
    """A few zeros of a matrix that was not pruned are weights like others."""
    thin, full = torch.ones(2, 128), torch.ones(2, 128)
    thin[:, ::2] = 0
    full[0, 0] = 0
    mask = mask_of([full, thin])
    assert mask is not None
    assert mask[:2].all()
    assert torch.equal(mask[2:], thin != 0)


def test_dtype_of_scales() -> None:
    name = Linear("model.layers.0.self_attn.q_proj.weight", (32, 32))
    assert scale_dtype(Grid(4, 16), CHECKPOINT, name) == torch.float32
    assert scale_dtype(Grid.named("q4_0"), CHECKPOINT, name) == torch.float16


@pytest.mark.parametrize("transposed", [False, True])
def test_blocks_of_ggml(transposed: bool) -> None:
    """Each linear of a stack gets its own rows; an expert, a part of a tensor, gets values."""
    codes = quantize_round_to_nearest(weight(24, 64), grid=Grid.named("q8_0"))
    pair = [Linear(f"{n}.weight", (h, 64), transposed=transposed) for n, h in (("a", 16), ("b", 8))]
    found = split_experts(codes, pair, packable=False)
    rows = codes.dequantize().split([16, 8])
    for each, made, wanted in zip(pair, found, rows, strict=True):
        assert isinstance(made, GgmlBlocks)
        assert torch.equal(each.view(made.load()), wanted)
    expert = Linear("a", (24, 64), expert=0, plain=False)
    (plain,) = split_experts(codes, [expert], packable=False)
    assert torch.equal(values(plain), codes.dequantize())


def test_codes_are_split() -> None:
    codes = quantize_round_to_nearest(weight(24, 32), grid=GRID)
    first, second = split_experts(codes, [linear("a", 16), linear("b", 8)], packable=True)
    whole = torch.cat([values(first), values(second)])
    assert torch.equal(whole, codes.dequantize())
    assert len(values(first)) == 16


def test_tuning_records_means() -> None:
    tuning = BlockTuning(Tuning(iterations=1))
    tuning.recall([[0.4, 0.2, 3, 0.1], [0.2, 0.2, 0, 0.0]])
    assert tuning.tuned[0] == Tuned({}, 0.4, 0.2, 3, 0.1)
    found = tuning.metrics()
    assert found["block_loss_before"] == pytest.approx(0.3)
    assert found["block_loss_after"] == pytest.approx(0.2)
    assert found["codes_changed"] == pytest.approx(0.05)
    fresh = BlockTuning(Tuning(iterations=1))
    fresh.recall(json.loads(json.dumps(tuning.facts())))
    assert fresh.tuned == tuning.tuned
