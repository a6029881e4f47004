"""The device of a run as the engine sees it: put in force by a context, its bytes counted."""

from __future__ import annotations

import pytest
import torch
from pretend_device import NAME, pretended

from birdbone.checkpoints.placement import current_device, on_device
from birdbone.contexts.placement import (
    Placement,
    counted_device,
    free_unused,
    held_on_device,
    is_out_of_memory,
    placed_by,
)


def test_the_context_decides() -> None:
    with pretended():
        assert current_device() == torch.device(NAME)
        with placed_by({"placement": Placement(device="cpu")}):
            assert current_device() == torch.device("cpu")
        assert current_device() == torch.device(NAME)


def test_a_context_without_one_changes_nothing() -> None:
    with pretended(), on_device("cpu"), placed_by({"checkpoint": None}):
        assert current_device() == torch.device("cpu")


def test_no_device_is_counted_on_the_cpu() -> None:
    with pretended(), on_device("cpu"):
        there = torch.ones(100, device=NAME)
        assert counted_device() is None
        assert held_on_device() == 0
        assert len(there) == 100


def test_an_accelerator_is_counted_by_its_index() -> None:
    """Without an index in its name it is the one in use."""
    with pretended():
        assert counted_device() == f"{NAME}:0"
        with on_device(f"{NAME}:0"):
            assert counted_device() == f"{NAME}:0"


def test_what_tensors_take() -> None:
    with pretended():
        assert held_on_device() == 0
        there = torch.ones(100, dtype=torch.float32, device=NAME)
        assert held_on_device() == there.numel() * 4
        del there
        assert held_on_device() == 0


def test_reserved_memory_is_returned_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    module = torch.get_device_module(NAME)
    monkeypatch.setattr(module, "empty_cache", lambda: called.append("emptied"), raising=False)
    with pretended():
        with on_device("cpu"):
            free_unused()
        assert called == []
        free_unused()
        assert called == ["emptied"]


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("MPS backend out of memory (allocated 8 GB)"), True),
        (RuntimeError("expected all tensors on one device"), False),
        (MemoryError(), False),
    ],
)
def test_which_errors_say_that_it_is_full(error: Exception, full: bool) -> None:
    assert is_out_of_memory(error) is full


def test_a_device_that_runs_full_says_so() -> None:
    with pretended(limit=100), pytest.raises(torch.OutOfMemoryError) as caught:
        torch.ones(1000, device=NAME)
    assert is_out_of_memory(caught.value)
