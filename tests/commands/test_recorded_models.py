"""The record of a saved folder, and of the last run of a run folder."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from recorded import record

from birdbone.commands.recorded_models import recorded_model
from birdbone.contexts.cost import Cost
from birdbone.contexts.flow import Empty
from birdbone.contexts.steps import Step
from birdbone.engine import Chain, link, run
from birdbone.errors import DataError, RunFolderError
from birdbone.journal import RunFolder


@link
async def shrink(ctx: Empty, *, amount: int = 1) -> dict[str, Any]:
    return {"metrics": {"amount": amount}}


@link
async def save(ctx: Empty, *, num_bytes: int) -> dict[str, Any]:
    return {"metrics": {"weight_bytes": num_bytes}}


def run_folder(path: Path, *chains: Chain) -> Path:
    """A folder in which the chains ran, one after the other."""
    for chain in chains:
        with RunFolder(path) as store:
            asyncio.run(run(chain, store=store))
    return path


def test_a_saved_folder_has_its_own_record(tmp_path: Path) -> None:
    (tmp_path / "birdbone.json").write_text(json.dumps(record()))
    found = recorded_model(tmp_path)
    assert found.name == tmp_path.name
    assert found.facts == record()


def test_a_run_folder_has_the_links_of_its_last_run_in_its_order(tmp_path: Path) -> None:
    chains = [Chain(shrink(amount=amount), shrink(amount=5)) for amount in (1, 2)]  # 5 is reused
    found = recorded_model(run_folder(tmp_path / "light", *chains))
    assert found.name == "light"
    assert [step["metrics"]["amount"] for step in found.steps()] == [2, 5]
    assert found.figures("light") == {}  # nothing was saved


def test_the_figures_of_a_run_are_those_of_its_last_save(tmp_path: Path) -> None:
    chain = Chain(save(num_bytes=8), shrink(), save(num_bytes=5))
    found = recorded_model(run_folder(tmp_path / "light", chain))
    assert found.figures("light") == {"weight_bytes": 5}


def test_links_inside_a_link_are_recorded_before_it(tmp_path: Path) -> None:
    @link
    async def search(ctx: Empty) -> dict[str, Any]:
        inner = Step("candidate", {}, Cost(2.5, 1, "process"), within="search")
        return {"history": (*ctx.get("history", ()), inner)}

    found = recorded_model(run_folder(tmp_path / "light", Chain(search())))
    steps = [(step["link"], step["within"]) for step in found.facts["steps"]]
    assert steps == [("candidate", "search"), ("search", None)]


def test_a_run_folder_in_which_nothing_finished_is_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run"):
        pass
    with pytest.raises(RunFolderError, match="has no finished link; let the run finish one"):
        recorded_model(tmp_path / "run")


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no birdbone\.json that can be read"):
        recorded_model(tmp_path)
