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
    found = {each["name"]: each for each in layer_records(checkpoint, dense, history)}
    assert found[DOWN] == {
        "name": DOWN,
        "shape": [32, 64],
        "kind": "int4 in groups of 32",
        "bits_per_weight": 4 + 32 * 2 * 32 / (32 * 64),
        "relative_error": 0.25,
    }
    embedding = found["model.embed_tokens"]
    assert (embedding["kind"], embedding["bits_per_weight"]) == ("float32", 32)
    assert embedding.keys() == {"name", "shape", "kind", "bits_per_weight"}
    assert "model.norm" not in found


def test_sensitivity_is_recorded_where_a_step_estimated_it() -> None:
    dense = tiny_checkpoint()
    found = Step("sensitivity", {}, Cost(1.0, None, "process"), {"sensitivities": {DOWN: 0.02}})
    entries = {each["name"]: each for each in layer_records(dense, dense, [found])}
    assert [name for name, each in entries.items() if "sensitivity" in each] == [DOWN]
    assert entries[DOWN]["sensitivity"] == 0.02


def test_widths_are_recorded_once_a_matrix_is_smaller_than_the_original() -> None:
    dense = tiny_checkpoint()
    name = f"{DOWN}.weight"
    narrow = dense.evolve({name: dense.tensors[name][:, :48].clone()})
    found = {each["name"]: each for each in layer_records(narrow, dense, [])}
    assert found[DOWN]["width"] == 0.75
    assert found["model.layers.0.mlp.down_proj"]["width"] == 1


def test_scales_per_block_are_recorded_as_such() -> None:
    dense = tiny_checkpoint()
    codes = torch.zeros(32, 64).to(torch.float8_e4m3fn)
    made = Quantized(codes, torch.ones(2, 4), bits=8, input_activations="fp8", block_size=16)
    entries = layer_records(dense.evolve({f"{DOWN}.weight": made}), dense, [])
    (kind,) = {each["kind"] for each in entries if each["name"] == DOWN}
    assert kind == "fp8 in blocks of 16 by 16, fp8 inputs"
