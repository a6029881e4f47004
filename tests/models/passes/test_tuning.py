"""Block tuning: never worse than its start on windows it was not trained on, and what it leaves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from torch import Tensor

from birdbone.checkpoints import Checkpoint, Quantized
from birdbone.errors import Cancelled, DataError, NumericsError, SettingError
from birdbone.models.blocks.linears import Linear
from birdbone.models.blocks.replay import Call, replay
from birdbone.models.passes.rewriting import Solution, Solved, rewrite_blocks
from birdbone.models.passes.tuning import Tuned, Tuning, tune_block
from birdbone.solvers.gram import Gram
from birdbone.solvers.grid import Grid
from birdbone.solvers.round_to_nearest import quantize_round_to_nearest

TUNING = Tuning(iterations=48, batch_size=2)
GRIDS = {"int3": Grid(3, 16), "int4 asymmetric": Grid(4, 16, symmetric=False)}


def unheard(done: int, total: int) -> None:
    """Nobody listens."""


def nearest(
    grid: Grid, *, scale_dtype: torch.dtype = torch.float32
) -> Callable[[Sequence[tuple[Linear, Tensor]], Gram], Mapping[Linear, Solution]]:
    """A solver that leaves much to be tuned; zeros are kept, and experts too."""

    def codes(weight: Tensor) -> Quantized:
        mask = None if weight.all() else weight != 0
        found = quantize_round_to_nearest(
            weight, None, grid=grid, scale_dtype=scale_dtype, mask=mask
        )
        return Quantized(found.codes, found.scales, bits=grid.bits, zero_points=found.zero_points)

    def solve(weights: Sequence[tuple[Linear, Tensor]], gram: Gram) -> Mapping[Linear, Solution]:
        return {linear: codes(weight) if linear.plain else weight for linear, weight in weights}

    return solve


def solved_block(
    checkpoint: Checkpoint | None = None,
    *,
    grid: Grid = GRIDS["int3"],
    scale_dtype: torch.dtype = torch.float32,
    index: int = 0,
    num_windows: int = 16,
    within: Callable[[Solved], Any],
    **settings: Any,
) -> Any:
    """What ``within`` makes of one block while it is materialised and solved."""
    results = []

    def refine(solved: Solved) -> Mapping[Linear, Solution]:
        results.append(within(solved) if len(results) == index else None)
        return {}

    rewrite_blocks(
        checkpoint or tiny_checkpoint(),
        tiny_windows(num_windows, 64),
        nearest(grid, scale_dtype=scale_dtype),
        **{"batch_size": 2, "paired": True, "refine": refine, "announce": unheard, **settings},
    )
    return results[index]


def tuned(tuning: Tuning = TUNING, **settings: Any) -> Tuned:
    """The first block of a tiny model, tuned."""
    settings = {
        "within": lambda solved: tune_block(solved, tuning, announce=unheard),
        **settings,
    }
    result: Tuned = solved_block(**settings)
    return result


def loss_of(
    solved: Solved, solutions: Mapping[Linear, Solution], targets: Sequence[Tensor]
) -> float:
    """Mean relative squared error on the last eighth of 8 batches, with weights really put in."""
    block = copy.deepcopy(solved.block)
    for linear, ref in solutions.items():
        parameter = block.get_parameter(linear.tensor.removeprefix(solved.prefix))
        assert isinstance(ref, Quantized)
        parameter.data.copy_(ref.values(parameter.dtype))
    with torch.no_grad():
        output = replay(block, solved.inputs[-1], solved.calls[-1]).float()
    wanted = targets[-1].float()
    return float(((output - wanted).square().sum(-1) / wanted.square().sum(-1)).mean())


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("target", ["given", "block"])
def test_the_losses_told_are_those_of_what_is_kept_and_fell(target: Any, grid: Grid) -> None:
    def within(solved: Solved) -> tuple[Tuned, float, float]:
        found = tune_block(solved, replace(TUNING, target=target), announce=unheard)
        wanted = solved.given_outputs if target == "given" else solved.block_outputs
        assert wanted is not None
        losses = [loss_of(solved, each, wanted) for each in (solved.solutions, found.solutions)]
        return found, *losses

    found, before, after = solved_block(grid=grid, index=1, within=within)
    assert found.loss_before == pytest.approx(before, rel=1e-5)
    assert found.loss_after == pytest.approx(after, rel=1e-5)
    assert after < 0.95 * before
    assert found.iteration > 0
    assert 0 < found.changed_share < 1


def test_what_made_it_worse_is_not_kept() -> None:
    def within(solved: Solved) -> tuple[Tuned, Mapping[Linear, Solution]]:
        ruinous = replace(TUNING, learning_rate=1000.0, iterations=4)
        return tune_block(solved, ruinous, announce=unheard), solved.solutions

    found, start = solved_block(within=within)
    assert found.solutions == start
    assert (found.loss_after, found.iteration, found.changed_share) == (found.loss_before, 0, 0.0)


def test_no_iterations_measure_the_start_and_keep_it() -> None:
    def within(solved: Solved) -> tuple[Tuned, Mapping[Linear, Solution]]:
        return tune_block(solved, Tuning(iterations=0), announce=unheard), solved.solutions

    found, start = solved_block(within=within)
    assert found.solutions == start
    assert found.loss_after == found.loss_before > 0


@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_codes_and_scales_stay_storable(scale_dtype: torch.dtype) -> None:
    grid = GRIDS["int4 asymmetric"]
    found = tuned(grid=grid, scale_dtype=scale_dtype)
    assert found.iteration > 0
    for ref in found.solutions.values():
        assert ref.codes.dtype == torch.int8
        assert int(ref.codes.min()) >= grid.smallest
        assert int(ref.codes.max()) <= grid.largest
        assert ref.scales.dtype == scale_dtype
        assert (ref.bits, ref.group_size) == (grid.bits, 16)
        assert ref.zero_points is not None


def test_pruned_weights_stay_zero() -> None:
    dense = tiny_checkpoint()
    name = "model.layers.0.mlp.down_proj.weight"
    kept = torch.rand(dense.refs[name].shape, generator=torch.Generator().manual_seed(3)) > 0.5
    found = tuned(checkpoint=dense.evolve({name: dense.tensors[name] * kept}))
    linear = next(each for each in found.solutions if each.tensor == name)
    values = found.solutions[linear].load()
    assert found.changed_share > 0
    assert not values[~kept].any()
    assert values[kept].any()


@pytest.mark.parametrize("stop_at", [None, 3])
def test_the_block_is_left_as_it_was_also_where_the_work_is_stopped(stop_at: int | None) -> None:
    told = []

    def announce(done: int, total: int) -> None:
        told.append((done, total))
        if done == stop_at:
            raise Cancelled("enough")

    def within(solved: Solved) -> None:
        before = dict(solved.block.named_parameters())
        values = {name: each.clone() for name, each in before.items()}
        if stop_at is None:
            tune_block(solved, replace(TUNING, iterations=5), announce=announce)
        else:
            with pytest.raises(Cancelled, match="enough"):
                tune_block(solved, replace(TUNING, iterations=5), announce=announce)
        after = dict(solved.block.named_parameters())
        assert all(after[name] is each for name, each in before.items())
        assert all(torch.equal(after[name], each) for name, each in values.items())
        assert not any(each.requires_grad for each in after.values())
        assert all(each.grad is None for each in after.values())

    solved_block(within=within)
    assert told == [(done, 5) for done in range(1, (stop_at or 5) + 1)]


def codes_of(found: Tuned) -> Tensor:
    """All codes in one row."""
    return torch.cat([ref.codes.flatten() for ref in found.solutions.values()])


def test_the_same_seed_gives_the_same_codes_and_another_other_ones() -> None:
    first, second, other = (codes_of(tuned(replace(TUNING, seed=seed))) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_what_the_model_as_given_would_give_is_another_target() -> None:
    given, block = (tuned(replace(TUNING, target=target), index=1) for target in ("given", "block"))
    assert not torch.equal(codes_of(given), codes_of(block))
    # What was lost before the block counts in the one and not in the other.
    assert given.loss_before > block.loss_before


def test_experts_that_are_not_on_a_grid_stay() -> None:
    found = tuned(checkpoint=tiny_checkpoint("mixtral"))
    assert {each.name.rpartition(".")[2] for each in found.solutions} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    }
    assert found.loss_after < found.loss_before


def test_a_block_with_nothing_on_a_grid_is_left() -> None:
    assert tuned(checkpoint=tiny_checkpoint("gpt2")) == Tuned({}, 0.0, 0.0, 0, 0.0)


@pytest.mark.parametrize("arch", ["opt", "gpt_neox", "gemma3", "qwen3", "phi3"])
def test_other_blocks_are_tuned_alike(arch: str) -> None:
    found = tuned(checkpoint=tiny_checkpoint(arch))
    assert found.loss_after < found.loss_before


def narrowed(value: Any) -> Any:
    """Tensors of a call in bfloat16."""
    if isinstance(value, tuple):
        return tuple(narrowed(each) for each in value)
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.bfloat16() if floating else value


def test_a_block_that_computes_in_bfloat16_is_tuned_and_judged_in_it() -> None:
    def within(solved: Solved) -> tuple[Tuned, float]:
        kwargs = [{k: narrowed(v) for k, v in call.kwargs.items()} for call in solved.calls]
        narrow = replace(
            solved,
            block=copy.deepcopy(solved.block).bfloat16(),
            inputs=[each.bfloat16() for each in solved.inputs],
            weights={k: v.bfloat16() for k, v in solved.weights.items()},
            calls=[Call(narrowed(c.args), k) for c, k in zip(solved.calls, kwargs, strict=True)],
        )
        found = tune_block(narrow, TUNING, announce=unheard)
        assert solved.given_outputs is not None
        return found, loss_of(narrow, found.solutions, solved.given_outputs)

    found, after = solved_block(scale_dtype=torch.bfloat16, within=within)
    assert found.loss_after == pytest.approx(after, rel=1e-5)
    assert found.loss_after < found.loss_before


def test_a_token_of_huge_activations_does_not_own_the_loss() -> None:
    def within(solved: Solved) -> tuple[float, float]:
        """The loss as it is, and where every first token should be huge."""
        huge = [each.clone() for each in solved.block_outputs]
        for each in huge:
            each[:, 0] *= 1e3
        tunings = Tuning(iterations=0, target="block")
        plain = tune_block(solved, tunings, announce=unheard)
        massive = tune_block(replace(solved, block_outputs=huge), tunings, announce=unheard)
        return plain.loss_before, massive.loss_before

    plain, massive = solved_block(within=within)
    # That token's relative error is 1 now, and it is one token in 64.
    assert massive == pytest.approx(plain + 1 / 64, rel=0.05)


def test_damaged_inputs_are_refused() -> None:
    def within(solved: Solved) -> None:
        damaged = [each * torch.nan for each in solved.inputs]
        with pytest.raises(NumericsError, match="the loss before tuning is nan"):
            tune_block(replace(solved, inputs=damaged), TUNING, announce=unheard)

    solved_block(within=within)


def test_the_target_given_needs_a_pass_that_followed_the_model_as_given() -> None:
    with pytest.raises(SettingError, match="paired=True"):
        tuned(paired=False)
    assert tuned(replace(TUNING, target="block"), paired=False).iteration > 0


def test_windows_are_needed_to_train_on_and_to_judge() -> None:
    with pytest.raises(DataError, match=r"make 1 batches and heldout_share=0.125 holds out 1"):
        tuned(num_windows=4, batch_size=4)
    with pytest.raises(DataError, match=r"lower batch_size or heldout_share"):
        tuned(replace(TUNING, heldout_share=0.9))


def test_the_windows_that_judge_are_never_trained_on() -> None:
    def within(solved: Solved) -> tuple[Tensor, Tensor]:
        """All codes, and those where what only judges has a target of its own."""
        assert solved.given_outputs is not None
        *learned, judged = solved.given_outputs
        # So little that the last iterate is the best by both.
        other = replace(solved, given_outputs=[*learned, judged * 1.01])
        return tuple(
            codes_of(tune_block(each, TUNING, announce=unheard)) for each in (solved, other)
        )

    plain, other = solved_block(within=within)
    assert torch.equal(plain, other)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("iterations", -1),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("heldout_share", 0.0),
        ("heldout_share", 1.0),
    ],
)
def test_settings_out_of_range_are_refused(setting: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"{setting} {value} is out of range"):
        Tuning(**{setting: value})


def test_the_rate_falls_linearly_from_its_start() -> None:
    tuning = Tuning(iterations=4, learning_rate=0.8)
    assert [tuning.rate(each) for each in range(4)] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert Tuning(iterations=200).rate(0) == pytest.approx(2 / 200)
    assert Tuning(iterations=10).rate(0) == pytest.approx(1 / 32)
