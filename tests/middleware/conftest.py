"""Small chains to watch, and a reader of the files W&B writes when it is offline."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, TypedDict

import pytest
from offline_wandb import close_wandb
from pydantic import Field

from birdbone.contexts.forecast import Forecast
from birdbone.engine import announce, in_thread, link

_BLOCK = 32 * 1024
_FILE_HEADER, _CHUNK_HEADER = 7, 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


class Nothing(TypedDict):
    pass


class Tallied(TypedDict):
    tally: int


@link
async def add(
    ctx: Nothing, *, amount: Annotated[int, Field(ge=0)] = 1, hub_token: str = ""
) -> Tallied:
    """Add to the tally, announcing each one from a worker thread."""

    def work() -> int:
        for done in range(amount):
            announce("ones", done + 1, amount)
        return ctx.get("tally", 0) + amount

    tally = await in_thread(work)
    return {"tally": tally, "metrics": {"tally": tally, "word": "done", "absent": None}}


@link
async def large(ctx: Nothing, *, num_bytes: int = 0) -> Nothing:
    """Do nothing, after stating how much memory that takes."""
    return {}


@large.forecast
def _stated(ctx: Nothing, settings: Any) -> Forecast:
    return Forecast(memory_bytes=settings.num_bytes)


@link
async def publish(ctx: Nothing) -> Nothing:
    """Leave behind a saved folder's figures."""
    figures = {"dense": {"bytes": 4.0, "perplexity": 10.0}, "light": {"bytes": 1.0}}
    return {"saved": SimpleNamespace(figures=figures)}


async def plain(ctx: Any) -> Any:
    """A link that knows nothing of bird-bone."""
    return {**ctx, "plain": True}


async def broken(ctx: Any) -> Any:
    """A link that fails with a secret on its lips."""
    raise ValueError("no entry with hf_abcdefghijklmnop")


@pytest.fixture
def links() -> SimpleNamespace:
    return SimpleNamespace(add=add, large=large, publish=publish, plain=plain, broken=broken)


@dataclass
class WandbFile:
    """What one offline run file says."""

    run: dict[str, str] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    artifacts: list[Any] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    kinds: set[str] = field(default_factory=set)
    raw: bytes = b""


def _records(data: bytes) -> Iterator[bytes]:
    """The records of a run file: chunks of (crc, length, kind), none crossing a 32 KiB block."""
    place, parts = _FILE_HEADER, []
    while place + _CHUNK_HEADER <= len(data):
        if _BLOCK - place % _BLOCK < _CHUNK_HEADER:
            place += _BLOCK - place % _BLOCK
            continue
        length = int.from_bytes(data[place + 4 : place + 6], "little")
        kind = data[place + 6]
        assert kind in (_FULL, _FIRST, _MIDDLE, _LAST)
        parts.append(data[place + _CHUNK_HEADER : place + _CHUNK_HEADER + length])
        place += _CHUNK_HEADER + length
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
            parts = []


def _items(items: Any) -> dict[str, Any]:
    return {"/".join(each.nested_key) or each.key: json.loads(each.value_json) for each in items}


def _read(path: Path) -> WandbFile:
    from wandb.proto import wandb_internal_pb2

    found = WandbFile(raw=path.read_bytes())
    for data in _records(found.raw):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        found.kinds.add(kind)
        if kind == "run":
            found.run = {
                "project": record.run.project,
                "name": record.run.display_name,
                "host": record.run.host,
            }
            found.config |= _items(record.run.config.update)
            found.tags = list(record.run.tags)
        elif kind == "config":
            found.config |= _items(record.config.update)
        elif kind == "history":
            found.history.append(_items(record.history.item))
        elif kind == "summary":
            found.summary |= _items(record.summary.update)
        elif kind == "request" and record.request.HasField("log_artifact"):
            found.artifacts.append(record.request.log_artifact.artifact)
        elif kind == "artifact":
            found.artifacts.append(record.artifact)
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


@pytest.fixture
def read_wandb(tmp_path: Path) -> Callable[[], list[WandbFile]]:
    """Reads every run file under the test's folder."""

    def read() -> list[WandbFile]:
        close_wandb()
        runs = (tmp_path / "w" / "wandb").glob("offline-run-*/run-*.wandb")
        return [_read(path) for path in sorted(runs)]

    return read
