"""Tasks in the link validate: the original once, the gate, work in progress, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_tasks
from tiny import tiny_checkpoint
from tiny_contexts import calibrated
from tiny_tasks import LmEval

from birdbone.engine import Chain, run
from birdbone.errors import LinkError
from birdbone.journal import RunFolder
from birdbone.links import save, validate
from birdbone.links.validating.tasks import task_choice, task_files, try_tasks
from birdbone.reports.html_report.page import report_page
from birdbone.reports.html_report.records import read_model

RIGHT = {"sums": ([1, 1, 1, 1, 0, 1, 1, 1], [1, 1, 0, 1, 0, 1, 0, 1], [1, 1, 1, 1, 0, 1, 0, 1])}


@pytest.fixture
def lm_eval(monkeypatch: pytest.MonkeyPatch) -> LmEval:
    return tiny_tasks.install(monkeypatch, RIGHT)


def changed(ctx: dict[str, Any], seed: int = 1) -> dict[str, Any]:
    """The same with another model beside the dense one."""
    head = tiny_checkpoint(seed=seed).tensors["lm_head.weight"]
    return {**ctx, "checkpoint": ctx["dense"].evolve({"lm_head.weight": head})}


async def test_the_original_is_evaluated_once_for_several_models(lm_eval: LmEval) -> None:
    link = validate(tasks=("sums",), limit=8)
    first = await run(link, changed(calibrated(tiny_checkpoint())))
    second = await run(link, changed(first, seed=2))
    assert [len(each) for each in lm_eval.evaluated] == [1, 1, 1]
    (one,), (other,) = first["verdict"].tasks, second["verdict"].tasks
    assert (one.dense, one.light, other.dense, other.light) == (7 / 8, 5 / 8, 7 / 8, 6 / 8)
    metrics = second["history"][-1].metrics
    assert metrics["worst_recovery"] == pytest.approx(6 / 7)
    assert metrics["tasks"]["sums acc"]["light"] == 6 / 8
    assert lm_eval.asked[0]["limit"] == 8


async def test_an_unchanged_model_is_not_evaluated_twice(lm_eval: LmEval) -> None:
    after = await run(validate(tasks=("sums",)), calibrated(tiny_checkpoint()))
    assert len(lm_eval.asked) == 1
    assert after["verdict"].tasks[0].recovery == 1.0


async def test_other_tasks_are_not_answered_by_old_results(lm_eval: LmEval) -> None:
    first = await run(validate(tasks=("sums",)), calibrated(tiny_checkpoint()))
    await run(validate(tasks=("sums",), limit=3), first)
    assert [each["limit"] for each in lm_eval.asked] == [None, 3]


async def test_the_gate_stops_what_lost_too_much(lm_eval: LmEval) -> None:
    ctx = changed(calibrated(tiny_checkpoint()))
    found = (await run(validate(tasks=("sums",)), ctx))["verdict"].tasks[0]
    edge = found.recovery + 2 * found.recovery_error
    lm_eval._turns.clear()
    await run(validate(tasks=("sums",), min_recovery=edge - 0.01), ctx)
    lm_eval._turns.clear()
    with pytest.raises(LinkError, match=r"acc of sums fell .* min_recovery=.*; prune less"):
        await run(validate(tasks=("sums",), min_recovery=edge + 0.01), ctx)


async def test_an_interrupted_link_goes_on_with_the_next_task(
    lm_eval: LmEval, tmp_path: Path
) -> None:
    lm_eval.right = {**RIGHT, "facts": RIGHT["sums"]}
    ctx = changed(calibrated(tiny_checkpoint()))
    link = validate(tasks=("sums", "facts"))
    lm_eval.failing = "facts"
    with RunFolder(tmp_path) as folder, pytest.raises(LinkError, match="cannot open and run"):
        await run(link, ctx, store=folder)
    lm_eval.failing = None
    with RunFolder(tmp_path) as folder:
        after = await run(link, ctx, store=folder)
    assert lm_eval.evaluated == [["sums", "facts"], ["facts"], ["sums", "facts"]]
    with RunFolder(tmp_path) as folder:
        replayed = await run(link, ctx, store=folder)
    assert replayed["verdict"].tasks == after["verdict"].tasks
    assert len(lm_eval.asked) == 3


@pytest.mark.parametrize("setting", [{"limit": 4}, {"min_recovery": 0.9}])
async def test_settings_of_tasks_without_tasks_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(LinkError, match=r"is of tasks, and none are given; give tasks"):
        await run(validate(**setting), calibrated(tiny_checkpoint()))


def test_a_trial_names_what_is_unknown(lm_eval: LmEval) -> None:
    try_tasks(task_choice(("sums",), None))
    with pytest.raises(ValueError, match="unknown task 'nonsense'"):
        try_tasks(task_choice(("nonsense",), None))


def test_an_edited_task_file_is_another_task(tmp_path: Path) -> None:
    task, data = tmp_path / "own.yaml", tmp_path / "own.jsonl"
    task.write_text("task: own\n")
    before = task_files((str(task), "sums"))
    data.write_text("{}\n")
    after = task_files((str(task), "sums"))
    assert after != before
    assert task_files(("sums",)).keys() == {"lm-eval"}


async def test_a_saved_model_shows_its_tasks(lm_eval: LmEval, tmp_path: Path) -> None:
    ctx = changed(calibrated(tiny_checkpoint()))
    link = save(path=str(tmp_path / "light"), compare=False)
    await run(Chain(validate(tasks=("sums",)), link), ctx)
    card = (tmp_path / "light" / "README.md").read_text()
    assert "Tasks of lm-eval" in card
    assert "name: acc, 8 samples, lm-eval\n      value: 0.625" in card
    assert "| sums | 8 | acc | 0.875 ± 0.125 | 0.625 ± 0.183 |" in card
    page = report_page([read_model(tmp_path / "light")])
    assert "<td>sums acc</td><td>0.875 ± 0.125</td><td>0.625 ± 0.183</td>" in page


async def test_tasks_of_another_model_are_not_shown(lm_eval: LmEval, tmp_path: Path) -> None:
    after = await run(validate(tasks=("sums",)), changed(calibrated(tiny_checkpoint())))
    later = changed({**after, "heldout": after["heldout"]}, seed=3)
    await run(save(path=str(tmp_path / "light"), compare=False), later)
    assert "Tasks of lm-eval" not in (tmp_path / "light" / "README.md").read_text()
