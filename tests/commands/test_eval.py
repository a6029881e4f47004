"""``birdbone eval``: both models on tasks, kept results, the gate, and refusals before any work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny_tasks
from tiny import tiny_checkpoint
from tiny_folders import written
from tiny_tasks import LmEval
from typer.testing import CliRunner, Result

from birdbone.cli import app
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model

RIGHT = {
    "sums": ([1, 1, 1, 1, 0, 1, 1, 1], [1, 1, 0, 1, 0, 1, 0, 1]),
    "facts": ([1, 0, 1, 1, 1, 0, 1, 1], [1, 0, 1, 1, 1, 0, 1, 1]),
}


def evaluate(*words: str) -> Result:
    return CliRunner().invoke(app, ["eval", *words])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An original, a light model with a record of it, and one without a record."""
    place = tmp_path_factory.mktemp("eval")
    dense = written(tiny_checkpoint(), place / "dense")
    for name in ("light", "plain"):
        written(tiny_checkpoint(seed=1), place / name)
    record(place / "light", str(dense), open_checkpoint(find_model(str(dense))).id)
    return place


def record(folder: Path, source: str, dense: str) -> None:
    steps = [{"link": "load", "settings": {"model": source, "dtype": "auto"}}]
    facts = {"birdbone": "0", "steps": steps, "dense": dense}
    (folder / "birdbone.json").write_text(json.dumps(facts))


@pytest.fixture
def lm_eval(monkeypatch: pytest.MonkeyPatch, models: Path) -> LmEval:
    monkeypatch.chdir(models)
    return tiny_tasks.install(monkeypatch, RIGHT)


def rows(done: Result) -> dict[str, Mapping[str, Any]]:
    (model,) = json.loads(done.stdout)["models"]
    return {each["task"]: each for each in model["recovery"]}


def test_the_folder_and_the_original_of_its_record_are_compared(lm_eval: LmEval) -> None:
    done = evaluate("light", "--tasks", "sums,facts", "--limit", "8", "--seed", "5", "--json")
    assert done.exit_code == 0, done.output
    found = rows(done)
    assert found["sums"]["recovery"] == pytest.approx(5 / 7)
    assert found["sums"]["recovery_error"] > 0
    assert (found["facts"]["difference"], found["facts"]["difference_error"]) == (0.0, 0.0)
    first, second = (request for request in lm_eval.asked if "model" in request)
    assert [Path(each["folder"]).name for each in (first, second)] == ["dense", "light"]
    same = ("tasks", "limit", "seed", "include", "batch_size", "max_length", "dtype", "device")
    assert {key: first[key] for key in same} == {key: second[key] for key in same}
    assert (first["limit"], first["seed"], first["max_length"]) == (8, 5, 64)


def test_the_table_has_both_scores_and_what_is_left(lm_eval: LmEval, tmp_path: Path) -> None:
    done = evaluate("light", "--tasks", "sums", "--out", str(tmp_path / "found.json"))
    table = " ".join(done.stdout.split())
    assert "sums, 8 samples acc 0.875 ± 0.125 0.625 ± 0.183 -0.250 ± 0.164 71.4% ± 18.3%" in table
    assert "lm-eval 0.4.13" in table
    document = json.loads((tmp_path / "found.json").read_text())
    assert document["models"][0]["light"][0]["metrics"][0]["values"] == RIGHT["sums"][1]


def test_kept_results_are_used_again_and_other_questions_are_not(
    lm_eval: LmEval, tmp_path: Path, models: Path
) -> None:
    run = ("--run", str(tmp_path / "run"), "--json")
    first = evaluate("light", "--tasks", "sums", *run)
    assert lm_eval.evaluated == [["sums"], ["sums"]]
    again = evaluate("light", "--tasks", "sums,facts", *run)
    assert lm_eval.evaluated[2:] == [["facts"], ["facts"]]
    assert rows(again)["sums"] == rows(first)["sums"]
    lm_eval._turns.clear()
    evaluate("light", "--tasks", "sums", "--limit", "4", *run)
    assert lm_eval.evaluated[4:] == [["sums"], ["sums"]]


def test_a_process_that_ends_keeps_the_tasks_before(lm_eval: LmEval, tmp_path: Path) -> None:
    run = ("--run", str(tmp_path / "run"))
    lm_eval.failing = "facts"
    done = evaluate("light", "--tasks", "sums,facts", *run)
    assert done.exit_code == 1
    assert "lm-eval in transformers cannot open" in done.stderr
    lm_eval.failing = None
    assert evaluate("light", "--tasks", "sums,facts", *run).exit_code == 0
    assert lm_eval.evaluated == [["sums", "facts"], ["facts"], ["sums", "facts"]]


def test_the_gate_is_the_exit_code(lm_eval: LmEval) -> None:
    assert evaluate("light", "--tasks", "sums", "--min-recovery", "0.7").exit_code == 0
    lm_eval._turns.clear()
    done = evaluate("light", "--tasks", "sums", "--min-recovery", "1.2")
    assert done.exit_code == 1
    assert "acc of sums fell from 0.875 to 0.625, a recovery of 71.43%" in done.stderr
    assert "71.4%" in done.stdout  # the table is printed all the same


def test_refused_before_a_model_is_opened(
    lm_eval: LmEval, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, message in (
        (("plain", "--tasks", "sums"), "no birdbone.json that names the model it was made from"),
        (("light", "--tasks", "nonsense"), "unknown task 'nonsense'"),
        (("light", "--tasks", " , "), "names no task"),
        (("none/of/it", "--tasks", "sums"), "not found"),
    ):
        done = evaluate(*words)
        assert done.exit_code == 1
        assert message in done.stderr
    assert not lm_eval.evaluated


def test_an_original_that_is_another_model_is_refused(
    lm_eval: LmEval, models: Path, tmp_path: Path
) -> None:
    folder = written(tiny_checkpoint(seed=1), tmp_path / "light")
    record(folder, "dense", "another id")
    done = evaluate(str(folder), "--tasks", "sums")
    assert "'dense' is not the model that" in done.stderr
    record(folder, "gone", "another id")
    done = evaluate(str(folder), "--tasks", "sums")
    assert "made from 'gone', which is not found here" in " ".join(done.stderr.split())
    assert evaluate(str(folder), "--tasks", "sums", "--source", "dense").exit_code == 0


def test_without_lm_eval_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    assert "birdbone[eval]" in evaluate("light", "--tasks", "sums").stderr
