"""The record of a worst window, which a program of its own and the model in memory both fill."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict
from pathlib import Path

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows

from birdbone.models.evaluation import measure_folder
from birdbone.models.evaluation.scoring import Comparison
from birdbone.models.writing.folder import write_model
from birdbone.texts.worst_windows import WORST, WorstWindow


def test_the_program_that_measures_a_folder_names_as_many(tmp_path: Path) -> None:
    """It imports nothing of bird-bone, so that count and entries are written down there again."""
    for seed, name in enumerate(("dense", "light")):
        (tmp_path / name).mkdir()
        write_model(tiny_checkpoint(seed=seed), tmp_path / name, max_shard_bytes=1 << 30)
    request = {
        "folder": str(tmp_path / "light"),
        "dense": str(tmp_path / "dense"),
        "tokens": tiny_windows(WORST + 2, 8).tokens.tolist(),
        "elsewhere": None,
        "compare": True,
        "dtype": "float32",
        "device": "cpu",
        "prefill_tokens": 4,
        "decode_tokens": 1,
        "repeats": 1,
        "trust_remote_code": False,
        "prompts": [],
        "sample_tokens": 1,
    }
    named = json.loads(json.dumps(measure_folder.measure(request)["worst"]["heldout"]))
    found = [WorstWindow(**each) for each in named]
    assert len(found) == WORST
    assert [asdict(each) for each in found] == named
    assert all(1 <= each.position < 8 for each in found)


@pytest.mark.parametrize("windows", [1, WORST + 2])
def test_a_comparison_in_memory_names_as_many(windows: int) -> None:
    kl = torch.rand(windows, 4, generator=torch.Generator().manual_seed(0)).double()
    found = Comparison(kl, kl, kl, 1.0).worst_windows()
    assert len(found) == min(windows, WORST)
    assert all(isinstance(each, WorstWindow) for each in found)


def test_a_window_cannot_be_changed() -> None:
    window = WorstWindow(window=0, mean_kl=0.1, rise=0.2, position=5)
    with pytest.raises(FrozenInstanceError):
        window.rise = 0.0  # type: ignore[misc]
