"""A folder is verified against its record and its source, or what differs is named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint
from tiny_folders import written

from birdbone.contexts.cost import Cost
from birdbone.contexts.steps import Step
from birdbone.errors import CheckpointError
from birdbone.models.evaluation.proof import Proof
from birdbone.models.evaluation.verification import verify
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model
from birdbone.models.writing.publishing import PROVENANCE, files_of
from birdbone.reports.provenance import provenance

DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The original model."""
    return written(tiny_checkpoint(), tmp_path / "source")


@pytest.fixture
def light(source: Path, tmp_path: Path) -> Path:
    """A folder with one linear changed, and its record."""
    original = open_checkpoint(find_model(str(source)))
    changed = original.evolve({DOWN: torch.zeros(32, 64)})
    folder = written(changed, tmp_path / "light")
    cost = Cost(1.0, None, "process")
    history = [Step("load", {"model": "source", "dtype": "auto"}, cost), Step("prune", {}, cost)]
    size = (folder / "model.safetensors").stat().st_size
    record = provenance(
        checkpoint=changed,
        dense=original,
        history=history,
        texts={},
        figures={"light": {"weight_bytes": size}},
        measured_on={},
        files=files_of(folder),
    )
    (folder / PROVENANCE).write_text(json.dumps(record))
    return folder


def rewritten(folder: Path, **more: Any) -> None:
    """Change keys of the record."""
    path = folder / PROVENANCE
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def failed(proof: Proof) -> dict[str, str]:
    """The checks that fail, with their words."""
    return {check.name: check.words for check in proof.failed}


def states(proof: Proof) -> dict[str, bool | None]:
    """Whether each check holds."""
    return {check.name: check.holds for check in proof.checks}


def test_a_sound_folder_agrees_with_its_source(light: Path, source: Path) -> None:
    found = states(verify(light, str(source)))
    named = {name: found[name] for name in ("files", "steps", "source", "tokenizer", "config")}
    assert named == dict.fromkeys(named, True)


def test_without_a_source_it_says_what_was_not_compared(light: Path) -> None:
    proof = verify(light)
    assert states(proof)["source"] is None
    assert not proof.failed


def test_a_step_changed_later_is_named(light: Path) -> None:
    steps = json.loads((light / PROVENANCE).read_text())["steps"]
    steps[1]["settings"] = {"sparsity": 0.1}
    rewritten(light, steps=steps)
    assert failed(verify(light)) == {
        "steps": "the record was changed after saving, first at step 'prune'"
    }


def test_a_checksum_changed_with_its_file_is_named(light: Path) -> None:
    files = json.loads((light / PROVENANCE).read_text())["files"]
    files["config.json"]["sha256"] = "0" * 64
    rewritten(light, files=files)
    found = failed(verify(light))
    assert found["steps"] == "the record was changed after saving, first at the list of files"
    assert "config.json has another checksum" in found["files"]


def test_another_original_is_named(light: Path, tmp_path: Path) -> None:
    other = written(tiny_checkpoint(seed=5), tmp_path / "other")
    assert "the record says" in failed(verify(light, str(other)))["source"]


def test_a_record_of_an_earlier_version_has_no_chain(light: Path) -> None:
    rewritten(light, chain=None)
    assert states(verify(light))["steps"] is None


def test_a_damaged_record_is_an_error_not_a_crash(light: Path) -> None:
    rewritten(light, steps="none")
    assert "steps" in failed(verify(light))
    (light / PROVENANCE).write_text("[]")
    assert states(verify(light)).items() >= {"record": False, "steps": None}.items()


def test_another_tokenizer_and_a_lost_file_are_named(light: Path, source: Path) -> None:
    name = "tokenizer.json"
    (light / name).write_text((light / name).read_text() + " ")
    (light / "tokenizer_config.json").unlink()
    words = failed(verify(light, str(source)))["tokenizer"]
    assert "tokenizer.json is not that of the source" in words
    assert "tokenizer_config.json is missing" in words


def test_a_config_key_that_no_step_changes_is_named(light: Path, source: Path) -> None:
    path = light / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    assert "rms_norm_eps is 0.5, the source has" in failed(verify(light, str(source)))["config"]


def test_sizes_may_differ_only_after_pruning(light: Path, source: Path) -> None:
    path = light / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "intermediate_size": 60}))
    assert "config" not in failed(verify(light, str(source)))
    steps = json.loads((light / PROVENANCE).read_text())["steps"]
    rewritten(light, steps=steps[:1])
    assert "intermediate_size is 60" in failed(verify(light, str(source)))["config"]


def test_what_is_no_folder_of_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not a folder with a config\.json"):
        verify(tmp_path)
