"""The units of a linear that stay, and linears refitted around what was removed."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from tiny_layers import Inputs, inputs, linear, weight
from torch import Tensor

from birdbone.errors import SolverError
from birdbone.links.pruning.solve_units import Bridging, Removal
from birdbone.models.units.narrowing import Narrowing, Part
from birdbone.models.units.residuals import Fed
from birdbone.solvers.gram import Gram

WIDTH = 8
DOWN = linear("model.layers.1.mlp.down_proj", 6, WIDTH)
TEXT = inputs(WIDTH, 400, seed=3)
WEIGHT = weight(6, WIDTH, seed=4)
TINY = 1e-6  # damping that changes no figure below


def removal(after: int, *, size: int = 1, matching: float = 0.0, damping: float = TINY) -> Removal:
    part = Part("mlp.down_proj.weight", 1, WIDTH)
    change = Narrowing("neurons", WIDTH // size, after, {}, (part,), part)
    return Removal(change, damping, matching)


def fed(text: Inputs = TEXT, missing: Tensor | None = None, matrix: Tensor = WEIGHT) -> Fed:
    return Fed(DOWN, matrix, text.gram, missing)


def least_squares(columns: list[int], target: Tensor = WEIGHT) -> Tensor:
    """The best weight on these columns alone, in float64."""
    rows = TEXT.rows.double()
    wanted = rows @ target.double().T
    found = torch.zeros(target.shape, dtype=torch.float64)
    found[:, columns] = torch.linalg.lstsq(rows[:, columns], wanted).solution.T
    return found.float()


def test_columns_are_refitted() -> None:
    kept = removal(5)(fed())
    columns = kept.units.tolist()
    assert columns == sorted(set(columns))
    assert len(columns) == 5
    torch.testing.assert_close(kept.weight, least_squares(columns), atol=2e-4, rtol=2e-3)


def test_one_column_is_the_best_one() -> None:
    """Of all eight choices, by brute force."""
    kept = removal(WIDTH - 1)(fed())
    errors = {
        columns: TEXT.error(WEIGHT, least_squares(list(columns)))
        for columns in combinations(range(WIDTH), WIDTH - 1)
    }
    assert tuple(kept.units.tolist()) == min(errors, key=lambda each: errors[each])


def test_groups_stay_whole() -> None:
    kept = removal(2, size=2)(fed())
    columns = [unit * 2 + place for unit in kept.units.tolist() for place in range(2)]
    zero = [column for column in range(WIDTH) if column not in columns]
    assert len(columns) == 4
    assert not kept.weight[:, zero].any()
    torch.testing.assert_close(kept.weight, least_squares(columns), atol=2e-4, rtol=2e-3)


def test_dead_inputs_go_first() -> None:
    rows = TEXT.rows.clone()
    rows[:, [1, 6]] = 0
    kept = removal(6)(fed(Inputs(rows, Gram(rows.T @ rows, len(rows)))))
    assert kept.units.tolist() == [0, 2, 3, 4, 5, 7]


def test_the_record() -> None:
    change = removal(6)
    kept = change(fed(inputs(WIDTH, 400, seed=3, borrowed=9)))
    plan = change.plans[DOWN.name]
    assert (plan.sparsity, plan.borrowed_tokens) == (0.25, 9)
    assert plan.damping == TINY
    assert plan.relative_error == pytest.approx(TEXT.error(WEIGHT, kept.weight), rel=1e-3)


def test_missing_output_is_made_up_for() -> None:
    """With all columns kept but one, the weight moves towards what the output lacks."""
    wanted = WEIGHT + 0.2 * weight(6, WIDTH, seed=5)
    lacking = TEXT.rows @ (wanted - WEIGHT).T
    missing = lacking.T @ TEXT.rows
    plain, matched = (removal(7, matching=each)(fed(missing=missing)) for each in (0.0, 1.0))
    assert TEXT.error(wanted, matched.weight) < 0.7 * TEXT.error(wanted, plain.weight)


@pytest.mark.parametrize("matching", [0.25, 1.0])
def test_a_bridge_adds_its_fraction(matching: float) -> None:
    """400 tokens for 8 inputs are enough for the fraction to be taken as it is."""
    wanted = weight(6, WIDTH, seed=6)
    missing = (TEXT.rows @ (wanted - WEIGHT).T).T @ TEXT.rows
    bridging = Bridging(TINY, matching)
    found = bridging(fed(missing=missing))
    middle = WEIGHT + matching * (wanted - WEIGHT)
    torch.testing.assert_close(found, middle, atol=2e-4, rtol=2e-3)
    plan = bridging.plans[DOWN.name]
    assert (plan.sparsity, plan.damping) == (0.0, TINY)
    assert plan.relative_error == pytest.approx(TEXT.error(WEIGHT, found), rel=1e-3)


def test_a_bridge_over_nothing() -> None:
    bridging = Bridging(TINY, 1.0)
    assert bridging(fed()) is WEIGHT
    assert bridging.plans == {}


def test_errors_name_the_layer() -> None:
    broken = WEIGHT.clone()
    broken[0, 0] = torch.inf
    with pytest.raises(SolverError, match=r"layer 'model\.layers\.1\.mlp\.down_proj': "):
        removal(4)(fed(matrix=broken))
    with pytest.raises(SolverError, match=r"layer 'model\.layers\.1\.mlp\.down_proj': "):
        Bridging(TINY, 1.0)(fed(matrix=broken, missing=torch.ones(6, WIDTH)))
