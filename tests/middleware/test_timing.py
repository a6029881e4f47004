from __future__ import annotations

import asyncio
import re

import modulink
import pytest

from birdbone.engine import Chain, run
from birdbone.errors import LinkError
from birdbone.middleware import Timing


def shapes(lines):
    return [re.sub(r"\d+\.\d\d s", "N s", line) for line in lines]


async def test_one_line_a_link_and_a_total(links):
    lines = []
    chain = Chain(links.add(), links.plain)
    chain.use(Timing(write=lines.append))
    await run(chain)
    assert shapes(lines) == ["  add: N s", "  plain: N s", "chain: N s in all"]


async def test_links_of_an_inner_chain_are_indented_within_it(links):
    lines = []
    chain = Chain(Chain(links.add(), links.add(), name="wave"), links.plain)
    chain.use(Timing(write=lines.append))
    await run(chain)
    assert shapes(lines)[:4] == ["    add: N s", "    add: N s", "  wave: N s", "  plain: N s"]


async def test_the_outer_seconds_hold_the_inner_ones(links, monkeypatch):
    ticks = iter(range(100))
    monkeypatch.setattr("birdbone.middleware.timing.time.perf_counter", lambda: float(next(ticks)))
    lines = []
    chain = Chain(Chain(links.plain, name="wave"))
    chain.use(Timing(write=lines.append))
    # each clock reading is one second: the wave is read around its link's two readings
    await run(chain)
    assert lines[:2] == ["    plain: 1.00 s", "  wave: 3.00 s"]


async def test_a_failed_link_and_its_run_say_so(links):
    lines = []
    chain = Chain(links.broken)
    chain.use(Timing(write=lines.append))
    with pytest.raises(LinkError):
        await run(chain)
    assert shapes(lines) == ["  broken: N s (failed)", "chain: N s in all (failed)"]


async def test_two_of_them_on_one_chain_and_two_runs_of_one_do_not_mix(links):
    first, second = [], []
    chain = Chain(links.add(amount=20), links.plain)
    chain.use(Timing(write=first.append))
    chain.use(Timing(write=second.append))
    await asyncio.gather(run(chain), run(chain))
    once = ["  add: N s", "  plain: N s", "chain: N s in all"]
    assert sorted(shapes(first)) == sorted(shapes(second)) == sorted(once * 2)


async def test_by_default_lines_go_to_standard_error(links, capsys):
    chain = modulink.Chain(links.plain)
    chain.use(Timing())
    await chain.run(modulink.Context())
    assert shapes(capsys.readouterr().err.splitlines()) == ["  plain: N s"]
