"""Records of a refused model, and the conditions of the figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows

from birdbone.errors import GateError, ProofError
from birdbone.links.saving.records import conditions, keep_refused
from birdbone.models.evaluation.fresh_process import Measurement, Probe


def context() -> Any:
    checkpoint = tiny_checkpoint()
    return {"checkpoint": checkpoint, "dense": checkpoint, "heldout": tiny_windows(3)}


def written(place: Path) -> Path:
    folder = place / ".light.partial"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize("kind", [ProofError, GateError])
def test_the_refused_model_is_beside_the_target_with_the_reason(kind: Any, tmp_path: Path) -> None:
    error = keep_refused(context(), written(tmp_path), tmp_path / "light", kind("far off"))
    assert type(error) is kind
    aside = tmp_path / "light.refused"
    assert str(error) == (
        f"far off; nothing was published. The refused model is kept for inspection in {aside}"
    )
    record = json.loads((aside / "birdbone.json").read_text())
    assert record["refused"] == "far off"
    assert record["figures"] == {}
    assert record["files"].keys() == {"model.safetensors"}


def test_a_name_somebody_else_has_is_left_to_them(tmp_path: Path) -> None:
    theirs = tmp_path / "light.refused"
    theirs.mkdir()
    (theirs / "letter.txt").write_text("refused")
    folder = written(tmp_path)
    error = keep_refused(context(), folder, tmp_path / "light", ProofError("far off"))
    assert "is not kept, because light.refused exists and was not made" in str(error)
    assert [path.name for path in theirs.iterdir()] == ["letter.txt"]
    assert folder.is_dir()  # removed by whoever made it


def test_conditions_name_texts_windows_and_dtype() -> None:
    texts = {"heldout": tiny_windows(3), "elsewhere": tiny_windows(2, 24, text="other words")}
    probe = Probe(tokens=None, dtype=torch.bfloat16, prefill_tokens=8, decode_tokens=4)
    found = conditions(Measurement({}, {"device": "cpu"}), probe, texts)
    assert found == {
        "text": "tiny words",
        "windows": "3 of 16 tokens",
        "elsewhere": "other words",
        "elsewhere_windows": "2 of 24 tokens",
        "speed": "8 tokens read, 4 decoded, one sequence",
        "dtype": "bfloat16",
        "device": "cpu",
    }
