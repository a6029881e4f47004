from __future__ import annotations

import pytest
import torch

from birdbone.errors import SettingError, SolverError
from birdbone.solvers.gram import Gram, GramAccumulator


def gathered(*batches: torch.Tensor) -> Gram:
    accumulator = GramAccumulator(batches[0].shape[-1])
    for batch in batches:
        accumulator.add(batch)
    return accumulator.gram()


@pytest.mark.parametrize("width", [1, 7, 300, 513])  # within one strip, and over its edge
def test_batches_sum_to_the_gram_of_all_rows(width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2100, width, generator=generator)  # more rows than one chunk
    gram = gathered(rows[:60].view(3, 20, width), rows[60:])
    exact = rows.double().T @ rows.double()
    assert gram.num_tokens == 2100
    assert gram.matrix.dtype == torch.float32
    assert torch.equal(gram.matrix, gram.matrix.T)
    # float32 sums of 2100 products of size about 1
    torch.testing.assert_close(gram.matrix.double(), exact, atol=2e-3, rtol=1e-5)


def test_bfloat16_inputs_are_summed_in_float32() -> None:
    rows = torch.full((4096, 2), 1.0078125, dtype=torch.bfloat16)
    # In bfloat16 the sum would stand still at 256; float32 loses half a unit at most an addition.
    total = gathered(rows).matrix[0, 1].item()
    assert total == pytest.approx(4096 * 1.0078125**2, rel=1e-4)


def test_diagonal_dead_and_norms() -> None:
    gram = gathered(torch.tensor([[3.0, 0.0], [4.0, 0.0]]))
    assert gram.diagonal.tolist() == [25.0, 0.0]
    assert gram.column_norms.tolist() == [5.0, 0.0]
    assert gram.dead.tolist() == [False, True]


def test_a_gram_taken_early_does_not_change_later() -> None:
    accumulator = GramAccumulator(2)
    accumulator.add(torch.ones(1, 2))
    early = accumulator.gram()
    accumulator.add(torch.ones(1, 2))
    assert early.matrix.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert accumulator.gram().matrix.tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_refused_inputs_leave_the_sum_alone() -> None:
    accumulator = GramAccumulator(2)
    accumulator.add(torch.ones(1, 2))
    with pytest.raises(SolverError, match="1 NaN and 2 infinite values of 4"):
        accumulator.add(torch.tensor([[1.0, float("nan")], [float("inf"), -float("inf")]]))
    with pytest.raises(SettingError, match=r"inputs \(4, 3\) do not fit a Gram matrix of width 2"):
        accumulator.add(torch.ones(4, 3))
    assert accumulator.gram().num_tokens == 1
    assert accumulator.gram().matrix.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_unfit_matrices_are_refused() -> None:
    with pytest.raises(SettingError, match=r"square; found shape \(2, 3\)"):
        Gram(torch.ones(2, 3), 1)
    with pytest.raises(SettingError, match="bfloat16 is too imprecise"):
        Gram(torch.ones(2, 2, dtype=torch.bfloat16), 1)
    with pytest.raises(SettingError, match="width 0 is out of range"):
        GramAccumulator(0)


def test_what_the_given_model_had_is_summed_beside() -> None:
    draw = torch.Generator().manual_seed(0)
    given, inputs = torch.randn(2, 2100, 7, generator=draw)  # more rows than one chunk
    accumulator = GramAccumulator(7)
    accumulator.add(inputs[:50].view(2, 25, 7), given[:50].view(2, 25, 7))
    accumulator.add(inputs[50:], given[50:])
    gram = accumulator.gram()
    exact = given.double().T @ inputs.double()
    torch.testing.assert_close(gram.cross.double(), exact, atol=2e-3, rtol=1e-5)
    accumulator.add(inputs, given)
    torch.testing.assert_close(gram.cross.double(), exact, atol=2e-3, rtol=1e-5)


def test_rows_that_came_alone_leave_no_cross_sum() -> None:
    accumulator = GramAccumulator(2)
    accumulator.add(torch.ones(3, 2), torch.ones(3, 2))
    accumulator.add(torch.ones(1, 2))
    assert accumulator.gram().cross is None
    with pytest.raises(
        SettingError, match=r"inputs \(3, 2\) and inputs of the original model \(4, 2\)"
    ):
        accumulator.add(torch.ones(3, 2), torch.ones(4, 2))
    assert accumulator.num_tokens == 4


@pytest.mark.parametrize("paired", [False, True])
def test_accumulators_are_joined(paired: bool) -> None:
    rows = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    whole, first, second = (GramAccumulator(4) for _ in range(3))
    for accumulator, parts in ((whole, (0, 1)), (first, (0,)), (second, (1,))):
        for part in parts:
            accumulator.add(rows[part], rows[part] + 1 if paired else None)
    sent: list[torch.Tensor] = []
    second.join(lambda tensor: sent.append(tensor) or tensor)  # type: ignore[func-returns-value]
    first.join(lambda tensor: tensor + sent.pop(0))
    found, wanted = first.gram(), whole.gram()
    assert found.num_tokens == 10
    torch.testing.assert_close(found.matrix, wanted.matrix)
    assert (found.cross is not None) == paired
    if wanted.cross is not None:
        torch.testing.assert_close(found.cross, wanted.cross)
