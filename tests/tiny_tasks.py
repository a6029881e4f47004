"""Results of tasks as lm-eval's fresh process returns them, and a stand-in for that process."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from birdbone.contexts.task_scores import TaskScores, task_scores
from birdbone.errors import ProofError
from birdbone.models.evaluation import task_evaluation


def task_result(
    right: Sequence[int], task: str = "sums", *, definition: str = "abc", metric: str = "acc"
) -> dict[str, Any]:
    """One model on one task, by which samples it has right (1) and wrong (0)."""
    return {
        "task": task,
        "definition": definition,
        "num_samples": len(right),
        "num_fewshot": 0,
        "samples": [f"sample {place}" for place in range(len(right))],
        "metrics": [
            {
                "metric": metric,
                "higher_is_better": True,
                "score": sum(right) / len(right),
                "scale": "mean",
                "values": [float(each) for each in right],
                "weights": [1.0] * len(right),
            }
        ],
        "lm_eval": "0.4.13",
        "environment": {"transformers": "5", "device": "cpu"},
    }


def perplexity_result(
    nats: Sequence[float], words: Sequence[float], task: str = "prose"
) -> dict[str, Any]:
    """One model on one text, by negative log-likelihood and number of words of each document."""
    import math

    found = task_result([0] * len(nats), task, metric="word_perplexity")
    metric = found["metrics"][0]
    metric |= {"higher_is_better": False, "scale": "perplexity", "values": list(nats)}
    metric |= {"weights": list(words), "score": math.exp(sum(nats) / sum(words))}
    return found


def scores(right: Sequence[int], task: str = "sums", **more: Any) -> TaskScores:
    """The same as the records that contexts carry."""
    return task_scores(task_result(right, task, **more))


class LmEval:
    """Stands in for the fresh process of lm-eval, and notes what it is asked.

    Attributes:
        right: which samples a model has right, by task; of the original and of the light model in
            the order they are asked.
        asked: each request.
        failing: name of a task at which the process ends.
    """

    def __init__(self, right: Mapping[str, Sequence[Sequence[int]]]) -> None:
        self.right = right
        self.asked: list[dict[str, Any]] = []
        self.failing: str | None = None
        self._turns: dict[str, int] = {}

    @property
    def evaluated(self) -> list[list[str]]:
        """The tasks that were evaluated, by process."""
        return [
            [task for task in request["tasks"] if task not in request["done"]]
            for request in self.asked
            if "model" in request
        ]

    async def run_alone(
        self, script: Path, request: Mapping[str, Any], announce: Any, **_: Any
    ) -> dict[str, Any]:
        """As `fresh_process.run_alone`."""
        self.asked.append(dict(request))
        unknown = [name for name in request["tasks"] if name not in self.right]
        if unknown:
            return {"fault": f"unknown task '{unknown[0]}'"}
        if "model" not in request:
            keys = ("task", "num_samples", "definition")
            found = [task_result(self.right[name][0], name) for name in request["tasks"]]
            return {"tasks": [{k: each[k] for k in keys} for each in found], "lm_eval": "0.4.13"}
        for place, name in enumerate(request["tasks"]):
            if name in request["done"]:
                continue
            if name == self.failing:
                raise ProofError("lm-eval in transformers cannot open and run the saved model: no")
            turn = self._turns[name] = self._turns.get(name, -1) + 1
            result = task_result(self.right[name][turn], name)
            (Path(request["place"]) / f"{place}.json").write_text(json.dumps(result))
            if place == 0:  # the last line of a process may be lost
                announce("tasks evaluated", place + 1, len(request["tasks"]))
        return {}


def install(
    monkeypatch: pytest.MonkeyPatch, right: Mapping[str, Sequence[Sequence[int]]]
) -> LmEval:
    """Put the stand-in in place of fresh processes, as if lm-eval were installed."""
    module = ModuleType("lm_eval")
    module.__spec__ = ModuleSpec("lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval", module)
    found = LmEval(right)
    monkeypatch.setattr(task_evaluation, "run_alone", found.run_alone)
    return found
