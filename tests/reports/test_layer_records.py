"""The record of each layer of a saved model."""

import torch
from tiny import tiny_checkpoint

from birdbone.checkpoints import Quantized
from birdbone.contexts.cost import Cost
from birdbone.contexts.steps import Step
from birdbone.reports.layer_records import layer_records

DOWN = "model.layers.1.mlp.down_proj"


def step(link: str, errors: dict[str, float]) -> Step:
    """A step that measured these errors."""
    return Step(link, {}, Cost(1.0, None, "process"), {"relative_errors": errors})


def test_each_matrix_has_its_shape_its_storage_and_its_latest_error() -> None:
    dense = tiny_checkpoint()
    codes = torch.zeros(32, 64, dtype=torch.int8)
    packed = Quantized(codes, torch.ones(32, 2), bits=4)
    checkpoint = dense.evolve({f"{DOWN}.weight": packed})
    history = [step("prune", {DOWN: 0.5}), step("quantize", {DOWN: 0.25})]
    found = {each["name"]: each for each in layer_records(checkpoint, history)}
    assert found[DOWN] == {
        "name": DOWN,
        "shape": [32, 64],
        "kind": "int4 in groups of 32",
        "bits_per_weight": 4 + 32 * 2 * 32 / (32 * 64),
        "relative_error": 0.25,
    }
    embedding = found["model.embed_tokens"]
    assert (embedding["kind"], embedding["bits_per_weight"]) == ("float32", 32)
    assert "relative_error" not in embedding
    assert "model.norm" not in found
