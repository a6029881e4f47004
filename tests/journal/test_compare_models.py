"""Differences between two models: figures by hand, and what models are read from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_checkpoint
from tiny_folders import quantized, written
from torch import Tensor

from birdbone.checkpoints import Checkpoint, InMemory
from birdbone.errors import BirdboneError, ModelError, RunFolderError
from birdbone.journal import Journal
from birdbone.journal.compare_models import ModelComparison, Side, compare_models, model_of

INFINITE, NAN = float("inf"), float("nan")


def side(tensors: dict[str, Tensor], values: str = "", **more: Any) -> Side:
    """A model of a few tensors; with ``values``, all are read as values of that format."""
    refs = {name: InMemory(tensor) for name, tensor in tensors.items()}
    made = Checkpoint(more.pop("config", {}), refs, **more)
    return Side(made, dict.fromkeys(refs, values) if values else {}, made.num_bytes)


def compared(first: dict[str, Tensor], second: dict[str, Tensor]) -> ModelComparison:
    return compare_models(side(first), side(second))


def test_a_changed_tensor_has_its_figures() -> None:
    before = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    after = torch.tensor([[3.0, 0.0], [0.0, 3.0]])
    (change,) = compared({"w": before}, {"w": after.bfloat16()}).changed
    assert change.name == "w"
    assert change.relative == pytest.approx(1 / 5)
    assert change.greatest == 1.0
    assert change.zeros == (0.5, 0.5)
    assert change.shapes == ((2, 2), (2, 2))
    assert change.kinds == ("float32", "bfloat16")


def test_other_shapes_have_no_distance() -> None:
    (change,) = compared({"w": torch.ones(2, 2)}, {"w": torch.zeros(2, 3)}).changed
    assert (change.relative, change.greatest) == (None, None)
    assert (change.shapes, change.zeros) == (((2, 2), (2, 3)), (0.0, 1.0))


def test_a_first_tensor_of_zeros_has_no_relative_distance() -> None:
    (change,) = compared({"w": torch.zeros(2)}, {"w": torch.tensor([0.0, -2.0])}).changed
    assert (change.relative, change.greatest) == (None, 2.0)


@pytest.mark.parametrize("value", [NAN, INFINITE, -INFINITE])
@pytest.mark.parametrize("swap", [False, True])
def test_what_is_not_finite_has_no_distance_and_is_json(value: float, swap: bool) -> None:
    models = [{"w": torch.ones(3)}, {"w": torch.tensor([1.0, value, 1.0])}]
    found = compared(*reversed(models) if swap else models)
    (change,) = found.changed
    assert (change.relative, change.greatest) == (None, None)
    json.dumps(found.as_dict(), allow_nan=False)


def test_an_empty_tensor_of_another_dtype_did_not_move() -> None:
    (change,) = compared({"w": torch.ones(0)}, {"w": torch.ones(0).half()}).changed
    assert (change.relative, change.greatest, change.zeros) == (None, 0.0, (1.0, 1.0))


def test_tensors_files_and_config_of_one_side_are_listed() -> None:
    same = torch.ones(2)
    first = side({"a": same, "b": same}, config={"x": 1, "y": 2}, files={"f": b"1", "g": b"1"})
    second = side({"a": same, "c": same}, config={"x": 1, "y": 3, "z": 0}, files={"f": b"2"})
    found = compare_models(first, second)
    assert (found.changed, found.added, found.removed, found.num_same) == ((), ("c",), ("b",), 1)
    assert found.config == {"y": (2, 3), "z": (None, 0)}
    assert found.files == ("f", "g")
    assert found.parameters == (4, 4)
    assert found.num_bytes == (16, 16)


def test_changes_keep_the_order_of_the_second_model() -> None:
    ones, twos = torch.ones(2), torch.ones(2) * 2
    found = compared({"a": ones, "b": ones, "c": ones}, {"c": twos, "a": twos, "b": ones})
    assert [change.name for change in found.changed] == ["c", "a"]


NAMES = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2), max_size=4)


@given(NAMES, NAMES)
def test_every_tensor_counts_once(first: dict[str, int], second: dict[str, int]) -> None:
    tensors = [{n: torch.full((2,), float(v)) for n, v in each.items()} for each in (first, second)]
    found = compared(*tensors)
    assert found.num_same == sum(second.get(name) == value for name, value in first.items())
    assert found.num_same + len(found.changed) + len(found.added) == len(second)
    assert found.num_same + len(found.changed) + len(found.removed) == len(first)


def test_equal_values_of_another_format_are_the_same_tensor() -> None:
    weight = torch.tensor([0.5, -1.0])
    stored, read = side({"w": weight.half()}), side({"w": weight}, values="gguf")
    for pair in ((stored, read), (read, stored)):
        assert compare_models(*pair).num_same == 1
    other = side({"w": weight * 2}, values="gguf")
    (change,) = compare_models(stored, other).changed
    assert change.kinds == ("float16", "gguf")


def test_keys_that_reading_fills_in_do_not_differ() -> None:
    first = side({}, config={"dtype": "float16", "_name_or_path": "a", "width": 1})
    second = side({"w": torch.ones(1)}, values="gguf", config={"dtype": "float32", "width": 2})
    assert compare_models(first, second).config == {"width": (1, 2)}
    dense = replace(second, read_as_values={})
    assert compare_models(first, dense).config == {
        "dtype": ("float16", "float32"),
        "width": (1, 2),
    }


def test_a_step_of_a_run_is_its_model(journal: Journal) -> None:
    found = model_of(f"{journal.path}:3")
    assert found.checkpoint.id == journal.checkpoint(journal.step(3)).id
    assert (found.read_as_values, found.num_bytes) == ({}, found.checkpoint.num_bytes)
    with pytest.raises(RunFolderError, match="has no step 9; it has 1, 2, 3, 4"):
        model_of(f"{journal.path}:9")
    with pytest.raises(RunFolderError, match=r"step 1 \(begin\) comes before a model is loaded"):
        model_of(f"{journal.path}:1")


def test_a_folder_is_read_as_it_is_stored(tmp_path: Path) -> None:
    light = quantized(tiny_checkpoint(num_hidden_layers=1))
    found = model_of(str(written(light, tmp_path / "light")))
    assert found.checkpoint.id == light.id
    assert found.read_as_values == {}


@pytest.mark.parametrize("text", ["nowhere/at/all", "nowhere:5", "", "./none.gguf"])
def test_nothing_there_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BirdboneError, match=r"not found|not") as caught:
        model_of(text)
    assert isinstance(caught.value, ModelError)
