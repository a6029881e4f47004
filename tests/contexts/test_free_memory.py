"""The least room counts: the machine's, the control group's, the process's own limit."""

import resource
from pathlib import Path

import psutil
import pytest
import torch
from pretend_device import NAME, pretended

from birdbone.checkpoints.placement import on_device
from birdbone.contexts import free_memory
from birdbone.contexts.free_memory import free_bytes, free_host_bytes

V2 = ("memory.max", "memory.current", "inactive_file")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 000 bytes are available, and nothing else is limited."""
    available = psutil.virtual_memory()._replace(available=10_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)
    monkeypatch.setattr(free_memory, "_GROUPS", ())
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda of: unlimited)


def test_of_a_machine_it_is_what_is_available() -> None:
    assert free_bytes() == 10_000


@pytest.mark.parametrize(("limit", "free"), [("3000", 1100), ("max", 10_000), ("1000", 0)])
def test_a_control_group_may_have_less(
    limit: str, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cache that can be let go of does not count as taken."""
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("2000\n")
    (tmp_path / "memory.stat").write_text("anon 1900\ninactive_file 100\n")
    monkeypatch.setattr(free_memory, "_GROUPS", ((tmp_path, *V2), (tmp_path / "none", *V2)))
    assert free_bytes() == free


def test_a_process_may_be_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = psutil.Process().memory_info().vms
    monkeypatch.setattr(resource, "getrlimit", lambda of: (taken // 2, taken))
    assert free_bytes() == 0


def test_of_an_accelerator_its_own_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended(limit=500):
        taken = torch.zeros(100, device=NAME)
        assert (free_bytes(), free_host_bytes()) == (100, 10_000)
        # What torch has reserved but does not use is free too.
        monkeypatch.setattr(torch.get_device_module(NAME), "memory_reserved", lambda *_: 430)
        assert free_bytes() == 130
        del taken


def test_on_the_cpu_the_machine_counts_though_there_is_an_accelerator() -> None:
    with pretended(limit=500), on_device("cpu"):
        assert free_bytes() == 10_000
