"""Names of devices, their memory, and the errors for those that are not there."""

from __future__ import annotations

import re

import pytest
import torch
from pretend_device import NAME, pretended

from birdbone.checkpoints.devices import (
    CPU,
    allocated_bytes,
    best_device,
    counts_bytes,
    describe_device,
    device_names,
    finish_work,
    free_and_total_bytes,
    is_out_of_memory,
    named_device,
    peak_bytes,
    release_unused,
    reset_peak,
)
from birdbone.errors import SettingError

needs_no_accelerator = pytest.mark.skipif(
    torch.accelerator.is_available(), reason="this machine has an accelerator"
)


@needs_no_accelerator
def test_without_an_accelerator_it_is_the_cpu() -> None:
    assert best_device() == named_device("auto") == named_device("cpu:0") == CPU
    assert device_names() == ["cpu"]
    assert not counts_bytes(CPU)
    assert describe_device(CPU) == "cpu"
    finish_work(CPU)
    release_unused(CPU)


@needs_no_accelerator
@pytest.mark.parametrize("name", ["cuda", "cuda:7", "mps", "cuba", "", "cuda:-1", "meta", "cpu:1"])
def test_a_device_that_is_not_there_is_named_with_those_that_are(name: str) -> None:
    with pytest.raises(
        SettingError, match=re.escape(f"this machine has no device '{name}'; it has cpu (torch")
    ):
        named_device(name)


def test_an_accelerator_is_found_through_torch() -> None:
    with pretended():
        assert best_device() == named_device("auto") == torch.device(NAME)
        assert device_names() == ["cpu", f"{NAME}:0"]
        assert named_device(f"{NAME}:0").index == 0
        assert describe_device(named_device(NAME)) == NAME
        with pytest.raises(SettingError, match=f"no device '{NAME}:1'; it has cpu, {NAME}:0"):
            named_device(f"{NAME}:1")


def test_its_memory_is_counted() -> None:
    with pretended(limit=1000):
        device = named_device(NAME)
        assert counts_bytes(device)
        assert free_and_total_bytes(device) == (1000, 1000)
        some = torch.zeros(100, device=device)
        assert allocated_bytes(device) == peak_bytes(device) == 400
        assert free_and_total_bytes(device) == (600, 1000)
        del some
        assert (allocated_bytes(device), peak_bytes(device)) == (0, 400)
        reset_peak(device)
        assert peak_bytes(device) == 0
        with pytest.raises(torch.OutOfMemoryError) as caught:
            torch.zeros(300, device=device)
        finish_work(device)
    assert is_out_of_memory(caught.value)


def test_what_mps_raises_without_memory_is_known_by_its_words() -> None:
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(MemoryError("MPS backend out of memory"))
