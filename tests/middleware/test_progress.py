from __future__ import annotations

import asyncio
import io
import sys
import threading

import modulink
import pytest

from birdbone.engine import Chain, announce, in_thread, run
from birdbone.errors import LinkError, SettingError
from birdbone.middleware import Progress, Timing


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _terminal_type(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


def watched(*row, stream):
    chain = Chain(*row)
    progress = Progress(stream=stream)
    chain.use(progress)
    return chain, progress


async def test_each_announced_label_has_a_bar_until_its_link_ends(links):
    screen = Terminal()
    left = []

    async def look(ctx):
        left.append(list(progress._screen.tasks))
        return ctx

    chain, progress = watched(links.add(amount=3), look, stream=screen)
    await run(chain)
    assert "add: ones" in screen.getvalue()
    assert "3/3" in screen.getvalue()
    assert left == [[]]
    assert not progress._screen.live.is_started


async def test_where_there_is_no_terminal_lines_are_written_now_and_then(links):
    screen = io.StringIO()
    chain = Chain(links.add(amount=3))
    chain.use(Progress(stream=screen, interval=0))
    await run(chain)
    assert screen.getvalue() == "add: ones, 1 of 3\nadd: ones, 2 of 3\nadd: ones, 3 of 3\n"
    seldom = io.StringIO()
    chain, _ = watched(links.add(amount=3), stream=seldom)
    await run(chain)
    assert seldom.getvalue() == ""
    with pytest.raises(SettingError, match="give 0 or more seconds"):
        Progress(interval=-1)


async def test_a_notebook_without_widgets_gets_lines(links):
    screen = io.StringIO()
    progress = Progress(stream=screen, interval=0)
    progress._screen.console.is_jupyter = True
    chain = Chain(links.add(amount=1))
    chain.use(progress)
    await run(chain)
    assert screen.getvalue() == "add: ones, 1 of 1\n"


async def test_colours_forced_by_the_environment_do_not_make_a_file_a_terminal(links, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    screen = io.StringIO()
    chain, _ = watched(links.add(amount=3), stream=screen)
    await run(chain)
    assert screen.getvalue() == ""


async def test_a_failed_link_leaves_the_screen_clean():
    async def fail(ctx):
        announce("halves", 1, 2)
        raise ValueError("no more")

    screen = Terminal()
    chain, progress = watched(fail, stream=screen)
    with pytest.raises(LinkError, match="no more"):
        await run(chain)
    assert "fail: halves" in screen.getvalue()
    assert progress._screen.tasks == []
    assert not progress._screen.live.is_started


async def test_on_standard_error_bars_move_and_other_lines_still_appear(links, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    chain = Chain(links.add(amount=3))
    chain.use(Progress())
    chain.use(Timing())
    await run(chain)
    assert sys.stderr is screen
    assert "3/3" in screen.getvalue()
    assert "add: 0." in screen.getvalue()


async def test_two_runs_at_once_share_the_screen_and_take_only_their_own_bars_away():
    screen = Terminal()
    both = threading.Barrier(2, timeout=30)
    first_is_done = asyncio.Event()
    left = []

    async def work(ctx):
        def announce_together():
            announce(ctx["label"], 1, 2)
            both.wait()

        await in_thread(announce_together)
        if ctx["label"] == "slow":
            await first_is_done.wait()
            left.extend(task.description for task in progress._screen.tasks)
        return ctx

    chain, progress = watched(work, stream=screen)

    async def quick():
        await run(chain, {"label": "quick"})
        first_is_done.set()

    await asyncio.gather(quick(), run(chain, {"label": "slow"}))
    assert left == ["work: slow"]
    assert progress._screen.tasks == []
    assert "work: quick" in screen.getvalue()


async def test_an_inner_links_end_leaves_the_outer_links_bar(links):
    left = []

    async def look(ctx):
        left.extend(task.description for task in progress._screen.tasks)
        return ctx

    async def wave(ctx):
        announce("waves", 1, 2)
        return await Chain(links.add(), look).run(ctx)

    chain, progress = watched(wave, stream=Terminal())
    await run(chain)
    assert left == ["wave: waves"]


async def test_many_threads_may_announce_at_once_and_markup_is_text():
    screen = Terminal()

    async def work(ctx):
        def each(worker):
            for done in range(20):
                announce(f"[bold]{worker}", done + 1, 20)

        await asyncio.gather(*(in_thread(each, worker) for worker in range(4)))
        return ctx

    chain, progress = watched(work, stream=screen)
    await run(chain)
    assert all(f"work: [bold]{worker}" in screen.getvalue() for worker in range(4))
    assert progress._screen.tasks == []


async def test_under_modulink_it_is_silent_and_harmless(links):
    screen = Terminal()
    chain = modulink.Chain(links.add(amount=3), links.plain)
    chain.use(Progress(stream=screen))
    result = await chain.run(modulink.Context())
    assert result["tally"] == 3
    assert screen.getvalue() == ""
