"""A fresh process runs under a memory limit: hostile configs end in one sentence, honest pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import VOCAB, tiny_checkpoint, tiny_windows
from tiny_folders import for_bitsandbytes, quantized, written

from birdbone.errors import ProofError, SettingError
from birdbone.models.evaluation import memory_limit as limits
from birdbone.models.evaluation.fresh_process import Probe, measure_folders
from birdbone.models.evaluation.memory_limit import FACTOR, SPARE_BYTES, VARIABLE, memory_limit
from birdbone.models.evaluation.proof import prove


def request(folder: Path, **more: Any) -> dict[str, Any]:
    return {"folder": str(folder), "device": "cpu", **more}


def changed(folder: Path, **keys: Any) -> Path:
    """The folder with another config."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tiny_checkpoint(), tmp_path / "model")


def test_the_limit_follows_from_the_weights(folder: Path, tmp_path: Path) -> None:
    size = (folder / "model.safetensors").stat().st_size
    one = memory_limit(request(folder))
    two = memory_limit(request(folder, dense=str(folder)))
    assert one is not None
    assert two is not None
    assert one.num_bytes == SPARE_BYTES + FACTOR * size
    assert two.num_bytes == SPARE_BYTES + FACTOR * 2 * size
    parts = [str(folder / "model.safetensors")] * 3
    assert memory_limit(request(tmp_path, parts=parts)).num_bytes == (  # type: ignore[union-attr]
        SPARE_BYTES + FACTOR * 3 * size
    )


def test_it_is_no_more_than_the_machine_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FACTOR", 10**12)
    found = memory_limit(request(folder))
    assert found is not None
    assert found.derived_from == "that the machine has"


def test_there_is_none_on_a_gpu(folder: Path) -> None:
    assert memory_limit(request(folder, device="cuda:0")) is None


def test_the_environment_sets_another(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "7.5")
    found = memory_limit(request(folder))
    assert found is not None
    assert found.num_bytes == 7_500_000_000
    assert f"7.5 GB of memory, the limit set by {VARIABLE}" in str(found)
    monkeypatch.setenv(VARIABLE, "0")
    assert memory_limit(request(folder)) is None
    for words in ("lots", "-1", "nan", "inf"):
        monkeypatch.setenv(VARIABLE, words)
        with pytest.raises(SettingError, match=f"{VARIABLE}='{words}' is no number of GB"):
            memory_limit(request(folder))


async def opens(folder: Path) -> str | None:
    """Why a fresh process does not open the folder; None if it does."""
    found = await prove(folder)
    check = next(each for each in found.checks if each.name == "opens")
    return None if check.holds else check.words


def huge(folder: Path) -> Path:
    """A folder whose config asks for 275 GB of embeddings that its files do not hold."""
    weights = load_file(folder / "model.safetensors")
    fewer = {name: each for name, each in weights.items() if len(each) != VOCAB}
    save_file(fewer, folder / "model.safetensors", metadata={"format": "pt"})
    return changed(folder, vocab_size=2**31)


async def test_a_hostile_config_ends_in_one_sentence(folder: Path) -> None:
    said = await opens(huge(folder))
    assert said is not None
    assert "it needs more than 4.0 GB of memory, the limit derived from" in said
    assert said.endswith(f"set {VARIABLE} to more GB")


async def test_other_shapes_than_the_config_asks_for_are_named(folder: Path) -> None:
    said = await opens(changed(folder, vocab_size=2**40))
    assert said is not None
    assert said.endswith("its files hold tensors of other shapes than its config asks for")


@pytest.mark.parametrize("layers", [200, 10**9])
async def test_more_layers_than_tensors_start_no_process(folder: Path, layers: int) -> None:
    said = await opens(changed(folder, num_hidden_layers=layers))
    assert said is not None
    assert f"config.json asks for {layers} layers of a model of" in said


async def test_measuring_has_the_limit_too(folder: Path) -> None:
    probe = Probe(tiny_windows(2).tokens, torch.float32)
    with pytest.raises(ProofError, match=r"needs more than 4\.0 GB of memory, the limit derived"):
        await measure_folders(huge(folder), None, probe, lambda *_: None)


async def test_what_is_set_is_what_the_process_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "0.000001")
    said = await opens(folder)
    assert said is not None
    assert f"the limit set by {VARIABLE}" in said


@pytest.mark.parametrize(
    "arch",
    ["llama_tied", *(pytest.param(arch, marks=pytest.mark.slow) for arch in ("mixtral", "gpt2"))],
)
async def test_honest_folders_pass(arch: str, tmp_path: Path) -> None:
    assert await opens(written(tiny_checkpoint(arch), tmp_path / "model")) is None


async def test_quantised_folders_pass(tmp_path: Path) -> None:
    assert await opens(written(quantized(tiny_checkpoint()), tmp_path / "packed")) is None
    pytest.importorskip("bitsandbytes")
    wide = tiny_checkpoint(hidden_size=64, head_dim=16)
    assert await opens(written(for_bitsandbytes(wide, "nf4"), tmp_path / "nf4")) is None
