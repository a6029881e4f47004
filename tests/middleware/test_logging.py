from __future__ import annotations

import asyncio
import contextlib
import io
import json

import modulink
import pytest
import structlog

from birdbone.engine import Chain, run
from birdbone.errors import LinkError, SettingError
from birdbone.middleware import Logging


async def logged(chain, ctx=None, **settings):
    stream = io.StringIO()
    chain.use(Logging(renderer="json", stream=stream, **settings))
    with contextlib.suppress(LinkError):
        await chain.run(modulink.Context(ctx or {}))
    return [json.loads(line) for line in stream.getvalue().splitlines()]


async def test_the_events_of_a_run(links):
    events = await logged(Chain(links.add(amount=2, hub_token="open-sesame"), links.plain))
    assert [(each["event"], each.get("link"), each["level"]) for each in events] == [
        ("link.started", "add", "info"),
        ("link.finished", "add", "info"),
        ("link.started", "plain", "info"),
        ("link.finished", "plain", "info"),
        ("run.ended", None, "info"),
    ]
    assert events[0]["settings"] == {"amount": 2, "hub_token": "[redacted]"}
    assert events[1]["metrics"] == {"tally": 2, "word": "done", "absent": None}
    assert "metrics" not in events[3]
    assert all(each["seconds"] >= 0 for each in events if each["event"] != "link.started")
    assert events[-1]["chain"] == "chain"
    assert events[-1]["outcome"] == "finished"
    assert len({each["run"] for each in events}) == 1


async def test_progress_is_logged_at_level_debug_only(links):
    assert "link.progress" not in {each["event"] for each in await logged(Chain(links.add()))}
    events = await logged(Chain(links.add(amount=2)), level="debug")
    told = [each for each in events if each["event"] == "link.progress"]
    assert [(each["label"], each["done"], each["total"]) for each in told] == [
        ("ones", 1, 2),
        ("ones", 2, 2),
    ]
    assert {each["level"] for each in told} == {"debug"}


async def test_a_failure_tells_its_error_without_secrets(links):
    *_, failed, ended = await logged(Chain(links.broken, name="trial"))
    assert (failed["event"], failed["level"]) == ("link.failed", "error")
    assert failed["error"] == "no entry with [redacted]"
    assert (ended["event"], ended["chain"], ended["outcome"]) == ("run.ended", "trial", "failed")


async def test_metrics_of_an_inner_link_are_not_told_again_of_its_chain(links):
    events = await logged(Chain(Chain(links.add(), name="wave")))
    finished = [each for each in events if each["event"] == "link.finished"]
    assert [(each["link"], "metrics" in each) for each in finished] == [
        ("add", True),
        ("wave", False),
    ]


async def test_two_runs_at_once_can_be_told_apart(links):
    stream = io.StringIO()
    chain = Chain(links.add(amount=20), links.plain)
    chain.use(Logging(renderer="json", stream=stream))
    await asyncio.gather(run(chain), run(chain))
    runs = {}
    for event in map(json.loads, stream.getvalue().splitlines()):
        runs.setdefault(event["run"], []).append(event["event"])
    one = ["link.started", "link.finished", "link.started", "link.finished", "run.ended"]
    assert list(runs.values()) == [one, one]


async def test_under_modulink_links_are_logged(links):
    events = await logged(modulink.Chain(links.add(), links.plain))
    assert [each["event"] for each in events] == ["link.started", "link.finished"] * 2
    assert events[1]["metrics"]["tally"] == 1


async def test_the_console_renderer_writes_plain_lines_to_standard_error(links, capsys):
    chain = Chain(links.add())
    chain.use(Logging())
    await run(chain)
    first = capsys.readouterr().err.splitlines()[0]
    assert "link.started" in first
    assert "link=add" in first
    assert "\x1b[" not in first


async def test_structlogs_global_set_up_is_neither_used_nor_changed(links):
    caught = []

    def catch(logger, name, event):
        caught.append(event)
        raise structlog.DropEvent

    structlog.configure(processors=[catch])
    try:
        events = await logged(Chain(links.add()))
        assert structlog.get_config()["processors"] == [catch]
    finally:
        structlog.reset_defaults()
    assert len(events) == 3
    assert caught == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"renderer": "jsn"}, "Logging has no renderer 'jsn'; did you mean 'json'"),
        ({"level": "loud"}, "Logging has no level 'loud'; known: debug, error, info, warning"),
    ],
)
def test_unknown_settings_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        Logging(**settings)
