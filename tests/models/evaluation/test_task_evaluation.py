"""A saved folder scored by lm-eval itself in a fresh process."""

from __future__ import annotations

import asyncio
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint
from tiny_folders import written
from transformers import AutoModelForCausalLM, AutoTokenizer

from birdbone.contexts.task_scores import task_scores
from birdbone.models.evaluation.task_evaluation import TaskChoice, TaskRun, evaluate_folder

TASKS = Path(__file__).parents[2] / "tasks"
LIMIT = 6


def test_a_folder_is_scored_by_lm_eval_itself(tmp_path: Path) -> None:
    """End to end in a fresh process; the perplexity against the model's own logits."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed; pip install 'birdbone[eval]'")
    folder = written(tiny_checkpoint(max_position_embeddings=512), tmp_path / "model")
    found: list[Any] = []
    told: list[Any] = []
    asyncio.run(
        evaluate_folder(
            folder,
            TaskChoice(("birdbone_arithmetic", "birdbone_prose"), (TASKS,), LIMIT),
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
