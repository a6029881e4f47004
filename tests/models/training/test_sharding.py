"""What each rank holds of a divided model; training one is among the chains of `test_ranks`."""

from typing import Any

import pytest
import torch

from birdbone.models.training.rank_steps import Replicated
from birdbone.models.training.sharding import Sharded


@pytest.mark.parametrize("shape", [(7, 2), (2,), (4, 1), ()])
def test_the_rows_of_all_ranks_are_the_tensor(on_three: Any, shape: tuple[int, ...]) -> None:
    division, whole = Sharded(None), torch.rand(shape)  # type: ignore[arg-type]
    rows = on_three(lambda rank: division.own(whole))
    assert all(each.shape[:1] != shape[:1] for each in rows) or not shape
    found = on_three(lambda rank: division.whole(rows[rank]))
    assert all(torch.equal(each, whole) for each in found)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_every_rank_runs_a_divided_model_equally_often(on_three: Any, count: int) -> None:
    division, windows = Sharded(None), torch.arange(count)  # type: ignore[arg-type]

    def parts(on_rank: Replicated) -> list[tuple[list[int], float]]:
        return [(part.tolist(), share) for part, share in on_rank.parts(windows, 5, 2)]

    found = on_three(lambda rank: parts(division))
    real = on_three(lambda rank: parts(Replicated()))
    assert len({len(each) for each in found}) == 1
    assert [[part for part in each if part[1]] for each in found] == real
    assert sum(share for each in real for _, share in each) == pytest.approx(1.0)


def test_the_norm_is_that_of_all_rows(on_three: Any) -> None:
    division, whole = Sharded(None), torch.rand(7, 2)  # type: ignore[arg-type]
    found = on_three(lambda rank: float(division.norm(division.own(whole).norm())))
    assert found == pytest.approx([float(whole.norm())] * 3)
