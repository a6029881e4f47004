"""Bytes of a context, counted by hand; what several hold counts once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint
from tiny_contexts import calibrated

from birdbone.checkpoints import Checkpoint
from birdbone.contexts.scores import LinearScore, Scores
from birdbone.contexts.verdict import Reference
from birdbone.links import profile, score
from birdbone.links.wave.context_bytes import context_bytes
from birdbone.models.blocks.linears import all_linears


def num_bytes(checkpoint: Checkpoint) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in checkpoint.tensors.values())


def test_a_model_counts_once_in_several_contexts_and_under_several_keys() -> None:
    model = tiny_checkpoint()
    assert context_bytes({"checkpoint": model, "dense": model}) == num_bytes(model)
    assert context_bytes({"checkpoint": model}, {"dense": model}) == num_bytes(model)


def test_of_a_changed_model_only_the_changed_tensor_counts_again() -> None:
    model = tiny_checkpoint()
    name = "model.layers.0.mlp.up_proj.weight"
    changed = model.evolve({name: torch.zeros(64, 32)})
    assert context_bytes({"dense": model, "checkpoint": changed}) == num_bytes(model) + 4 * 64 * 32


def test_hidden_states_and_scores_count_and_shared_tensors_once() -> None:
    hidden = torch.zeros(2, 16, 32, dtype=torch.bfloat16)
    reference = Reference("id", {"a": hidden, "b": hidden})
    scores = Scores("wanda", {"x": LinearScore(1.0, 0.0, 8)}, (1.0,), {"x": torch.zeros(2, 4)})
    assert context_bytes({"reference": reference}) == 2 * 2 * 16 * 32
    assert context_bytes({"reference": reference, "scores": scores}) == 2 * 2 * 16 * 32 + 4 * 8
    assert context_bytes({"scores": replace(scores, weights={})}) == 0


def test_plain_values_take_nothing() -> None:
    assert context_bytes({}, {"seed": 3, "name": "x" * 1000}) == 0


@pytest.mark.parametrize("settings", [{}, {"per_weight": True}])
def test_kept_scores_and_whole_moments_are_held(settings: dict[str, Any]) -> None:
    dense = tiny_checkpoint()
    ctx = calibrated(dense)
    bare = context_bytes(ctx)
    whole, scoring = profile(moments="full"), score(**settings)
    ctx.update(whole.factory.hooks.forecast(ctx, whole.settings).adds)
    moments = context_bytes(ctx)
    linears = all_linears(dense)
    assert moments - bare == sum(4 * each.shape[1] ** 2 for each in linears)
    ctx.update(scoring.factory.hooks.forecast(ctx, scoring.settings).adds)
    kept = sum(4 * each.shape[0] * each.shape[1] for each in linears) if settings else 0
    assert context_bytes(ctx) - moments == kept
