"""lm-eval itself in a fresh process: tasks from YAML files, what it refuses, and its scores."""

from __future__ import annotations

import asyncio
import json
import os
import runpy
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint
from tiny_folders import written
from transformers import AutoModelForCausalLM, AutoTokenizer

from birdbone.contexts.task_scores import task_scores
from birdbone.models.evaluation import fresh_process, standalone, task_evaluation
from birdbone.models.evaluation.task_evaluation import TaskChoice, TaskRun, evaluate_folder

TASKS = Path(__file__).parents[2] / "tasks"
LIMIT = 6


def choice(*names: str, **more: Any) -> TaskChoice:
    return TaskChoice(names, (TASKS,), LIMIT, **more)


@pytest.fixture(scope="module")
def looked_up(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What looking up each of several choices answers, all of them in one process."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed; pip install 'birdbone[eval]'")
    place = tmp_path_factory.mktemp("tasks")
    (place / "away.yaml").write_text(
        "task: away\ndataset_path: nobody/nothing\ntest_split: test\ndoc_to_text: a\n"
        "output_type: loglikelihood\ndoc_to_target: b\n"
    )
    (place / "broken.yaml").write_text("task: broken\ncustom_dataset: 3\n")
    choices = {
        "own": choice("birdbone_arithmetic", "birdbone_prose", seed=1),
        "same": choice("birdbone_arithmetic"),
        "file": TaskChoice((str(TASKS / "arithmetic.yaml"),), limit=LIMIT),
        "fewer": TaskChoice(("birdbone_arithmetic",), (TASKS,), 2),
        "unknown": choice("birdbone_aritmetic"),
        "away": TaskChoice(("away",), (place,)),
        "broken": TaskChoice(("broken",), (place,)),
        "nowhere": TaskChoice(("away",), (place / "none",)),
    }
    requests = {name: place / f"{name}.request" for name in choices}
    for name, path in requests.items():
        asked = {**choices[name].request(), "result": str(place / f"{name}.result")}
        path.write_text(json.dumps(asked))
    subprocess.run(
        [
            *fresh_process.interpreter()[:2],
            standalone.__file__,
            task_evaluation.PROGRAM,
            *requests.values(),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    return {name: json.loads((place / f"{name}.result").read_text()) for name in choices}


def test_own_tasks_are_found_without_a_network(looked_up: Mapping[str, Any]) -> None:
    found = looked_up["own"]["tasks"]
    assert [each["task"] for each in found] == ["birdbone_arithmetic", "birdbone_prose"]
    assert [each["num_samples"] for each in found] == [LIMIT, LIMIT]


def test_a_definition_is_that_of_the_task_and_its_samples(looked_up: Mapping[str, Any]) -> None:
    own, same, file, fewer = (
        looked_up[name]["tasks"][0]["definition"] for name in ("own", "same", "file", "fewer")
    )
    assert own == same == file
    assert fewer != own


def test_what_cannot_be_used_is_refused_with_the_fix(looked_up: Mapping[str, Any]) -> None:
    faults = {name: found.get("fault", found.get("error")) for name, found in looked_up.items()}
    assert "did you mean birdbone_arithmetic" in faults["unknown"]
    assert faults["away"].startswith("the data of task 'away' cannot be read: ")
    assert "--include" in faults["away"]
    assert faults["broken"].startswith("task 'broken' cannot be loaded: ")
    assert "does not exist; give a folder of YAML tasks" in faults["nowhere"]


def test_a_folder_is_scored_by_lm_eval_itself(tmp_path: Path) -> None:
    """End to end in a fresh process; the perplexity against the model's own logits."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed; pip install 'birdbone[eval]'")
    folder = written(tiny_checkpoint(max_position_embeddings=512), tmp_path / "model")
    found: list[Any] = []
    told: list[Any] = []
    asyncio.run(
        evaluate_folder(
            folder,
            choice("birdbone_arithmetic", "birdbone_prose"),
            (),
            TaskRun("float32", "cpu", 2, 512),
            found.append,
            lambda *words: told.append(words),
        )
    )
    sums, prose = map(task_scores, found)
    assert sums.num_samples == len(sums.samples) == LIMIT
    (accuracy,) = sums.metrics
    assert accuracy.scale == "mean"
    assert accuracy.score == sum(accuracy.values) / LIMIT
    perplexity, bits = prose.metrics
    assert (perplexity.scale, bits.scale) == ("perplexity", "bits")
    assert list(perplexity.values) == list(bits.values)
    assert not perplexity.higher_is_better
    assert told[-1] == ("tasks evaluated", 2, 2)
    own = [own_nats(folder, text) for text in texts()]
    assert list(bits.values) == pytest.approx(own, rel=1e-4)


def texts() -> list[str]:
    """The paragraphs that were scored."""
    return list(runpy.run_path(str(TASKS / "prose.py"))["paragraphs"]("torch"))[:LIMIT]


def own_nats(folder: Path, text: str) -> float:
    """Negative log-likelihood of a text after the token that begins one."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(text)]])
    assert tokens.shape[1] < 512
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        predicted = model(tokens[:, :-1]).logits.double().log_softmax(-1)
    return -float(predicted.gather(-1, tokens[:, 1:, None]).sum())
