"""Rewriting block by block: what solvers are given, and where what they return ends up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from tiny import tiny_checkpoint, tiny_configs, tiny_model, tiny_windows
from tiny_contexts import block_matrices, weight_of
from torch import Tensor

from birdbone.checkpoints import Checkpoint, Quantized
from birdbone.errors import Cancelled, SolverError
from birdbone.models.blocks.linears import Linear, all_linears, named
from birdbone.models.passes.rewriting import Solution, Solve, Solved, rewrite_blocks
from birdbone.solvers.gram import Gram


def unheard(done: int, total: int) -> None:
    """Nobody listens."""


def rewritten(checkpoint: Checkpoint, solve: Solve, **settings: object) -> Checkpoint:
    """The checkpoint with every linear solved."""
    options = {"batch_size": 4, "announce": unheard, **settings}
    return checkpoint.evolve(
        rewrite_blocks(checkpoint, tiny_windows(4, 16), solve, **options)  # type: ignore[arg-type]
    )


def same(weights: Sequence[tuple[Linear, Tensor]], gram: Gram) -> Mapping[Linear, Tensor]:
    """Solve nothing."""
    return dict(weights)


@pytest.mark.parametrize("arch", tiny_configs)
def test_weights_handed_back_as_they_came_give_the_same_model(arch: str) -> None:
    dense = tiny_checkpoint(arch)
    seen: dict[str, Tensor] = {}

    def look(weights: Sequence[tuple[Linear, Tensor]], gram: Gram) -> Mapping[Linear, Tensor]:
        seen.update({linear.name: weight.clone() for linear, weight in weights})
        assert all(weight.shape == (linear.shape) for linear, weight in weights)
        assert all(gram.width == linear.shape[1] for linear, _ in weights)
        return dict(weights)

    assert rewritten(dense, look).id == dense.id
    assert seen.keys() == {each.name for each in all_linears(dense)}
    for linear in all_linears(dense):
        assert torch.equal(seen[linear.name], weight_of(dense, linear))


@pytest.mark.parametrize("arch", ["gpt2", "mixtral", "gpt_oss", "phi3"])
def test_every_solution_ends_up_in_its_own_place(arch: str) -> None:
    dense = tiny_checkpoint(arch)
    factors = {linear.name: place for place, linear in enumerate(all_linears(dense), 2)}

    def scale(weights: Sequence[tuple[Linear, Tensor]], gram: Gram) -> Mapping[Linear, Tensor]:
        return {linear: weight * factors[linear.name] ** -0.5 for linear, weight in weights}

    light = rewritten(dense, scale)
    for linear in all_linears(dense):
        expected = weight_of(dense, linear) * factors[linear.name] ** -0.5
        assert torch.equal(weight_of(light, linear), expected)
    changed = {name for name in dense.refs if light.refs[name] is not dense.refs[name]}
    assert changed == block_matrices(dense)


def grams_with(checkpoint: Checkpoint, factor: float) -> list[Tensor]:
    """Every Gram in order, while weights are replaced by themselves times a factor."""
    grams = []

    def scale(weights: Sequence[tuple[Linear, Tensor]], gram: Gram) -> Mapping[Linear, Tensor]:
        grams.append(gram.matrix)
        return {linear: weight * factor for linear, weight in weights}

    rewritten(checkpoint, scale)
    return grams


def test_only_blocks_after_the_first_see_what_was_changed() -> None:
    dense, light = (grams_with(tiny_checkpoint(), factor) for factor in (1.0, 0.5))
    per_block = len(dense) // 3
    equal = [torch.equal(a, b) for a, b in zip(dense, light, strict=True)]
    assert per_block == 4
    assert all(equal[:per_block])
    assert not any(equal[per_block:])


def test_blocks_compute_with_weights_as_rounded_for_storage() -> None:
    dense = tiny_checkpoint()
    halves = dense.evolve({name: t.bfloat16() for name, t in dense.tensors.items()})
    # 1 + 2^-9 is lost in bfloat16, so nothing downstream may notice it.
    plain, nudged = (grams_with(halves, factor) for factor in (1.0, 1.0 + 2**-10))
    assert all(torch.equal(a, b) for a, b in zip(plain, nudged, strict=True))


def test_codes_are_kept_as_codes_and_computed_with() -> None:
    dense = tiny_checkpoint()
    by_codes: list[Tensor] = []
    by_values: list[Tensor] = []

    def codes(weight: Tensor) -> Quantized:
        steps = (weight / 0.1).round().clamp(-8, 7).to(torch.int8)
        return Quantized(steps, torch.full((len(weight), 1), 0.1), bits=4)

    def as_codes(
        weights: Sequence[tuple[Linear, Tensor]], gram: Gram
    ) -> Mapping[Linear, Quantized]:
        by_codes.append(gram.matrix)
        return {linear: codes(weight) for linear, weight in weights}

    def as_values(weights: Sequence[tuple[Linear, Tensor]], gram: Gram) -> Mapping[Linear, Tensor]:
        by_values.append(gram.matrix)
        return {linear: codes(weight).load() for linear, weight in weights}

    light, multiplied_out = rewritten(dense, as_codes), rewritten(dense, as_values)
    assert {n for n, r in light.refs.items() if isinstance(r, Quantized)} == block_matrices(dense)
    assert all(torch.equal(a, b) for a, b in zip(by_codes, by_values, strict=True))
    assert all(torch.equal(light.tensors[n], multiplied_out.tensors[n]) for n in dense.refs)


def test_linears_that_were_not_chosen_stay() -> None:
    dense = tiny_checkpoint()

    def halve(weights: Sequence[tuple[Linear, Tensor]], gram: Gram) -> Mapping[Linear, Tensor]:
        return {linear: weight / 2 for linear, weight in weights}

    light = rewritten(dense, halve, chosen=lambda linear: "o_proj" in linear.name)
    changed = {name for name in dense.refs if light.refs[name] is not dense.refs[name]}
    assert changed == {f"model.layers.{index}.self_attn.o_proj.weight" for index in range(3)}


def test_each_block_is_announced_once_done_and_may_stop_the_work() -> None:
    told: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if done == 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        rewritten(tiny_checkpoint(), same, announce=stop)
    assert told == [(1, 3), (2, 3)]


def test_a_second_look_is_given_each_block_as_it_is_solved() -> None:
    dense = tiny_checkpoint()
    inputs: list[list[Tensor]] = []
    given: list[list[Tensor]] = []

    def halve(weights: Sequence[tuple[Linear, Tensor]], gram: Gram) -> Mapping[Linear, Tensor]:
        return {linear: weight / 2 for linear, weight in weights}

    def look(solved: Solved) -> Mapping[Linear, Tensor]:
        assert solved.prefix == f"model.layers.{len(inputs)}."
        for linear, solution in solved.solutions.items():
            name = linear.tensor.removeprefix(solved.prefix)
            assert torch.equal(solved.weights[linear], weight_of(dense, linear))
            assert torch.equal(solution, solved.weights[linear] / 2)  # type: ignore[arg-type]
            assert torch.equal(solved.block.get_parameter(name), solution)  # type: ignore[arg-type]
        assert solved.given_outputs is not None
        if given:
            assert not torch.equal(solved.block_outputs[0], solved.given_outputs[0])
        else:
            assert torch.equal(solved.block_outputs[0], solved.given_outputs[0])
        inputs.append(list(solved.inputs))
        given.append(list(solved.given_outputs))
        return {}

    rewritten(dense, halve, paired=True, refine=look)
    assert len(inputs) == 3
    with torch.no_grad():
        model = tiny_model()
        hidden = model(tiny_windows(4, 16).tokens, output_hidden_states=True).hidden_states
    assert torch.equal(inputs[0][0], hidden[0])
    torch.testing.assert_close(given[0][0], hidden[1])
    torch.testing.assert_close(given[1][0], hidden[2])


def test_without_pairing_a_second_look_is_not_told_what_the_model_gave() -> None:
    seen: list[object] = []

    def look(solved: Solved) -> Mapping[Linear, Tensor]:
        seen.append(solved.given_outputs)
        return {}

    rewritten(tiny_checkpoint(), same, refine=look)
    assert seen == [None, None, None]


@pytest.mark.parametrize("arch", ["llama", "mixtral", "gpt2"])
def test_what_a_second_look_returns_takes_the_place_of_the_first(arch: str) -> None:
    dense = tiny_checkpoint(arch)

    def halve(weights: Sequence[tuple[Linear, Tensor]], gram: Gram) -> Mapping[Linear, Tensor]:
        return {linear: weight / 2 for linear, weight in weights}

    def again(solved: Solved) -> Mapping[Linear, Solution]:
        return {linear: solved.weights[linear] / 4 for linear in list(solved.solutions)[::2]}

    def at_once(weights: Sequence[tuple[Linear, Tensor]], gram: Gram) -> Mapping[Linear, Tensor]:
        grams.append(gram.matrix)
        return {linear: weight * factors[linear] for linear, weight in weights}

    def looked_at(weights: Sequence[tuple[Linear, Tensor]], gram: Gram) -> Mapping[Linear, Tensor]:
        refined_grams.append(gram.matrix)
        return halve(weights, gram)

    grams: list[Tensor] = []
    refined_grams: list[Tensor] = []
    light = rewritten(dense, looked_at, refine=again)
    factors = {
        linear: weight_of(light, linear).flatten()[0] / weight_of(dense, linear).flatten()[0]
        for linear in all_linears(dense)
    }
    assert {float(each) for each in factors.values()} == {0.25, 0.5}
    assert rewritten(dense, at_once).id == light.id
    # The blocks after it are solved for what it returned.
    assert all(torch.equal(a, b) for a, b in zip(refined_grams, grams, strict=True))


def test_a_second_look_at_nothing_is_not_asked_for() -> None:
    def look(solved: Solved) -> Mapping[Linear, Tensor]:
        raise AssertionError(solved.prefix)

    dense = tiny_checkpoint()
    assert rewritten(dense, same, refine=look, chosen=lambda linear: False).id == dense.id


def test_a_solvers_error_is_given_the_layers_name() -> None:
    error = named(Linear("model.layers.0.up.weight", (4, 4)), SolverError("unfit"))
    assert isinstance(error, SolverError)
    assert str(error) == "layer 'model.layers.0.up': unfit"
