from __future__ import annotations

import re

import modulink
import psutil
import pytest
import torch

from birdbone.contexts.cost import Cost
from birdbone.engine import Chain, run
from birdbone.errors import LinkError, ResourceError, SettingError
from birdbone.middleware import GpuMemory

NO_CUDA = "GpuMemory: no CUDA device here; watching this process's memory instead"


@pytest.fixture
def _without_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def _with_cuda(monkeypatch):
    """A device with 100 bytes free and 30 more that PyTorch holds without using them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 20)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**30)


def watched(*row, **settings):
    lines = []
    chain = Chain(*row)
    chain.use(GpuMemory(write=lines.append, **settings))
    return chain, lines


@pytest.mark.usefixtures("_without_cuda")
async def test_without_cuda_it_says_once_that_it_watches_the_process(links):
    chain, lines = watched(links.add(), links.plain)
    await run(chain)
    assert lines[0] == NO_CUDA
    assert [re.sub(r"[\d.]+ [MG]B", "N", line) for line in lines[1:]] == [
        "  add: peak N of process memory",
        "  plain: peak N of process memory",
    ]


@pytest.mark.usefixtures("_without_cuda")
async def test_the_peak_is_what_the_link_held(links):
    async def hold(ctx):
        held = torch.ones(256 * 2**20, dtype=torch.uint8)
        return {**ctx, "sum": int(held.sum())}

    chain, lines = watched(links.plain, hold, links.plain)
    await run(chain)
    if any("since the process began" in line for line in lines):
        pytest.skip("this system cannot reset a process's peak memory")
    found = [re.search(r"peak ([\d.]+) ([MG])B", line) for line in lines[1:]]
    peaks = [float(each[1]) * {"M": 1, "G": 1000}[each[2]] for each in found]
    # half of what was held: the rest allows for memory the process already had in hand
    assert peaks[1] > peaks[0] + 128
    assert peaks[2] < peaks[1] - 128


@pytest.mark.usefixtures("_without_cuda")
async def test_an_outer_peak_survives_the_inner_meters(links, monkeypatch):
    peaks = iter([10, 70, 5, 20, 15])

    class Meter:
        def stop(self):
            return Cost(0.0, next(peaks) * 2**20, "process")

    monkeypatch.setattr("birdbone.middleware.gpu_memory._Gauge.__init__", _gauge_with(Meter))
    chain, lines = watched(Chain(links.plain, links.plain, name="wave"))
    await run(chain)
    # readings: wave as a link opens and that link as it ends, twice; then wave as it ends
    assert lines[1:] == [
        "    plain: peak 73.4 MB of process memory",
        "    plain: peak 21.0 MB of process memory",
        "  wave: peak 73.4 MB of process memory",
    ]


def _gauge_with(meter):
    def init(self):
        self.meter, self.peak_bytes, self.kind = meter(), 0, ""

    return init


@pytest.mark.usefixtures("_without_cuda")
async def test_a_link_that_would_not_fit_is_refused_before_it_starts(links, monkeypatch):
    free = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    chain, _ = watched(links.large(num_bytes=900))
    await run(chain)
    chain, lines = watched(links.large(num_bytes=900), reserve_bytes=101)
    with pytest.raises(
        LinkError, match=r"'large' needs 900 bytes .* 1000 .* free in this machine's memory, of "
    ) as caught:
        await run(chain)
    assert isinstance(caught.value.__cause__, ResourceError)
    assert "smaller settings" in str(caught.value)
    assert lines == [NO_CUDA]


@pytest.mark.usefixtures("_with_cuda")
async def test_on_cuda_what_pytorch_holds_unused_counts_as_free(links):
    chain, lines = watched(links.large(num_bytes=130))
    await run(chain)
    assert lines == ["  large: peak 3.22 GB of CUDA memory"]
    chain, _ = watched(links.large(num_bytes=131))
    with pytest.raises(LinkError, match=r"needs 131 bytes .* 130 .* free on cuda:0"):
        await run(chain)


async def test_under_modulink_the_refusal_surfaces_and_plain_links_pass(links):
    lines = []
    chain = modulink.Chain(links.plain, links.large(num_bytes=2**60))
    chain.use(GpuMemory(write=lines.append))
    with pytest.raises(ResourceError, match="link 'large' needs"):
        await chain.run(modulink.Context())
    assert "  plain: peak" in lines[-1]


async def test_a_failed_link_has_its_peak_told(links):
    chain, lines = watched(links.broken)
    with pytest.raises(LinkError):
        await run(chain)
    assert lines[-1].startswith("  broken: peak")
    assert lines[-1].endswith("(failed)")


def test_a_negative_reserve_is_refused():
    with pytest.raises(SettingError, match=r"GpuMemory\(reserve_bytes=-1\): give 0 or more"):
        GpuMemory(reserve_bytes=-1)
