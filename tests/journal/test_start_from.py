"""A run folder with start_from: earlier links are replayed and never run, the rest runs again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

import pytest

from birdbone.contexts.flow import Empty
from birdbone.engine import Chain, link, run
from birdbone.errors import LinkError
from birdbone.journal import Journal, RunFolder, keys


class Number(TypedDict):
    number: int


class Doubled(TypedDict):
    doubled: int


ran: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    ran.clear()


@link
async def start(ctx: Empty, *, number: int = 1) -> Number:
    ran.append("start")
    return {"number": number}


@link
async def double(ctx: Number, *, times: int = 2) -> Doubled:
    ran.append("double")
    return {"doubled": ctx["number"] * times}


@link
async def last(ctx: Doubled, *, fails: bool = False) -> Empty:
    ran.append("last")
    if fails:
        raise ValueError("no room")
    return {}


async def kept(
    folder: Path, chain: Chain, start_from: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Run a chain with a run folder; the result, and what the folder told."""
    lines: list[str] = []
    with RunFolder(folder, tell=lines.append, start_from=start_from) as store:
        return await run(chain, {}, store=store), lines


def whole(**last_settings: Any) -> Chain:
    return Chain(start(), double(), last(**last_settings))


async def test_the_named_link_and_those_after_it_run_again(tmp_path: Path) -> None:
    await kept(tmp_path, whole())
    ran.clear()
    _, lines = await kept(tmp_path, whole(), "double")
    assert ran == ["double", "last"]
    assert lines == []


async def test_only_what_failed_is_run(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="no room"):
        await kept(tmp_path, whole(fails=True))
    ran.clear()
    await kept(tmp_path, whole(), "last")
    assert ran == ["last"]
    assert [each.step.link for each in Journal(tmp_path).steps()] == ["start", "double", "last"]


async def test_results_of_another_version_are_replayed_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kept(tmp_path, whole())
    newer = {**keys._versions(), "torch": "99.0"}
    monkeypatch.setattr(keys, "_versions", lambda: newer)
    ran.clear()
    result, lines = await kept(tmp_path, whole(), "last")
    assert ran == ["last"]
    assert result["doubled"] == 2
    assert lines[0].startswith("start is replayed from step 1, although torch is 99.0, was ")
    assert lines[1].startswith("double is replayed from step 2, although torch is 99.0, was ")


async def test_an_earlier_link_is_refused_rather_than_run(tmp_path: Path) -> None:
    await kept(tmp_path, whole())
    ran.clear()
    changed = Chain(start(number=5), double(), last())
    with pytest.raises(LinkError, match=r"no result of start .* number is 5, was 1") as refused:
        await kept(tmp_path, changed, "last")
    assert "leave --from out to run start again" in str(refused.value)
    with pytest.raises(LinkError, match=r"no result of start .*none is in the folder"):
        await kept(tmp_path / "other", whole(), "last")
    assert ran == []


async def test_a_damaged_result_is_refused_rather_than_run(tmp_path: Path) -> None:
    await kept(tmp_path, whole())
    first = Journal(tmp_path).steps()[0]
    Journal(tmp_path).outcome_path(first.key).write_bytes(b"{}")
    ran.clear()
    with pytest.raises(LinkError, match="stored result of start cannot be replayed"):
        await kept(tmp_path, whole(), "last")
    assert ran == []


async def test_a_later_run_replays_what_ran_again(tmp_path: Path) -> None:
    await kept(tmp_path, whole())
    await kept(tmp_path, whole(), "double")
    ran.clear()
    await kept(tmp_path, whole())
    assert ran == []
