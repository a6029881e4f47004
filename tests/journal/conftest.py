"""A run folder of two runs, made once; every test has a copy of its own."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any, TypedDict

import pytest
import torch
from tiny import tiny_checkpoint

from birdbone.checkpoints import Checkpoint
from birdbone.contexts.flow import Empty
from birdbone.engine import Chain, link, run
from birdbone.journal import Journal, RunFolder


class Seeded(TypedDict):
    seed: int


class Loaded(TypedDict):
    checkpoint: Checkpoint


class Grown(TypedDict):
    sizes: dict[str, Any]


@link
async def begin(ctx: Empty, *, seed: int = 0) -> Seeded:
    return {"seed": seed}


@link
async def make(ctx: Seeded) -> Loaded:
    return {"checkpoint": tiny_checkpoint(seed=ctx["seed"], num_hidden_layers=1)}


@link
async def grow(ctx: Loaded, *, by: float = 1.0) -> Grown:
    return {"sizes": {"tensor": torch.full((3,), by), "pair": (1, by)}}


@pytest.fixture(scope="session")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps 1 begin, 2 make and 3 grow; then 1 and 2 again, and 4, grow by more."""
    path = tmp_path_factory.mktemp("twice") / "run"
    for by in (1.0, 2.0):
        with RunFolder(path) as store:
            asyncio.run(run(Chain(begin(), make(), grow(by=by)), store=store))
    return path


@pytest.fixture
def journal(twice: Path, tmp_path: Path) -> Journal:
    shutil.copytree(twice, tmp_path / "run")
    return Journal(tmp_path / "run")
