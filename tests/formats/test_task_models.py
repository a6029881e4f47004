"""What the kept results of a model depend on, and which runtime it has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_tasks
from tiny import tiny_checkpoint
from tiny_folders import written
from tiny_gguf import gguf_checkpoint
from tiny_tasks import task_result

from birdbone.errors import MissingExtraError
from birdbone.formats.gguf_writer import write_gguf
from birdbone.formats.task_models import TaskModel, check_runtime, evaluate_model
from birdbone.journal.evaluations import KeptEvaluations
from birdbone.models.evaluation.task_evaluation import Task, TaskChoice, TaskRun
from birdbone.models.reading.sources import find_model

RUN = TaskRun("float32", "cpu", 1, 64)


def of(path: Path) -> TaskModel:
    return TaskModel(path.name, find_model(str(path)), RUN)


def test_a_folder_is_known_by_weights_config_and_tokenizer(tmp_path: Path) -> None:
    folder = written(tiny_checkpoint(), tmp_path / "model")
    before = of(folder).identity()
    assert of(folder.rename(tmp_path / "moved")).identity() == before
    moved = tmp_path / "moved"
    for record in ("birdbone.json", "proof.json", "README.md"):
        (moved / record).write_text("{}")
    assert of(moved).identity() == before
    config = moved / "config.json"
    config.write_text(config.read_text() + "\n")
    assert of(moved).identity() != before
    assert replace(of(moved), run=replace(RUN, dtype="bfloat16")).identity() != of(moved).identity()


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed")
    path = tmp_path / "a.gguf"
    write_gguf(gguf_checkpoint("llama"), path, kind="f32")
    before = of(path).identity()
    assert of(path).identity() == before
    path.write_bytes(path.read_bytes() + b"\0")
    assert of(path).identity() != before


def test_an_original_that_was_loaded_runs_in_transformers(tmp_path: Path) -> None:
    write_gguf(gguf_checkpoint("llama"), tmp_path / "a.gguf", kind="f32")
    assert of(tmp_path / "a.gguf").in_llama_cpp
    assert not replace(of(tmp_path / "a.gguf"), checkpoint=gguf_checkpoint("llama")).in_llama_cpp


def test_a_file_without_its_runtime_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(gguf_checkpoint("llama"), tmp_path / "a.gguf", kind="f32")
    monkeypatch.setitem(__import__("sys").modules, "xllamacpp", None)
    with pytest.raises(MissingExtraError, match=r"birdbone\[llama\]"):
        check_runtime(of(tmp_path / "a.gguf"))
    check_runtime(of(written(tiny_checkpoint(), tmp_path / "folder")))


async def test_a_model_in_memory_is_written_and_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm_eval = tiny_tasks.install(monkeypatch, {"sums": ([1, 0, 1],)})
    write_gguf(gguf_checkpoint("llama"), tmp_path / "a.gguf", kind="f32")
    model = replace(of(tmp_path / "a.gguf"), checkpoint=gguf_checkpoint("llama"))
    choice, tasks = TaskChoice(("sums",)), [Task("sums", 3, "abc")]
    kept = KeptEvaluations(None)
    for _ in range(2):  # the second time from what is kept
        found = await evaluate_model(model, choice, tasks, "0.4.13", kept, lambda *_: None)
        assert found == [task_result([1, 0, 1])]
    (request,) = lm_eval.asked
    assert request["folder"] != str(model.source.folder)
    assert request["dtype"] == "float32"
