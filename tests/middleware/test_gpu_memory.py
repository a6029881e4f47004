from __future__ import annotations

import re

import modulink
import psutil
import pytest
import torch
from pretend_device import NAME, pretended

from birdbone.checkpoints.placement import Placement, on_device
from birdbone.contexts.cost import Cost
from birdbone.engine import Chain, run
from birdbone.errors import LinkError, ResourceError, SettingError
from birdbone.middleware import GpuMemory

NO_DEVICE = "GpuMemory: no accelerator here; watching this process's memory instead"


@pytest.fixture
def _on_cpu():
    with on_device("cpu"):
        yield


@pytest.fixture
def _on_accelerator():
    """A device with 130 bytes."""
    with pretended(limit=130):
        yield


def watched(*row, **settings):
    lines = []
    chain = Chain(*row)
    chain.use(GpuMemory(write=lines.append, **settings))
    return chain, lines


@pytest.mark.usefixtures("_on_cpu")
async def test_without_cuda_it_says_once_that_it_watches_the_process(links):
    chain, lines = watched(links.add(), links.plain)
    await run(chain)
    assert lines[0] == NO_DEVICE
    assert [re.sub(r"[\d.]+ [MG]B", "N", line) for line in lines[1:]] == [
        "  add: peak N of process memory",
        "  plain: peak N of process memory",
    ]


@pytest.mark.usefixtures("_on_cpu")
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


@pytest.mark.usefixtures("_on_cpu")
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


@pytest.mark.usefixtures("_on_cpu")
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
    assert lines == [NO_DEVICE]


@pytest.mark.usefixtures("_on_accelerator")
async def test_on_an_accelerator_its_own_memory_counts(links):
    async def hold(ctx):
        return {**ctx, "sum": int(torch.ones(100, dtype=torch.uint8, device=NAME).sum())}

    chain, lines = watched(links.large(num_bytes=130), hold)
    await run(chain)
    assert lines == [
        "  large: peak 0.0 MB of accelerator memory",
        "  hold: peak 0.0 MB of accelerator memory",
    ]
    chain, _ = watched(links.large(num_bytes=131))
    with pytest.raises(LinkError, match=rf"needs 131 bytes .* 130 .* free on {NAME}:0"):
        await run(chain)


@pytest.mark.usefixtures("_on_accelerator")
async def test_the_device_in_the_context_is_watched(links):
    chain, lines = watched(links.plain)
    await run(chain, {"placement": Placement(device="cpu")})
    assert lines[0] == NO_DEVICE


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
