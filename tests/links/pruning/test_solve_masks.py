"""Masks and values of the linears on one input, and the record of each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_layers import inputs, linear, weight
from torch import Tensor

from birdbone.contexts.scores import LinearScore, Scores
from birdbone.errors import SolverError
from birdbone.links.pruning.settings import PruneMethod
from birdbone.links.pruning.solve_masks import Thinning
from birdbone.models.blocks.linears import Linear
from birdbone.solvers.gram import Gram
from birdbone.solvers.masks import Pattern

UP, GATE = linear("model.layers.0.mlp.up_proj"), linear("model.layers.0.mlp.gate_proj")
WEIGHTS = [(UP, weight(seed=1)), (GATE, weight(seed=2))]
METHODS: tuple[PruneMethod, ...] = ("admm", "alps", "sparsegpt", "wanda", "magnitude", "scores")


def scores(**more: Tensor) -> Scores:
    of_weights = {UP.name: WEIGHTS[0][1].abs(), GATE.name: WEIGHTS[1][1].abs(), **more}
    linears = {name: LinearScore(1.0, 0.0, found.numel()) for name, found in of_weights.items()}
    return Scores("magnitude", linears, (1.0,), of_weights)


def thinning(method: PruneMethod = "magnitude", **more: Any) -> Thinning:
    plain = {
        "pattern": Pattern(),
        "sparsities": {UP.name: 0.5, GATE.name: 0.5},
        "scores": scores(),
        "damping": 0.01,
        "polish": 0,
        "matching": 0.0,
    }
    return Thinning(method=method, **{**plain, **more})


def zeros(found: Tensor) -> float:
    return float((found == 0).double().mean())


@pytest.mark.parametrize("method", METHODS)
def test_each_has_its_sparsity(method: PruneMethod) -> None:
    """Also where linears on one input differ in it, and are not solved together."""
    solver = thinning(method, sparsities={UP.name: 0.25, GATE.name: 0.75})
    found = solver(WEIGHTS, inputs().gram)
    assert (zeros(found[UP]), zeros(found[GATE])) == (0.25, 0.75)
    assert {name: plan.sparsity for name, plan in solver.plans.items()} == {
        UP.name: 0.25,
        GATE.name: 0.75,
    }


@pytest.mark.parametrize("method", METHODS)
def test_two_of_four(method: PruneMethod) -> None:
    found = thinning(method, pattern=Pattern((2, 4)))(WEIGHTS, inputs().gram)
    for each in found.values():
        assert ((each != 0).unflatten(1, (-1, 4)).sum(-1) == 2).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_error_is_that_of_the_outputs(method: PruneMethod) -> None:
    given_inputs = inputs()
    solver = thinning(method)
    found = solver(WEIGHTS, given_inputs.gram)
    for each, before in WEIGHTS:
        measured = given_inputs.error(before, found[each])
        # float32 sums over 256 tokens.
        assert solver.plans[each.name].relative_error == pytest.approx(measured, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_together_as_alone(method: PruneMethod) -> None:
    """Stacking saves a factorisation; iterations end when the whole stack has converged."""
    gram = inputs().gram
    together = thinning(method)(WEIGHTS, gram)
    for pair in WEIGHTS:
        alone = thinning(method)([pair], gram)[pair[0]]
        torch.testing.assert_close(alone, together[pair[0]], atol=1e-3, rtol=1e-3)


def test_scores_decide() -> None:
    """The lowest are removed, and the weights that stay are as they were."""
    order = torch.arange(16 * 32, dtype=torch.float32).view(16, 32)
    found = thinning("scores", scores=scores(**{UP.name: order}))(WEIGHTS, inputs().gram)
    kept = order >= 256
    assert torch.equal(found[UP] != 0, kept)
    assert torch.equal(found[UP][kept], WEIGHTS[0][1][kept])


def test_polish_lowers_the_error_on_the_same_mask() -> None:
    plain, polished = thinning("wanda"), thinning("wanda", polish=20)
    gram = inputs().gram
    before, after = plain(WEIGHTS, gram), polished(WEIGHTS, gram)
    for each, _ in WEIGHTS:
        assert torch.equal(before[each] != 0, after[each] != 0)
        error = plain.plans[each.name].relative_error
        assert polished.plans[each.name].relative_error < 0.9 * error


@settings(max_examples=5, deadline=None)
@given(st.floats(0, 0.1), st.integers(0, 3))
def test_regrowth_is_limited(limit: float, seed: int) -> None:
    before = weight(seed=seed)
    before[torch.rand(before.shape, generator=torch.Generator().manual_seed(seed)) < 0.5] = 0
    # Half of the weights are zero; some would regrow to make up for those that go.
    solver = thinning("admm", regrow=limit, sparsities={UP.name: 0.75})
    found = solver([(UP, before)], inputs(seed=seed).gram)[UP]
    plan = solver.plans[UP.name]
    assert plan.zeros_before == int((before == 0).sum())
    assert plan.regrown == int(((before == 0) & (found != 0)).sum())
    assert plan.regrown <= limit * plan.zeros_before


def test_the_record() -> None:
    solver = thinning("sparsegpt")
    solver(WEIGHTS, inputs(borrowed=7).gram)
    plan = solver.plans[UP.name]
    assert (plan.damping, plan.borrowed_tokens, plan.zeros_before) == (0.01, 7, 0)
    ranked = thinning("magnitude")
    ranked(WEIGHTS, inputs().gram)
    assert ranked.plans[UP.name].damping is None


@pytest.mark.parametrize("method", ["sparsegpt", "admm", "magnitude"])
def test_a_weight_that_is_not_finite(method: PruneMethod) -> None:
    """The layer at fault is named, not the first of its stack."""
    broken = WEIGHTS[1][1].clone()
    broken[3, 4] = torch.nan
    with pytest.raises(SolverError, match=r"layer 'model\.layers\.0\.mlp\.gate_proj': "):
        thinning(method)([WEIGHTS[0], (GATE, broken)], inputs().gram)


def test_inputs_that_are_not_finite() -> None:
    gram = Gram(torch.full((32, 32), torch.nan), 256)
    with pytest.raises(SolverError, match=r"layer 'model\.layers\.0\.mlp\.up_proj': "):
        thinning("sparsegpt")(WEIGHTS, gram)


def test_nothing_is_changed_in_place() -> None:
    pairs: list[tuple[Linear, Tensor]] = [(each, found.clone()) for each, found in WEIGHTS]
    gram = inputs().gram
    before = gram.matrix.clone()
    for method in METHODS:
        thinning(method, polish=2, regrow=0.5)(pairs, gram)
    assert torch.equal(gram.matrix, before)
    for (_, found), (_, original) in zip(pairs, WEIGHTS, strict=True):
        assert torch.equal(found, original)
