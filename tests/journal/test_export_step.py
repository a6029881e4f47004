"""What a step added as plain files: names, documents, tensors, masks, and what is refused."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from pathlib import Path
from typing import Any, TypedDict

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_checkpoint

from birdbone.checkpoints import Checkpoint
from birdbone.checkpoints.manifest import decode_manifest, encode_manifest
from birdbone.engine import Chain, link, run
from birdbone.errors import CheckpointError, RunFolderError, SettingError
from birdbone.journal import Journal, RunFolder
from birdbone.journal.export_step import export_step, masks


class Loaded(TypedDict):
    checkpoint: Checkpoint


UP = "model.layers.0.mlp.up_proj.weight"


@link
async def pruned(ctx: Loaded) -> dict[str, Any]:
    """A model with zeros, and values of every kind under keys that are no file names."""
    dense = ctx["checkpoint"]
    holed = torch.where(dense.tensors[UP] > 0, dense.tensors[UP], 0.0)
    return {
        "checkpoint": dense.evolve({UP: holed}),
        "plan": {"share": 0.5},
        "weights": torch.arange(3.0),
        "nested": {"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}, "list": (None, [holed])},
        "step": {"mine": torch.ones(2)},
        "../../up": [1.5, math.nan],
        "models": [dense],
    }


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pruned") / "run"
    ctx = {"checkpoint": tiny_checkpoint(num_hidden_layers=1)}
    with RunFolder(path) as store:
        asyncio.run(run(Chain(pruned()), ctx, store=store))
    return path


@pytest.fixture
def out(run_folder: Path, tmp_path: Path) -> Path:
    """Everything exported."""
    journal = Journal(run_folder)
    names = export_step(journal, journal.step(1), tmp_path / "deep" / "out")
    assert names == sorted(path.name for path in (tmp_path / "deep" / "out").iterdir())
    return tmp_path / "deep" / "out"


def document(path: Path) -> Any:
    return json.loads(path.read_text())


def test_every_key_but_the_model_has_its_files(out: Path) -> None:
    assert sorted(path.name for path in out.iterdir()) == [
        "..%2F..%2Fup.json",
        "masks.safetensors",
        "models.json",
        "nested.json",
        "nested.safetensors",
        "plan.json",
        "step-key.json",
        "step-key.safetensors",
        "step.json",
        "weights.json",
        "weights.safetensors",
    ]
    assert sorted(path.name for path in out.parent.iterdir()) == ["out"]


def test_the_record_of_the_step_is_a_document(run_folder: Path, out: Path) -> None:
    assert document(out / "step.json") == Journal(run_folder).step(1).step.as_dict()
    assert document(out / "step.json")["link"] == "pruned"


def test_values_are_plain_json(out: Path) -> None:
    assert document(out / "plan.json") == {"share": 0.5}
    assert document(out / "..%2F..%2Fup.json") == [1.5, "nan"]
    assert document(out / "weights.json") == {"dtype": "float32", "shape": [3]}
    assert document(out / "models.json") == [tiny_checkpoint(num_hidden_layers=1).id]


def test_no_tensor_is_lost_under_the_path_of_another(out: Path) -> None:
    found = load_file(out / "nested.safetensors")
    assert found.keys() == {"a.b", "a.b~2", "list.1.0"}
    assert {float(found[name]) for name in ("a.b", "a.b~2")} == {0.0, 1.0}
    assert found["list.1.0"].shape == (64, 32)
    assert torch.equal(load_file(out / "weights.safetensors")["weights"], torch.arange(3.0))


def test_masks_tell_which_weights_are_not_zero(run_folder: Path, out: Path) -> None:
    found = load_file(out / "masks.safetensors")
    dense = tiny_checkpoint(num_hidden_layers=1)
    assert torch.equal(found[UP], dense.tensors[UP] > 0)
    assert len(found) == 7  # every linear of the block, and neither norms nor embeddings
    assert all(mask.dtype == torch.bool for mask in found.values())
    journal = Journal(run_folder)
    assert masks(journal, journal.step(1)).keys() == found.keys()


def test_a_step_without_a_plan_has_no_masks(journal: Journal, tmp_path: Path) -> None:
    assert export_step(journal, journal.step(4), tmp_path / "out") == [
        "sizes.json", "sizes.safetensors", "step.json",
    ]  # fmt: skip


def test_an_empty_folder_is_filled_and_others_are_refused(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert export_step(journal, journal.step(1), tmp_path / "empty") == ["seed.json", "step.json"]
    (tmp_path / "file").write_text("mine")
    for taken in ("empty", "file"):
        with pytest.raises(SettingError, match=f"{taken}' exists already; give the path of a new"):
            export_step(journal, journal.step(2), tmp_path / taken)
    assert (tmp_path / "file").read_text() == "mine"


def test_damage_leaves_nothing_behind(run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    journal = Journal(tmp_path / "run")
    path = journal.outcome_path(journal.step(1).key)
    content = decode_manifest(path.read_bytes())
    path.write_bytes(encode_manifest({**content, "added": [["plan", {"map": [["a"]]}]]}))
    with pytest.raises(
        RunFolderError, match=r"what the step added as 'plan' is damaged \(ValueError.*recreate it$"
    ):
        export_step(journal, journal.step(1), tmp_path / "out")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run"]


def test_a_missing_tensor_is_named(journal: Journal, tmp_path: Path) -> None:
    shutil.rmtree(journal.path / "objects")
    with pytest.raises(CheckpointError, match=r"the store lacks .*\.safetensors"):
        export_step(journal, journal.step(4), tmp_path / "out")
    assert not (tmp_path / "out").exists()
