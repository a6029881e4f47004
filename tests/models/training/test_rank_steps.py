from typing import Any

import pytest
import torch
from torch import nn

from birdbone.models.training import rank_steps
from birdbone.models.training.rank_steps import own_steps, sum_gradients


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_the_windows_of_a_step_are_those_of_one_rank(on_three: Any, batch_size: int) -> None:
    tokens = torch.arange(7).unsqueeze(1)
    ((whole, _),) = [own_steps(tokens, batch_size)]
    found = on_three(lambda rank: own_steps(tokens, batch_size))
    for number, wanted in enumerate(whole):
        mine = [(batches, steps[number]) for batches, steps in found]
        parts = [batches[step.place] for batches, step in mine if step.place is not None]
        assert sorted(torch.cat(parts).flatten().tolist()) == wanted.flatten().tolist()
        assert sum(step.fraction for _, step in mine) == pytest.approx(1.0)
    counts = [sum(map(len, batches)) for batches, _ in found]
    assert sorted(counts) == [2, 2, 3]


@pytest.mark.parametrize("pack_bytes", [1, 10**9])
def test_gradients_are_summed(
    on_three: Any, pack_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_steps, "_PACK_BYTES", pack_bytes)

    def summed(rank: int) -> list[Any]:
        every, one, none = (nn.Parameter(torch.zeros(2, 3)) for _ in range(3))
        every.grad = torch.full((2, 3), float(rank))
        if rank == 1:
            one.grad = torch.ones(2, 3)
        sum_gradients([every, none, one])
        return [None if each.grad is None else each.grad.tolist() for each in (every, none, one)]

    assert on_three(summed) == [[[[3.0] * 3] * 2, None, [[1.0] * 3] * 2]] * 3
