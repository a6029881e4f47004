"""The pretend accelerator finds what CUDA would: mixed devices, and too little memory."""

from __future__ import annotations

import pytest
import torch
from pretend_device import NAME, pretended
from torch import nn


def test_values_survive_the_way_there_and_back() -> None:
    values = torch.randn(3, 4)
    with pretended() as ledger:
        there = values.to(NAME)
        assert there.device == torch.device(NAME, 0)
        assert torch.equal(there.cpu(), values)
        assert torch.equal((there @ there.T).cpu(), values @ values.T)
        assert (ledger.moved_there, ledger.moved_back) == (48, 48 + 36)


@pytest.mark.parametrize(
    "mix",
    [
        lambda there, here: there + here,
        lambda there, here: here @ there,
        lambda there, here: there.copy_(there + here),
        lambda there, here: torch.cat([there, here]),
        lambda there, here: here[there > 0],
        lambda there, here: there.index_select(0, torch.tensor([1])),
        lambda there, here: torch.where(there > 0, there, here),
        lambda there, here: here.add_(there),
        lambda there, here: there.numpy(),
    ],
)
def test_two_devices_in_one_operation_are_refused(mix) -> None:
    with pretended():
        here = torch.ones(3, 3)
        there = here.to(NAME)
        with pytest.raises((RuntimeError, TypeError)):
            mix(there, here)


def test_what_cuda_takes_from_the_host_is_taken() -> None:
    with pretended():
        there = torch.arange(6.0, device=NAME)
        assert there[torch.tensor([1, 3])].tolist() == [1.0, 3.0]
        assert (there + torch.tensor(1.0)).device.type == NAME
        there[torch.tensor([0])] = 5.0
        assert there.tolist()[0] == 5.0


def test_parameters_are_exchanged_and_trained_in_place() -> None:
    with pretended():
        linear = nn.Linear(4, 2).to(NAME)
        linear.weight.data = torch.ones(2, 4, device=NAME)
        assert linear.weight.sum().item() == 8.0
        optimizer = torch.optim.AdamW(linear.parameters(), lr=0.5, fused=True)
        linear(torch.ones(1, 4, device=NAME)).sum().backward()
        optimizer.step()
        assert linear.weight.grad is not None
        assert linear.weight.detach().cpu().max() < 0.6


def test_bytes_are_freed_with_their_last_tensor() -> None:
    with pretended() as ledger:
        before = ledger.allocated
        whole = torch.zeros(100, device=NAME)
        part = whole[:10]
        del whole
        assert ledger.allocated - before == 400
        del part
        assert ledger.allocated == before
        assert ledger.peak - before == 400


def test_beyond_the_limit_there_is_no_memory() -> None:
    with pretended(limit=1000):
        some = torch.zeros(200, device=NAME)
        with pytest.raises(torch.OutOfMemoryError, match="800 of 1000 bytes in use, 400 more"):
            torch.zeros(100, device=NAME)
        del some
        torch.zeros(100, device=NAME)


def test_outside_it_is_not_there() -> None:
    with pretended():
        assert torch.accelerator.is_available()
    assert torch.accelerator.is_available() == torch.cuda.is_available()
    assert torch.tensor([1]).device.type == "cpu"
