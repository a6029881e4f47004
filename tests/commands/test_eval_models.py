"""The two models that ``birdbone eval`` compares: how both run, and which original it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_checkpoint
from tiny_folders import written

from birdbone.checkpoints import Checkpoint
from birdbone.commands.eval_models import model_pair
from birdbone.errors import MissingExtraError, ModelError, SettingError
from birdbone.models.evaluation.task_evaluation import LONGEST
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model


def folder(path: Path, positions: int, **more: Any) -> str:
    """A model with this context length."""
    return str(written(tiny_checkpoint(max_position_embeddings=positions, **more), path))


def record(model: str, source: str, **more: Any) -> None:
    steps = [{"link": "load", "settings": {"model": source, "dtype": "auto"}}]
    (Path(model) / "birdbone.json").write_text(json.dumps({"steps": steps, **more}))


@pytest.fixture
def light(tmp_path: Path) -> str:
    return folder(tmp_path / "light", 64, seed=1)


@pytest.mark.parametrize(("light_positions", "dense_positions"), [(64, 32), (32, 64)])
def test_both_have_the_room_of_the_shorter(
    tmp_path: Path, light_positions: int, dense_positions: int
) -> None:
    names = folder(tmp_path / "light", light_positions), folder(tmp_path / "dense", dense_positions)
    light, dense = model_pair(*names, batch_size=3)
    assert (light.name, dense.name) == names
    assert light.run == dense.run
    assert (light.run.max_length, light.run.batch_size) == (32, 3)
    assert not light.run.trust_remote_code


def test_prompts_are_no_longer_than_the_limit(tmp_path: Path) -> None:
    name = folder(tmp_path / "long", 2 * LONGEST)
    assert model_pair(name, name, batch_size=1)[0].run.max_length == LONGEST


def test_the_recorded_original_is_found(tmp_path: Path, light: str) -> None:
    dense = folder(tmp_path / "dense", 64)
    record(light, dense, dense=open_checkpoint(find_model(dense)).id)
    found = model_pair(light, None, batch_size=1)[1]
    assert found.name == dense
    assert found.source.folder == Path(dense)
    assert found.checkpoint is None


def test_an_original_that_is_given_need_not_be_the_recorded_one(tmp_path: Path, light: str) -> None:
    dense = folder(tmp_path / "dense", 64)
    record(light, dense, dense="d0" * 32)
    with pytest.raises(ModelError, match=r"its id is \w{12}, recorded d0d0d0d0d0d0; give --source"):
        model_pair(light, None, batch_size=1)
    assert model_pair(light, dense, batch_size=1)[1].name == dense


def test_an_original_that_is_not_found(light: str) -> None:
    record(light, "./gone")
    with pytest.raises(ModelError, match=r"was made from './gone', which is not found here"):
        model_pair(light, None, batch_size=1)
    with pytest.raises(ModelError, match=r"^model './away' not found"):
        model_pair(light, "./away", batch_size=1)


@pytest.mark.parametrize("content", [None, b"[", b"[1]", b"\xff", b"[" * 100_000, b"{}"])
def test_without_a_record_that_can_be_read_the_original_must_be_given(
    light: str, content: bytes | None
) -> None:
    if content is not None:
        (Path(light) / "birdbone.json").write_bytes(content)
    with pytest.raises(
        SettingError, match=r"has no birdbone.json that names .* give --source MODEL"
    ):
        model_pair(light, None, batch_size=1)


def test_an_original_in_gguf_runs_with_the_values_that_were_loaded(
    light: str, folders: Path, checkpoint: Checkpoint
) -> None:
    dense = model_pair(light, str(folders / "gguf" / "model.gguf"), batch_size=1)[1]
    assert dense.checkpoint is not None
    assert dense.checkpoint.id == open_checkpoint(dense.source).id
    assert not dense.in_llama_cpp


def test_a_light_model_in_gguf_needs_llama_cpp(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "xllamacpp", raising=False)
    with pytest.raises(MissingExtraError, match=r"birdbone\[llama\]"):
        model_pair(str(folders / "gguf" / "model.gguf"), str(folders / "dense"), batch_size=1)
