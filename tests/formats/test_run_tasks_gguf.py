"""llama.cpp as a model of lm-eval: what it scores, and a GGUF file in a real fresh process."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_gguf import gguf_checkpoint

from birdbone.formats.gguf_writer import write_gguf
from birdbone.formats.run_tasks_gguf import LlamaCppModel
from birdbone.formats.task_models import TaskModel, evaluate_model
from birdbone.journal.evaluations import KeptEvaluations
from birdbone.models.evaluation.task_evaluation import Task, TaskChoice, TaskRun, evaluate_folder
from birdbone.models.reading.sources import find_model
from birdbone.models.writing.folder import write_model

TASKS = Path(__file__).parents[1] / "tasks"


class Llama:
    """Says that a token is as probable as half to the power of it, and the even ones are greedy."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], int]] = []
        self.generated: dict[str, Any] = {}

    def tokens(self, text: str, *, special: bool = False) -> list[int]:
        return [0] * special + [ord(letter) - ord("a") for letter in text]

    def special_tokens(self) -> dict[str, str]:
        return {"bos": "", "eos": "e"}

    def prediction(self, before: list[int], token: int) -> tuple[float, bool]:
        self.asked.append((before, token))
        return token * math.log(0.5), token % 2 == 0

    def continuation(self, before: list[int], **more: Any) -> str:
        self.generated = {"before": before, **more}
        return "so be it"


def scored(before: Sequence[int], after: Sequence[int], length: int = 8) -> tuple[Any, Llama]:
    llama = Llama()
    model = LlamaCppModel(llama, length)
    return model._loglikelihood_tokens([(None, list(before), list(after))])[0], llama


def test_a_continuation_has_the_sum_of_its_tokens() -> None:
    (value, greedy), llama = scored([1, 2], [4, 6])
    assert value == pytest.approx(10 * math.log(0.5))
    assert greedy
    assert llama.asked == [([1, 2], 4), ([1, 2, 4], 6)]


def test_one_token_that_is_not_the_first_is_not_greedy() -> None:
    assert scored([1, 2], [4, 5])[0][1] is False


def test_what_is_too_long_loses_its_beginning() -> None:
    _, llama = scored(range(9), [4, 6], length=4)
    assert llama.asked == [([6, 7, 8], 4), ([6, 7, 8, 4], 6)]


def test_a_generation_stops_where_the_task_says() -> None:
    llama = Llama()
    request = SimpleNamespace(args=("abcdef", {"until": "\n", "max_gen_toks": 4}))
    assert LlamaCppModel(llama, 8).generate_until([request]) == ["so be it"]
    assert llama.generated == {"before": [2, 3, 4, 5], "count": 4, "stop": ["\n"]}


def test_sampling_is_refused() -> None:
    request = SimpleNamespace(args=("a", {"do_sample": True}))
    with pytest.raises(ValueError, match="decoded greedily"):
        LlamaCppModel(Llama(), 8).generate_until([request])


def test_the_token_before_a_text_is_one_that_the_file_has() -> None:
    assert LlamaCppModel(Llama(), 8).prefix_token_id == 4


def test_llama_cpp_scores_as_transformers_does(tmp_path: Path) -> None:
    """End to end, each in a fresh process: the same weights as a folder and as a GGUF file."""
    for package in ("lm_eval", "xllamacpp"):
        pytest.importorskip(package, reason="needs birdbone[eval] and birdbone[llama]")
    checkpoint = gguf_checkpoint("llama")
    (tmp_path / "folder").mkdir()
    write_model(checkpoint, tmp_path / "folder", max_shard_bytes=1 << 30)
    write_gguf(checkpoint, tmp_path / "model.gguf", kind="f32")
    choice = TaskChoice(("birdbone_arithmetic", "birdbone_prose"), (TASKS,), 2)
    tasks = [Task("birdbone_arithmetic", 2, "a"), Task("birdbone_prose", 2, "b")]
    run = TaskRun("float32", "cpu", 1, 48)

    async def both() -> tuple[list[Any], list[Any]]:
        folder: list[Any] = []
        await evaluate_folder(tmp_path / "folder", choice, (), run, folder.append, lambda *_: None)
        model = TaskModel("model", find_model(str(tmp_path / "model.gguf")), run)
        kept = KeptEvaluations(None)
        return folder, await evaluate_model(model, choice, tasks, "0", kept, lambda *_: None)

    for one, other in zip(*asyncio.run(both()), strict=True):
        assert one["samples"] == other["samples"]
        for metric, same in zip(one["metrics"], other["metrics"], strict=True):
            assert metric["metric"] == same["metric"]
            assert same["values"] == pytest.approx(metric["values"], rel=1e-3)
        assert "llama.cpp" in other["environment"]
